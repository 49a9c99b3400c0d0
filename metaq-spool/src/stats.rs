//! The statistics of a spool.

use metaq_producer::{Partition, Topic};

/// The counts of a spool since it was opened.
///
/// Of messages that were offered, `offered = stored + spooled + failed + in_flight`. Of those in the folder,
/// `recovered + spooled = replayed + waiting + set_aside + dropped + damaged`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolStats {
    /// Messages that were offered.
    pub offered: u64,
    /// Messages that a broker stored without having been spooled.
    pub stored: u64,
    /// Messages that were spooled.
    pub spooled: u64,
    /// Messages that ended with an error: they are neither stored nor spooled, or that is unknown.
    pub failed: u64,
    /// Messages that were offered, and have no outcome yet.
    pub in_flight: u64,
    /// Messages that an earlier process had spooled, and that waited when the folder was opened, or were
    /// missing then.
    pub recovered: u64,
    /// Spooled messages that a broker has stored.
    pub replayed: u64,
    /// Messages that wait to be replayed.
    pub waiting: u64,
    /// Bytes of these in the folder.
    pub waiting_bytes: u64,
    /// Messages that were set aside.
    pub set_aside: u64,
    /// Messages that were dropped, being too old or in the way of newer ones.
    pub dropped: u64,
    /// Messages whose part of the file can't be read any more.
    pub damaged: u64,
    /// Messages in the folder that were set aside, also by earlier processes.
    pub held_aside: u64,
    /// Bytes of these.
    pub held_aside_bytes: u64,
    /// Replayed messages that may be stored twice, since an earlier process was killed: it may have replayed
    /// them, and not removed them from the folder. An upper bound.
    pub maybe_duplicates: u64,
    /// Attempts to replay a message whose outcome was unknown, and that were followed by another. Each may
    /// have stored its message.
    pub unknown_attempts: u64,
    /// Damaged files that were set aside, also when the folder was opened. What is known to be missing since
    /// then is in [`damaged`](Self::damaged); of a file of which nothing could be read, that isn't known.
    pub files_set_aside: u64,
    /// Whether the process that used the folder before closed it. Set for a new folder.
    pub was_closed: bool,
    /// The queues that hold messages.
    pub queues: Vec<QueueStats>,
}

/// A queue that holds messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// The topic.
    pub topic: Topic,
    /// The partition that its messages are for, if they name one.
    pub partition: Option<Partition>,
    /// Messages that wait to be replayed, those included that are being written.
    pub waiting: u64,
    /// Why it could not be replayed the last time; none while it is replayed.
    pub failing: Option<String>,
}
