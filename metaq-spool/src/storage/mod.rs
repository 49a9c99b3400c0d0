//! The folder of a spool: a thread that owns the store, and handles of it.

pub(crate) mod inbox;
pub(crate) mod index;
pub(crate) mod ledger;
pub(crate) mod rows;
pub(crate) mod salvage;
pub(crate) mod writer;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use metaq_producer::Message;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use self::{
    inbox::{Append, Finished, Inbox, Placed, Request, Stored},
    index::{Index, Queue},
    ledger::Ledger,
    writer::{Writer, open},
};
use crate::{
    SpoolId,
    clock::Clock,
    error::{OpenError, OpenErrorKind, SpoolSendError, SpoolSendErrorKind},
    events::{EventSender, SpoolEvent, contain},
    lock::{FolderLock, LockError},
    options::{Fsync, SpoolOptions, WhenFull},
    record::{self, QueueKey},
    store::{Limit, Store, disk::DiskStore},
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
}

/// Messages that are being read.
pub(crate) type Reading = oneshot::Receiver<io::Result<Stored>>;

/// A message that is being written.
pub(crate) struct Pending {
    answer: oneshot::Receiver<Result<SpoolId, String>>,
    message: Message,
}

impl Storage {
    /// Opens the folder. Blocks while it reads.
    pub(crate) fn open(options: &SpoolOptions) -> Result<Self, OpenError> {
        options.validate()?;
        let folder = &options.folder;
        let (lock, store, renamed) = open_folder(folder, options.fsync != Fsync::Never, true)?;
        let storage = Self::start(options, store, Some(lock))?;
        if let Some(Renamed { path, reason, salvaged }) = renamed {
            storage.common.events.send_opening(SpoolEvent::FileSetAside { path, reason, salvaged });
        }
        Ok(storage)
    }

    /// Begins to work with a store.
    pub(crate) fn start(
        options: &SpoolOptions,
        store: Box<dyn Store>,
        lock: Option<FolderLock>,
    ) -> Result<Self, OpenError> {
        let folder = &options.folder;
        let (common, writer) = Self::prepare(options, store)?;
        let shared = Arc::clone(&common);
        let run = move || {
            // Whatever happens to the writer, no caller waits for it in vain.
            let end = EndOfWriter(shared);
            writer.run();
            drop((end, lock));
        };
        let thread = std::thread::Builder::new().name("metaq-spool".to_owned()).spawn(run);
        let thread = thread.map_err(|error| OpenError::io(folder, "starting its thread", error))?;
        Ok(Self { common, thread: Mutex::new(Some(thread)) })
    }

    /// Begins to work with a store on a task, which the clock of the runtime drives.
    #[cfg(test)]
    pub(crate) fn start_on_task(
        options: &SpoolOptions,
        store: Box<dyn Store>,
        round: impl Fn() -> Duration + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (common, writer) = Self::prepare(options, store)?;
        let end = EndOfWriter(Arc::clone(&common));
        tokio::spawn(async move {
            writer.run_on_task(round).await;
            drop(end);
        });
        Ok(Self { common, thread: Mutex::new(None) })
    }

