//! The settings of a spool.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use metaq_producer::{Partition, SendError, SendReceipt, Topic};

use crate::{SpoolId, error::OpenError};

/// The settings of a spool.
///
/// ```
/// use metaq_spool::{Fsync, SpoolOptions, WhenFull};
///
/// let mut options = SpoolOptions::new("/var/spool/orders");
/// options.fsync = Fsync::Never;
/// options.max_bytes = 1 << 30;
/// options.when_full = WhenFull::DropOldest;
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct SpoolOptions {
    /// The folder of the spool, which is made with those above it when it doesn't exist. One process can use
    /// it at a time.
    pub folder: PathBuf,
    /// How durable a message is when it is reported as spooled. Default [`Fsync::Each`].
    pub fsync: Fsync,
    /// The most messages that the folder may hold, those that were set aside included. Default 10,000,000.
    pub max_messages: u64,
    /// The most bytes of messages that the folder may hold, those that were set aside included: payloads,
    /// attributes and keys, and about 40 bytes and the topic's name for each. Those that are set aside take
    /// some more, with the reason. The file takes up to twice as much. Default 4 GiB.
    pub max_bytes: u64,
    /// The age at which a message is dropped instead of replayed, and counted. Default none.
    pub max_age: Option<Duration>,
    /// What happens to a message for which there is no space. Default [`WhenFull::Refuse`].
    pub when_full: WhenFull,
    /// Whether messages are spooled that may be stored already: those that were written, and whose answer
    /// didn't come. They may then be stored twice. Default `false`: they end with an error whose outcome is
    /// unknown.
    pub spool_unknown: bool,
    /// Whether messages are spooled that a broker refused with status 500. It may be an error that passes, as
    /// a full disk, or one that doesn't. Default `false`.
    pub spool_server_errors: bool,
    /// Whether messages are stored in each partition in the order in which they were offered: one live
    /// message is in flight in each at a time, and while the spool holds one, those that come later are
    /// spooled behind it. The selector chooses the partition when a message is offered. Keys stay in their
    /// partitions through outages if the topic's partitions are
    /// [configured](metaq_producer::ProducerConfig::partitions). Default `false`.
    pub ordered: bool,
    /// The most messages in a second that are replayed, all queues together. Default none: replay takes what
    /// live messages leave, with [`replay_window`](Self::replay_window) messages of each queue in flight.
    pub replay_rate: Option<u32>,
    /// The number of messages of one queue that are replayed and not yet removed from the folder. As many can
    /// be sent twice when the program is killed. They are in flight at the same time, except with
    /// [`ordered`](Self::ordered). Default 2048.
    pub replay_window: usize,
    /// The number of times that a spooled message is refused with status 500 or 401 before it is set aside,
    /// as far as that says something about the message: while nothing of its queue is stored, only the first
    /// three messages are set aside so, and one more every five minutes. Other refusals that don't pass set
    /// it aside at once. Default 5.
    pub max_attempts: u32,
    pub(crate) listener: Option<Arc<dyn ReplayListener>>,
    /// The time of day, which tests replace.
    pub(crate) wall_clock: fn() -> SystemTime,
}

/// How durable a message is when it is reported as [spooled](crate::Sent::Spooled).
///
/// In each case it survives the end of the process at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fsync {
    /// It is on the disk. What came while the disk was written is written together the next time.
    Each,
    /// It is on the disk, which is written once in this time at most: a message waits for that to be
    /// reported.
    Interval(Duration),
    /// It is with the operating system. When the machine loses its power, the spool may be lost as a whole;
    /// the file is then set aside when the spool is opened.
    Never,
}

/// What happens to a message for which the spool has no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It is refused.
    Refuse,
    /// It takes the place of the oldest ones, which are dropped and counted.
    DropOldest,
}

