//! The folder of a spool without its producer.

mod edit;
mod lookup;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use metaq_producer::{Message, Partition, Topic};

use self::edit::Edit;
use crate::{
    SpoolId,
    error::OpenError,
    lock::FolderLock,
    record::{self, SetAside},
    storage::{
        open_folder,
        rows::{QueueRow, StateRow},
        writer::open::find,
    },
    store::{self, Key, Limit, Rows, Store},
};

/// The rows that are read or changed at a time.
const PORTION: Limit = Limit { rows: 1024, bytes: 4 << 20 };

/// The folder of a spool while no producer uses it: to look at what it holds, to export and to drop messages.
///
/// Its methods block while they read and write.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = metaq_spool::SpoolFolder::open("/var/spool/orders")?;
/// for queue in folder.queues() {
///     println!("{}: {} messages", queue.topic, queue.messages);
///     for message in folder.messages(&queue) {
///         println!("{}", message?.id);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct SpoolFolder {
    path: PathBuf,
    store: Box<dyn Store>,
    state: StateRow,
    queues: Vec<(u32, QueueRow)>,
    set_aside: u64,
    /// The file must be read again before it is changed.
    is_stale: bool,
    _lock: FolderLock,
}

/// A queue in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FolderQueue {
    /// The topic.
    pub topic: Topic,
    /// The partition that its messages are for, if they name one.
    pub partition: Option<Partition>,
    /// The number of messages that wait.
    pub messages: u64,
    /// The bytes that they take.
    pub bytes: u64,
    id: u32,
    first: u64,
}

/// A message in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpooledMessage {
    /// Its number.
    pub id: SpoolId,
    /// The message, or why it can't be read.
    pub message: Result<Message, String>,
    /// The time at which it was spooled; the epoch when it can't be read.
    pub spooled_at: SystemTime,
    /// The reason why it was set aside; none while it waits.
    pub set_aside: Option<SetAsideReason>,
    key: Key,
    bytes: u64,
}

/// The reason why a message was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAsideReason {
    /// The reason.
    pub reason: String,
    /// The number of times that a broker refused it.
    pub attempts: u32,
    /// When it was set aside.
    pub at: SystemTime,
    queue: u32,
}

