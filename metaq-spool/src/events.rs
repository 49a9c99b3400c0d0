//! The events of a spool.

use std::{collections::HashMap, fmt, mem::Discriminant, path::PathBuf, time::Duration};

use metaq_producer::{Partition, Topic};
use parking_lot::Mutex;
use tokio::{sync::broadcast, time::Instant};

/// The number of events that wait for a reader; older ones are replaced by [`SpoolEvent::Missed`].
const CAPACITY: usize = 256;

/// As many lines of one kind of events are written to the log in this time.
const LINES: u32 = 20;
const LINES_IN: Duration = Duration::from_secs(10);

/// A change of what a spool holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SpoolEvent {
    /// A queue that was empty holds a message.
    #[non_exhaustive]
    Filling {
        /// The topic.
        topic: Topic,
        /// The partition that its messages are for, if they name one.
        partition: Option<Partition>,
    },
    /// A queue was replayed to its end, or its last messages were dropped or set aside.
    #[non_exhaustive]
    Emptied {
        /// The topic.
        topic: Topic,
        /// The partition that its messages are for, if they name one.
        partition: Option<Partition>,
    },
    /// A queue can't be replayed now, and is tried again. Reported again when the reason changes.
    #[non_exhaustive]
    ReplayFailed {
        /// The topic.
        topic: Topic,
        /// The partition that its messages are for, if they name one.
        partition: Option<Partition>,
        /// The reason.
        reason: String,
    },
    /// A message was refused for good, or is damaged, and was set aside.
    #[non_exhaustive]
    SetAside {
        /// The topic.
        topic: Topic,
        /// The partition that the message is for, if it names one.
        partition: Option<Partition>,
        /// The reason.
        reason: String,
        /// The number of attempts to replay it.
        attempts: u32,
    },
    /// Messages were dropped, since the spool was full or they were too old.
    #[non_exhaustive]
    Dropped {
        /// The topic.
        topic: Topic,
        /// The number of messages.
        count: u64,
        /// The reason.
        reason: DropReason,
    },
    /// A message was refused because the spool has reached a bound. Reported again after there was space.
    Full,
    /// Writing to the disk fails. Reported again after it has worked.
    #[non_exhaustive]
    StoreFailed {
        /// The error.
        reason: String,
    },
    /// A file that could not be opened was set aside, and a new one has the messages that could be saved.
    #[non_exhaustive]
    FileSetAside {
        /// Its new name.
        path: PathBuf,
        /// The reason why it could not be opened.
        reason: String,
        /// The number of messages that were saved.
        salvaged: u64,
    },
    /// Stored messages of a topic can't be read any more, and are skipped.
    #[non_exhaustive]
    Damaged {
        /// The topic.
        topic: Topic,
        /// The number of messages.
        count: u64,
    },
    /// The reader was so slow that this many events were dropped.
    Missed(u64),
}

/// The reason why spooled messages were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// The spool had reached a bound, and [`WhenFull::DropOldest`](crate::WhenFull::DropOldest) is set.
    Full,
    /// They had reached [`max_age`](crate::SpoolOptions::max_age).
    Age,
}

/// A queue as events and errors name it.
pub(crate) fn queue_name(topic: &Topic, partition: Option<Partition>) -> String {
    match partition {
        Some(partition) => format!("{topic}@{partition}"),
        None => topic.to_string(),
    }
}

impl fmt::Display for SpoolEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filling { topic, partition } => {
                write!(f, "messages of {} are spooled", queue_name(topic, *partition))
            }
            Self::Emptied { topic, partition } => {
                write!(f, "no message of {} is spooled any more", queue_name(topic, *partition))
            }
            Self::ReplayFailed { topic, partition, reason } => {
                write!(f, "messages of {} can't be replayed: {reason}", queue_name(topic, *partition))
            }
            Self::SetAside { topic, partition, reason, attempts } => {
                let name = queue_name(topic, *partition);
                write!(f, "a message of {name} was set aside after {attempts} attempts: {reason}")
            }
            Self::Dropped { topic, count, reason: DropReason::Full } => {
                write!(f, "{count} messages of {topic} were dropped: the spool is full")
            }
            Self::Dropped { topic, count, reason: DropReason::Age } => {
                write!(f, "{count} messages of {topic} were dropped: they are too old")
            }
            Self::Full => f.write_str("the spool is full"),
            Self::StoreFailed { reason } => write!(f, "the spool can't be written: {reason}"),
            Self::FileSetAside { path, reason, salvaged } => {
                let path = path.display();
                write!(
                    f,
                    "the spool's file can't be opened, and is now {path}: {reason}; {salvaged} messages were saved"
                )
            }
            Self::Damaged { topic, count } => write!(f, "{count} messages of {topic} can't be read"),
            Self::Missed(count) => write!(f, "{count} events missed"),
        }
    }
}