/// Receives what becomes of each message that was spooled.
///
/// The methods are called on the task that replays, and delay it. Panics in them are contained.
pub trait ReplayListener: Send + Sync {
    /// A spooled message is stored. It may be reported again by another process if this one ends before the
    /// message is removed from the folder.
    fn replayed(&self, id: SpoolId, topic: &Topic, receipt: &SendReceipt) {
        let _ = (id, topic, receipt);
    }

    /// A spooled message was refused for good, or is damaged, and was set aside.
    fn set_aside(&self, id: SpoolId, topic: &Topic, partition: Option<Partition>, reason: &str) {
        let _ = (id, topic, partition, reason);
    }

    /// An attempt to send a spooled message has failed, and the message waits for another one. `partition`
    /// is the one that it names.
    fn failed(&self, id: SpoolId, topic: &Topic, partition: Option<Partition>, error: &SendError) {
        let _ = (id, topic, partition, error);
    }
}

impl SpoolOptions {
    /// The default settings for a spool in this folder.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self {
            folder: folder.as_ref().to_owned(),
            fsync: Fsync::Each,
            max_messages: 10_000_000,
            max_bytes: 4 << 30,
            max_age: None,
            when_full: WhenFull::Refuse,
            spool_unknown: false,
            spool_server_errors: false,
            ordered: false,
            replay_rate: None,
            replay_window: 2048,
            max_attempts: 5,
            listener: None,
            wall_clock: SystemTime::now,
        }
    }

    /// Has a listener receive what becomes of each message that was spooled.
    #[must_use]
    pub fn listener(mut self, listener: Arc<dyn ReplayListener>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Names the first setting with which nothing could be done.
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let zero = [
            ("max_messages", self.max_messages == 0),
            ("max_bytes", self.max_bytes == 0),
            ("max_age", self.max_age == Some(Duration::ZERO)),
            ("replay_rate", self.replay_rate == Some(0)),
            ("replay_window", self.replay_window == 0),
            ("max_attempts", self.max_attempts == 0),
            ("fsync", self.fsync == Fsync::Interval(Duration::ZERO)),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(OpenError::setting(&self.folder, name, "must be greater than zero")),
            None if self.replay_window > MAX_WINDOW => {
                Err(OpenError::setting(&self.folder, "replay_window", "is more than 65,536"))
            }
            None => Ok(()),
        }
    }

    /// The number of messages of a queue in flight.
    pub(crate) fn in_flight(&self) -> usize {
        if self.ordered { 1 } else { self.replay_window }
    }
}

/// A connection can't have more in flight.
const MAX_WINDOW: usize = 1 << 16;

impl fmt::Debug for SpoolOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolOptions")
            .field("folder", &self.folder)
            .field("fsync", &self.fsync)
            .field("max_messages", &self.max_messages)
            .field("max_bytes", &self.max_bytes)
            .field("max_age", &self.max_age)
            .field("when_full", &self.when_full)
            .field("spool_unknown", &self.spool_unknown)
            .field("spool_server_errors", &self.spool_server_errors)
            .field("ordered", &self.ordered)
            .field("replay_rate", &self.replay_rate)
            .field("replay_window", &self.replay_window)
            .field("max_attempts", &self.max_attempts)
            .field("listener", &self.listener.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let wrong = |change: fn(&mut SpoolOptions)| {
            let mut options = SpoolOptions::new("/s");
            assert!(options.validate().is_ok());
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        for (error, name) in [
            (wrong(|options| options.max_messages = 0), "max_messages"),
            (wrong(|options| options.max_bytes = 0), "max_bytes"),
            (wrong(|options| options.max_age = Some(Duration::ZERO)), "max_age"),
            (wrong(|options| options.replay_rate = Some(0)), "replay_rate"),
            (wrong(|options| options.replay_window = 0), "replay_window"),
            (wrong(|options| options.replay_window = 70_000), "65,536"),
            (wrong(|options| options.max_attempts = 0), "max_attempts"),
            (wrong(|options| options.fsync = Fsync::Interval(Duration::ZERO)), "fsync"),
        ] {
            assert!(error.contains(name), "{error}");
        }
    }
}
