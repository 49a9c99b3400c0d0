//! The folder of a spool without its producer.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use metaq_producer::{Message, Partition, Topic};

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
    store::{Change, Key, Limit, Rows, Store},
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
    /// When it was spooled; the epoch when it can't be read.
    pub spooled_at: SystemTime,
    /// Why it was set aside; none while it waits.
    pub set_aside: Option<SetAsideReason>,
    key: Key,
    bytes: u64,
}

/// Why a message was set aside.
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
    /// Opens a folder, which must exist.
    ///
    /// # Errors
    /// When a process uses the folder, which the error names, or it can't be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, OpenError> {
        let folder = folder.as_ref();
        if let Err(error) = std::fs::read_dir(folder) {
            return Err(OpenError::io(folder, "looking into it", error));
        }
        let (lock, store, _) = open_folder(folder, true)?;
        let found = find(&*store).map_err(|error| OpenError::io(folder, "reading it", error))?;
        Ok(Self {
            path: folder.to_owned(),
            store,
            state: found.state,
            queues: found.queues,
            set_aside: found.held_aside,
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

    /// Removes messages for good, waiting or set aside, and returns their number. Those that wait are removed
    /// a thousand at a time: an error may leave some removed.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn remove(&mut self, messages: impl IntoIterator<Item = SpooledMessage>) -> io::Result<u64> {
        let mut messages = messages.into_iter().peekable();
        let mut removed = 0;
        while messages.peek().is_some() {
            let some: Vec<_> = messages.by_ref().take(PORTION.rows).collect();
            self.apply(&some, false)?;
            removed += some.len() as u64;
        }
        Ok(removed)
    }

    /// Has messages that were set aside wait again, at their old places in their queues, and returns their
    /// number. What waits already, or can't be read, is left as it is.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn put_back(&mut self, messages: impl IntoIterator<Item = SpooledMessage>) -> io::Result<u64> {
        let is_meant = |message: &SpooledMessage| message.set_aside.is_some() && message.message.is_ok();
        let meant: Vec<_> = messages.into_iter().filter(is_meant).collect();
        for some in meant.chunks(PORTION.rows) {
            self.apply(some, true)?;
        }
        Ok(meant.len() as u64)
    }

    fn apply(&mut self, messages: &[SpooledMessage], puts_back: bool) -> io::Result<()> {
        let mut changes = Vec::new();
        let mut queues = self.queues.clone();
        let mut gone = 0;
        for SpooledMessage { key, bytes, set_aside, message, spooled_at, id } in messages {
            changes.push(Change::Remove(*key));
            let Some(SetAsideReason { queue, .. }) = set_aside else {
                if let Some((_, row)) = queues.iter_mut().find(|(queue, _)| *queue == key.queue) {
                    row.messages = row.messages.saturating_sub(1);
                    row.bytes = row.bytes.saturating_sub(*bytes);
                }
                continue;
            };
            gone += 1;
            if let (true, Ok(message)) = (puts_back, message) {
                let time = spooled_at.duration_since(UNIX_EPOCH).unwrap_or_default();
                let row = record::encode(message, time);
                let at = queues.iter().position(|(id, _)| id == queue).unwrap_or_else(|| {
                    queues.push((*queue, QueueRow::new(record::QueueKey::of(message), id.0)));
                    queues.len() - 1
                });
                let queue_row = &mut queues[at].1;
                queue_row.messages += 1;
                queue_row.bytes += row.len() as u64;
                queue_row.first = queue_row.first.min(id.0);
                queue_row.end = queue_row.end.max(id.0 + 1);
                changes.push(Change::Put(Key::message(*queue, id.0), row));
            }
        }
        let state = StateRow { serial: self.state.serial + 1, ..self.state };
        changes.extend(queues.iter().map(|(id, row)| Change::Put(Key::queue(*id), row.encode())));
        changes.push(Change::Put(Key::STATE, state.encode()));
        if let Err(error) = self.store.commit(&changes) {
            self.store.reopen()?;
            return Err(error);
        }
        (self.state, self.queues) = (state, queues);
        self.set_aside = self.set_aside.saturating_sub(gone);
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