    /// Reads what an earlier process has left, and marks the folder as in use.
    fn prepare(
        options: &SpoolOptions,
        mut store: Box<dyn Store>,
    ) -> Result<(Arc<Common>, Writer), OpenError> {
        let folder = &options.folder;
        let mut found = open::find(&*store).map_err(|error| read_failed(folder, error))?;
        let united = found.unite_queues(&mut *store);
        united.map_err(|error| OpenError::io(folder, "uniting its queues", error))?;
        let (index, queues) = found.index();
        let common = Arc::new(Common {
            inbox: Inbox::default(),
            index,
            ledger: Ledger::new(options),
            events: EventSender::default(),
            clock: Clock::start(options.wall_clock, found.state.times),
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
        let window = options.replay_window as u64;
        let writer = Writer::start(store, Arc::clone(&common), found, queues, window)
            .map_err(|error| OpenError::io(folder, "writing to it", error))?;
        Ok((common, writer))
    }

    /// Hands a message to the writer once that has slots for it. Messages of a queue are stored in the order
    /// in which these calls return.
    pub(crate) async fn submit(&self, message: Message) -> Result<Pending, SpoolSendError> {
        self.submit_after(message, || ()).await
    }

    /// The same; `before` is called just before it is handed over, or fails to be.
    pub(crate) async fn submit_after(
        &self,
        message: Message,
        before: impl FnOnce(),
    ) -> Result<Pending, SpoolSendError> {
        let row = record::encode(&message, self.common.clock.now());
        let slots = Inbox::slots_of(&row);
        let has_slots = self.common.inbox.take_slots(slots).await;
        before();
        if !has_slots {
            return Err(closed(message));
        }
        self.push(message, row, slots)
    }

    /// Hands a message to the writer if that has slots for it.
    pub(crate) fn try_submit(&self, message: Message) -> Result<Pending, SpoolSendError> {
        let row = record::encode(&message, self.common.clock.now());
        let slots = Inbox::slots_of(&row);
        if !self.common.inbox.try_take_slots(slots) {
            let text = "as much waits to be written as there is memory for; wait with send or enqueue";
            return Err(SpoolSendError::new(SpoolSendErrorKind::Full, text, message));
        }
        self.push(message, row, slots)
    }

    fn push(&self, message: Message, row: Vec<u8>, slots: u32) -> Result<Pending, SpoolSendError> {
        let common = &self.common;
        let bytes = row.len() as u64;
        if let Err(refused) = common.ledger.reserve(bytes) {
            common.inbox.give_slots(slots as usize);
            if refused.is_new {
                common.events.send(SpoolEvent::Full);
            }
            let text = format!("{}; raise it, or have brokers reachable", refused.text);
            return Err(SpoolSendError::new(SpoolSendErrorKind::Full, text, message));
        }
        let queue = common.index.find_or_make(&QueueKey::of(&message));
        let is_first = queue.add();
        let (sender, answer) = oneshot::channel();
        let append = Append { queue: Arc::clone(&queue), row, slots, answer: sender };
        if common.inbox.push(Request::Append(append)).is_err() {
            common.ledger.release(1, bytes);
            queue.remove(1);
            return Err(closed(message));
        }
        if is_first {
            let QueueKey { topic, partition } = queue.key.clone();
            common.events.send(SpoolEvent::Filling { topic, partition });
        }
        Ok(Pending { answer, message })
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

    /// Moves messages of a queue to others. Those that the writer doesn't come to any more stay where they are.
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
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // It has no result, and a panic was reported where it happened.
            let _ = thread.join();
        }
        self.common.events.close();
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pending {
    /// Waits until the message is stored as durably as the options say.
    pub(crate) async fn outcome(self) -> Result<SpoolId, SpoolSendError> {
        let message = self.message;
        match self.answer.await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(text)) => {
                let text = format!("writing it failed: {text}; see to the disk, and send it again");
                Err(SpoolSendError::new(SpoolSendErrorKind::Store, text, message))
            }
            // The thread has panicked while it had the message.
            Err(_) => {
                let text = "the thread that writes has ended, and may have written it; open the spool again";
                Err(SpoolSendError::unknown(SpoolSendErrorKind::Store, text, message.topic()))
            }
        }
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

fn closed(message: Message) -> SpoolSendError {
    SpoolSendError::new(SpoolSendErrorKind::Closed, "the spool was closed", message)
}

fn read_failed(folder: &Path, error: io::Error) -> OpenError {
    if error.kind() == io::ErrorKind::Unsupported {
        let text = format!("it can't be read: {error}; use the version of metaq that wrote it");
        return OpenError::new(OpenErrorKind::Version, folder, text);
    }
    OpenError::io(folder, "reading it", error)
}

/// A file that was set aside.
pub(crate) struct Renamed {
    path: PathBuf,
    reason: String,
    /// The messages that were saved.
    salvaged: u64,
}

/// A folder that is locked, its store, and the file that was set aside for that.
type Opened = (FolderLock, Box<dyn Store>, Option<Renamed>);

/// Locks the folder and opens its file. One that is damaged as a whole is renamed, and a new one takes its
/// place, with the messages that could be saved, if `replaces_damaged` is set.
pub(crate) fn open_folder(
    folder: &Path,
    is_forced: bool,
    replaces_damaged: bool,
) -> Result<Opened, OpenError> {
    fs::create_dir_all(folder).map_err(|error| OpenError::io(folder, "making the folder", error))?;
    let lock = FolderLock::acquire(folder).map_err(|error| match error {
        LockError::InUse(pid) => OpenError::in_use(folder, pid),
        LockError::Io(error) => OpenError::io(folder, "locking it", error),
    })?;
    let usable = || {
        let store = DiskStore::open(folder, is_forced)?;
        open::find(&store).map(|_| store)
    };
    match usable() {
        Ok(store) => Ok((lock, Box::new(store), None)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData && !replaces_damaged => {
            let text = format!("its file is damaged: {error}; a producer saves what it can when it opens it");
            Err(OpenError::new(OpenErrorKind::Io, folder, text))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let path = DiskStore::set_damaged_file_aside(folder)
                .map_err(|error| OpenError::io(folder, "renaming its damaged file", error))?;
            let mut store = DiskStore::open(folder, is_forced)
                .map_err(|error| OpenError::io(folder, "making a new file in it", error))?;
            let salvaged = match DiskStore::open_damaged(&path) {
                Ok(damaged) => salvage::salvage(&damaged, &mut store)
                    .map_err(|error| OpenError::io(folder, "saving messages of its damaged file", error))?,
                // Nothing of it can be read.
                Err(_) => 0,
            };
            Ok((lock, Box::new(store), Some(Renamed { path, reason: error.to_string(), salvaged })))
        }
        Err(error) => Err(read_failed(folder, error)),
    }
}