impl SpoolFolder {
    /// Opens a folder, which must exist and hold a spool. Nothing is made in another one.
    ///
    /// # Errors
    /// When a process uses the folder, which the error names, it holds no spool, or it can't be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, OpenError> {
        let folder = folder.as_ref();
        Self::ensure_exists(folder)?;
        let (lock, store, found, _) = open_folder(folder, true, false)?;
        Ok(Self {
            path: folder.to_owned(),
            store,
            state: found.state,
            queues: found.queues,
            set_aside: found.held_aside,
            is_stale: false,
            _lock: lock,
        })
    }

    /// The queues that hold messages, in the order of their topics and partitions.
    #[must_use]
    pub fn queues(&self) -> Vec<FolderQueue> {
        let filled = self.queues.iter().filter(|(_, row)| row.messages > 0);
        let mut queues: Vec<_> = filled
            .map(|(id, row)| FolderQueue {
                topic: row.key.topic.clone(),
                partition: row.key.partition,
                messages: row.messages,
                bytes: row.bytes,
                id: *id,
                first: row.first,
            })
            .collect();
        queues.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        queues
    }

    /// The number of messages that were set aside.
    #[must_use]
    pub fn set_aside_count(&self) -> u64 {
        self.set_aside
    }

    /// The messages of a queue in their order. An error ends them.
    pub fn messages(
        &self,
        queue: &FolderQueue,
    ) -> impl Iterator<Item = io::Result<SpooledMessage>> + use<'_> {
        let queue_id = queue.id;
        self.rows(queue.first, move |from| Key::messages(queue_id, from)).map(|row| {
            let (key, row) = row?;
            let bytes = row.len() as u64;
            Ok(waiting(key, row, bytes))
        })
    }

    /// The messages that were set aside, in the order in which they were spooled. An error ends them.
    pub fn set_aside(&self) -> impl Iterator<Item = io::Result<SpooledMessage>> + use<'_> {
        self.rows(0, Key::all_set_aside).map(|row| {
            let (key, row) = row?;
            let bytes = row.len() as u64;
            Ok(aside(key, &row, bytes))
        })
    }

    fn rows(
        &self,
        first: u64,
        range: impl Fn(u64) -> std::ops::Range<Key>,
    ) -> impl Iterator<Item = io::Result<(Key, Vec<u8>)>> {
        let mut from = Some(first);
        let mut portion = Rows::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(row) = portion.next() {
                    return Some(Ok(row));
                }
                let start = from.take()?;
                match self.store.scan(range(start), PORTION) {
                    Ok(rows) => {
                        from = rows.last().map(|(key, _)| key.number + 1);
                        portion = rows.into_iter();
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Removes messages for good, waiting or set aside, and returns the number of those that were there. They
    /// are removed a thousand at a time: an error may leave some removed.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn remove(&mut self, messages: impl IntoIterator<Item = SpooledMessage>) -> io::Result<u64> {
        let mut messages = messages.into_iter().peekable();
        let mut removed = 0;
        while messages.peek().is_some() {
            let some: Vec<_> = messages.by_ref().take(PORTION.rows).collect();
            removed += self.apply(&some, false)?;
        }
        Ok(removed)
    }

    /// Has messages that were set aside wait again, at their old places in their queues, and returns their
    /// number. What waits already, was removed, or can't be read, is left as it is.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn put_back(&mut self, messages: impl IntoIterator<Item = SpooledMessage>) -> io::Result<u64> {
        let is_meant = |message: &SpooledMessage| message.set_aside.is_some() && message.message.is_ok();
        let meant: Vec<_> = messages.into_iter().filter(is_meant).collect();
        let mut put_back = 0;
        for some in meant.chunks(PORTION.rows) {
            put_back += self.apply(some, true)?;
        }
        Ok(put_back)
    }

    /// Removes messages, or puts them back, all or none of those that are there; returns their number.
    fn apply(&mut self, messages: &[SpooledMessage], puts_back: bool) -> io::Result<u64> {
        if self.is_stale {
            self.reload()?;
        }
        let mut edit = Edit::new(self.state, self.queues.clone());
        for message in messages {
            if !edit.seen.contains(&message.key) && store::get(&*self.store, message.key)?.is_some() {
                edit.seen.insert(message.key);
                edit.remove(message);
                if let (true, Some(reason), Ok(body)) = (puts_back, &message.set_aside, &message.message) {
                    edit.put_back(message, reason.queue, body);
                }
            }
        }
        let count = edit.seen.len() as u64;
        if let Err(error) = self.store.commit(&edit.changes()) {
            // It may have been applied in spite of the error, and not be on the disk.
            self.is_stale = self.reload().is_err();
            return Err(error);
        }
        (self.state, self.queues) = (edit.state, edit.queues);
        self.set_aside = self.set_aside.saturating_sub(edit.from_aside);
        Ok(count)
    }

    /// Reads the file again after an error.
    fn reload(&mut self) -> io::Result<()> {
        self.store.reopen()?;
        let found = find(&*self.store)?;
        (self.state, self.queues, self.set_aside) = (found.state, found.queues, found.held_aside);
        self.is_stale = false;
        Ok(())
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn at(time: Duration) -> SystemTime {
    UNIX_EPOCH.checked_add(time).unwrap_or(UNIX_EPOCH)
}

fn waiting(key: Key, row: Vec<u8>, bytes: u64) -> SpooledMessage {
    let (message, time) = match record::decode(row) {
        Ok(record) => (Ok(record.message), record.time),
        Err((_, error)) => (Err(error.to_string()), Duration::ZERO),
    };
    SpooledMessage { id: SpoolId(key.number), message, spooled_at: at(time), set_aside: None, key, bytes }
}

fn aside(key: Key, row: &[u8], bytes: u64) -> SpooledMessage {
    let unreadable = |error: String| SetAside {
        queue: 0,
        reason: format!("unknown, as its row is damaged: {error}"),
        attempts: 0,
        time: Duration::ZERO,
        row: Vec::new(),
    };
    let SetAside { queue, reason, attempts, time, row } =
        SetAside::decode(row).unwrap_or_else(|error| unreadable(error.to_string()));
    let reason = SetAsideReason { reason, attempts, at: at(time), queue };
    SpooledMessage { set_aside: Some(reason), ..waiting(key, row, bytes) }
}

impl std::fmt::Debug for SpoolFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolFolder")
            .field("path", &self.path)
            .field("queues", &self.queues())
            .finish_non_exhaustive()
    }
}