/// The events of a spool from the moment of [`SpoolingProducer::events`](crate::SpoolingProducer::events) on.
/// The first reader also receives that a file was set aside when the folder was opened.
///
/// At most 256 wait for their reader; a slower one receives the number that it
/// [missed](SpoolEvent::Missed), and never delays messages.
#[derive(Debug)]
pub struct SpoolEvents {
    /// The event of opening the folder, if this is the first reader.
    opening: Option<SpoolEvent>,
    receiver: broadcast::Receiver<SpoolEvent>,
}

impl SpoolEvents {
    /// Waits for the next event. None once the spool was closed, or its last clone dropped, and all events
    /// before that were returned.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<SpoolEvent> {
        if let Some(event) = self.opening.take() {
            return Some(event);
        }
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(SpoolEvent::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Sends events to all who have subscribed, and to the log.
#[derive(Debug)]
pub(crate) struct EventSender {
    sender: Mutex<Option<broadcast::Sender<SpoolEvent>>>,
    /// The event of opening the folder, before which nothing could subscribe, for the first reader.
    opening: Mutex<Option<SpoolEvent>>,
    lines: Mutex<HashMap<Discriminant<SpoolEvent>, Lines>>,
}

impl Default for EventSender {
    fn default() -> Self {
        let sender = Mutex::new(Some(broadcast::Sender::new(CAPACITY)));
        Self { sender, opening: Mutex::default(), lines: Mutex::default() }
    }
}

impl EventSender {
    pub(crate) fn subscribe(&self) -> SpoolEvents {
        let sender = self.sender.lock();
        let receiver = sender
            .as_ref()
            .map_or_else(|| broadcast::Sender::new(1).subscribe(), broadcast::Sender::subscribe);
        SpoolEvents { opening: self.opening.lock().take(), receiver }
    }

    /// Keeps an event of opening the folder for the first reader.
    pub(crate) fn send_opening(&self, event: SpoolEvent) {
        log(&event, 0);
        *self.opening.lock() = Some(event);
    }

    pub(crate) fn send(&self, event: SpoolEvent) {
        let left_out =
            self.lines.lock().entry(std::mem::discriminant(&event)).or_default().next(Instant::now());
        if let Some(left_out) = left_out {
            log(&event, left_out);
        }
        // Readers may be woken on this thread, whose wakers are anybody's code: not under the lock.
        let sender = self.sender.lock().clone();
        if let Some(sender) = sender {
            // There may be no reader.
            contain(|| drop(sender.send(event)));
        }
    }

    /// Ends the streams once they have returned what was sent before.
    pub(crate) fn close(&self) {
        let sender = self.sender.lock().take();
        contain(|| drop(sender));
        let left_out: u64 = self.lines.lock().drain().map(|(_, lines)| lines.left_out).sum();
        if left_out > 0 {
            contain(|| tracing::warn!("{left_out} lines about the spool were left out"));
        }
    }
}

/// The lines of one kind of events in the log.
#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    count: u32,
    left_out: u64,
}

impl Lines {
    /// Whether the next line is written, and how many were left out before it.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= LINES_IN) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        if self.count > LINES {
            self.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Runs code of others, whose panics are not ours.
pub(crate) fn contain(code: impl FnOnce()) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(code));
}

fn log(event: &SpoolEvent, left_out: u64) {
    if left_out > 0 {
        contain(|| tracing::warn!("{left_out} lines like the next one were left out"));
    }
    contain(|| match event {
        SpoolEvent::Filling { .. } | SpoolEvent::Emptied { .. } => tracing::info!("{event}"),
        SpoolEvent::Missed(_) => {}
        SpoolEvent::StoreFailed { .. } | SpoolEvent::FileSetAside { .. } | SpoolEvent::Damaged { .. } => {
            tracing::error!("{event}");
        }
        _ => tracing::warn!("{event}"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_some_lines_of_a_kind_and_counts_the_rest() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let written = (0..100).filter(|_| lines.next(now).is_some()).count();
        assert_eq!((written, lines.left_out), (LINES as usize, 100 - u64::from(LINES)));
        assert_eq!(lines.next(now + LINES_IN), Some(80));
        assert_eq!(lines.next(now + LINES_IN), Some(0));
    }

    #[tokio::test]
    async fn events_come_until_the_end_and_slow_readers_are_told() {
        let sender = EventSender::default();
        let (mut fast, mut slow) = (sender.subscribe(), sender.subscribe());
        sender.send(SpoolEvent::Full);
        assert_eq!(fast.next().await.unwrap().to_string(), "the spool is full");
        (0..CAPACITY).for_each(|_| sender.send(SpoolEvent::Full));
        assert!(matches!(slow.next().await, Some(SpoolEvent::Missed(1))));
        sender.close();
        sender.send(SpoolEvent::Full);
        for _ in 0..CAPACITY {
            assert!(matches!(slow.next().await, Some(SpoolEvent::Full)));
        }
        assert!(slow.next().await.is_none());
        assert!(sender.subscribe().next().await.is_none());
    }
}
