//! The folder of a spool: a thread that owns the store, and handles of it.

pub(crate) mod inbox;
pub(crate) mod index;
pub(crate) mod ledger;
mod opening;
pub(crate) mod rows;
pub(crate) mod salvage;
mod submit;
pub(crate) mod writer;

use std::{
    io,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use self::{
    inbox::{Finished, Inbox, Placed, Request, Stored},
    index::{Index, Queue},
    ledger::Ledger,
    opening::{Renamed, take_up},
    writer::{Writer, open::Found},
};
pub(crate) use self::{opening::open_folder, submit::Pending};
use crate::{
    clock::Clock,
    error::OpenError,
    events::{EventSender, SpoolEvent, contain},
    lock::FolderLock,
    options::{Fsync, SpoolOptions, WhenFull},
    store::{Limit, Store},
};

/// What the writer shares with those who spool and replay.
pub(crate) struct Common {
    pub(crate) inbox: Inbox,
    pub(crate) index: Index,
    pub(crate) ledger: Ledger,
    pub(crate) events: EventSender,
    pub(crate) clock: Clock,
    /// Notified after each commit.
    pub(crate) changed: Notify,
    /// Notified when there is something new to replay.
    pub(crate) replay: Notify,
    pub(crate) fsync: Fsync,
    pub(crate) max_age: Option<Duration>,
    pub(crate) drops_oldest: bool,
    /// Whether the process that had the folder before has closed it; set for a new folder.
    pub(crate) was_closed: bool,
    /// Set when the writer has ended.
    pub(crate) ended: watch::Sender<bool>,
    /// The queues that are being replayed.
    pub(crate) replays: AtomicU64,
    /// Set when messages were replayed whose removal can't be handed over any more.
    pub(crate) lost_removals: AtomicBool,
}

impl Common {
    /// Whether the folder may hold messages that were replayed: not all removals came to the writer.
    pub(crate) fn may_repeat(&self) -> bool {
        self.replays.load(Ordering::Acquire) > 0 || self.lost_removals.load(Ordering::Acquire)
    }
}

/// Counts a queue as being replayed until [`end`](Self::end). Dropping it before that leaves it counted: what
/// was in flight may be stored.
pub(crate) struct Replaying(Arc<Common>);

impl Replaying {
    pub(crate) fn begin(common: &Arc<Common>) -> Self {
        common.replays.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(common))
    }

    /// All outcomes are known, and all removals handed over.
    pub(crate) fn end(self) {
        self.0.replays.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The storage of a spool. Dropping it writes what is pending, and closes the folder.
pub(crate) struct Storage {
    pub(crate) common: Arc<Common>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Who closes it meanwhile waits as well.
    joined: Once,
}

/// Messages that are being read.
pub(crate) type Reading = oneshot::Receiver<io::Result<Stored>>;

impl Storage {
    /// Opens the folder. Blocks while it reads.
    pub(crate) fn open(options: &SpoolOptions) -> Result<Self, OpenError> {
        options.validate()?;
        let folder = &options.folder;
        let (lock, store, found, renamed) = open_folder(folder, options.fsync != Fsync::Never, true)?;
        Self::start_found(options, store, Some(found), renamed, Some(lock))
    }

    /// Begins to work with a store.
    #[cfg(test)]
    pub(crate) fn start(
        options: &SpoolOptions,
        store: Box<dyn Store>,
        lock: Option<FolderLock>,
    ) -> Result<Self, OpenError> {
        Self::start_found(options, store, None, None, lock)
    }

    fn start_found(
        options: &SpoolOptions,
        store: Box<dyn Store>,
        found: Option<Found>,
        renamed: Option<Renamed>,
        lock: Option<FolderLock>,
    ) -> Result<Self, OpenError> {
        let folder = &options.folder;
        let (common, writer) = Self::prepare(options, store, found, renamed)?;
        let shared = Arc::clone(&common);
        let run = move || {
            // Whatever happens to the writer, no caller waits for it in vain.
            let end = EndOfWriter(shared);
            writer.run();
            drop((end, lock));
        };
        let thread = std::thread::Builder::new().name("metaq-spool".to_owned()).spawn(run);
        let thread = thread.map_err(|error| OpenError::io(folder, "starting its thread", error))?;
        Ok(Self { common, thread: Mutex::new(Some(thread)), joined: Once::new() })
    }

    /// Begins to work with a store on a task, which the clock of the runtime drives.
    #[cfg(test)]
    pub(crate) fn start_on_task(
        options: &SpoolOptions,
        store: Box<dyn Store>,
        round: impl Fn() -> Duration + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (common, writer) = Self::prepare(options, store, None, None)?;
        let end = EndOfWriter(Arc::clone(&common));
        tokio::spawn(async move {
            writer.run_on_task(round).await;
            drop(end);
        });
        Ok(Self { common, thread: Mutex::new(None), joined: Once::new() })
    }

    /// Reads what an earlier process has left, and marks the folder as in use.
    fn prepare(
        options: &SpoolOptions,
        mut store: Box<dyn Store>,
        found: Option<Found>,
        renamed: Option<Renamed>,
    ) -> Result<(Arc<Common>, Writer), OpenError> {
        let (found, clock, renamed_now) = take_up(options, &mut *store, found)?;
        let (index, queues) = found.index();
        let common = Arc::new(Common {
            inbox: Inbox::default(),
            index,
            ledger: Ledger::new(options),
            events: EventSender::default(),
            clock,
            changed: Notify::new(),
            replay: Notify::new(),
            fsync: options.fsync,
            max_age: options.max_age,
            drops_oldest: options.when_full == WhenFull::DropOldest,
            was_closed: found.was_closed != Some(false),
            ended: watch::Sender::new(false),
            replays: AtomicU64::new(0),
            lost_removals: AtomicBool::new(false),
        });
        let writer = Writer::new(store, Arc::clone(&common), &found, queues);
        for renamed in [renamed, renamed_now].into_iter().flatten() {
            common.ledger.update(|counts| counts.files_set_aside += 1);
            common.events.send_opening(renamed.into_event());
        }
        Ok((common, writer))
    }

    /// Asks for the first messages of a queue from a number on; none when the spool was closed.
    pub(crate) fn begin_read(&self, queue: &Arc<Queue>, from: u64, limit: Limit) -> Option<Reading> {
        let (sender, answer) = oneshot::channel();
        let request = Request::Read(Arc::clone(queue), from, limit, sender);
        self.common.inbox.push(request).is_ok().then_some(answer)
    }

    /// Removes messages that are not to be replayed again. Those that the writer doesn't come to any more are
    /// replayed again by the next process.
    pub(crate) fn finish(&self, queue: &Arc<Queue>, finished: Vec<Finished>) {
        if !finished.is_empty() {
            queue.begin_removal(finished.len() as u64);
            if self.common.inbox.push(Request::Finish(Arc::clone(queue), finished)).is_err() {
                self.common.lost_removals.store(true, Ordering::Release);
            }
        }
    }

    /// Moves messages of a queue to others. Those that the writer doesn't come to any more stay where they
    /// are.
    pub(crate) fn place(&self, queue: &Queue, placed: Vec<Placed>) {
        if !placed.is_empty() {
            queue.begin_removal(placed.len() as u64);
            // It is given back only while the spool ends.
            let _ = self.common.inbox.push(Request::Place(placed));
        }
    }

    /// Waits until what was handed over before is committed, or has failed.
    pub(crate) async fn flush(&self) {
        let (sender, answer) = oneshot::channel();
        if self.common.inbox.push(Request::Flush(sender)).is_ok() {
            let _ = answer.await;
        }
    }

    /// Writes what is pending, and closes the folder, also if the future is dropped.
    pub(crate) async fn end(&self) {
        self.common.inbox.close();
        let mut ended = self.common.ended.subscribe();
        // The sender is at hand.
        let _ = ended.wait_for(|ended| *ended).await;
        // All that is left of the thread is its end.
        self.close();
    }

    /// Writes what is pending, and closes the folder. Blocks meanwhile.
    pub(crate) fn close(&self) {
        self.common.inbox.close();
        self.joined.call_once(|| {
            let thread = self.thread.lock().take();
            if let Some(thread) = thread {
                // It has no result, and a panic was reported where it happened.
                let _ = thread.join();
            }
        });
        self.common.events.close();
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.close();
    }
}

/// Ends the inbox when the writer ends.
struct EndOfWriter(Arc<Common>);

impl Drop for EndOfWriter {
    fn drop(&mut self) {
        let has_panicked = std::thread::panicking();
        if has_panicked {
            let reason = "its thread has panicked; open the spool again".to_owned();
            self.0.events.send(SpoolEvent::StoreFailed { reason });
        }
        let unwritten = self.0.inbox.end();
        // Those that it was writing are lost to the account as well.
        let reserved = self.0.ledger.reserved();
        let unwritten = if has_panicked { reserved } else { unwritten };
        self.0.ledger.update(|counts| counts.unwritten += unwritten);
        contain(|| self.0.changed.notify_waiters());
        if !has_panicked {
            self.0.events.close();
        }
        contain(|| _ = self.0.ended.send_replace(true));
    }
}
