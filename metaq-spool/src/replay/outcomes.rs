//! What becomes of the messages of one queue that is replayed.

use std::sync::Arc;

use metaq_producer::{Message, SendError, SendErrorKind, SendReceipt};

use super::attempts::Attempts;
use crate::{
    SpoolId,
    classify::{Failure, classify_replayed},
    events::{SpoolEvent, contain, queue_name},
    record::{self, QueueKey, Record},
    shared::Shared,
    storage::{
        inbox::{Fate, Finished, Placed},
        index::Queue,
    },
};

/// As many acknowledged messages are removed together at least, while there are more.
const REMOVALS: usize = 256;

/// The outcomes of attempts, and the removals that follow from them.
pub(super) struct Outcomes<'a> {
    shared: &'a Shared,
    queue: &'a Arc<Queue>,
    pub(super) attempts: Attempts,
    finished: Vec<Finished>,
    to_place: Vec<Placed>,
    /// The last message was set aside: it has left the order once that is on the disk.
    was_set_aside: bool,
    pub(super) failure: Option<String>,
    pub(super) has_progress: bool,
}

impl<'a> Outcomes<'a> {
    pub(super) fn new(shared: &'a Shared, queue: &'a Arc<Queue>, attempts: Attempts) -> Self {
        Self {
            shared,
            queue,
            attempts,
            finished: Vec::new(),
            to_place: Vec::new(),
            was_set_aside: false,
            failure: None,
            has_progress: false,
        }
    }

    /// A message is about to be sent, set aside or moved.
    pub(super) fn begin(&mut self) {
        self.was_set_aside = false;
    }

    /// Returns whether as many messages could be sent twice as may be, of which `in_flight` are in flight. In
    /// order, one that was set aside is not to come back behind the next one.
    pub(super) fn is_window_full(&self, in_flight: usize) -> bool {
        let here = (in_flight + self.finished.len() + self.to_place.len()) as u64;
        let all = here + self.queue.unremoved();
        let waits = self.was_set_aside && self.shared.options.ordered;
        all >= self.shared.options.replay_window as u64 || waits && all > 0
    }

    /// Returns whether enough messages are finished to be removed together.
    pub(super) fn are_enough(&self) -> bool {
        self.finished.len() >= REMOVALS.min(self.shared.options.replay_window / 4)
    }

    pub(super) fn stored(&mut self, number: u64, bytes: u64, message: &Message, receipt: &SendReceipt) {
        self.has_progress = true;
        self.shared.failing.clear(self.queue.id);
        self.attempts.stored(number);
        self.finished.push(Finished { number, bytes, fate: Fate::Replayed });
        if let Some(listener) = &self.shared.options.listener {
            contain(|| listener.replayed(SpoolId(number), message.topic(), receipt));
        }
    }

    pub(super) fn failed(&mut self, number: u64, bytes: u64, record: &Record, error: &SendError) {
        let is_pinned = record.message.partition().is_some();
        match classify_replayed(error, is_pinned) {
            // The program took it back from the producer, and not from the spool.
            _ if error.kind() == SendErrorKind::Purged => {}
            // Another partition may be there for the next one.
            Failure::Passing if !is_pinned && self.is_for_absent(&record.message) => {
                return self.place(number, bytes, record);
            }
            Failure::Passing => {}
            Failure::Unknown => {
                self.shared.storage.common.ledger.update(|counts| counts.unknown_attempts += 1);
            }
            Failure::ServerError => {
                if self.attempts.refused(number, self.shared.options.max_attempts) {
                    let row = record::encode(&record.message, record.time);
                    return self.set_aside(number, bytes, row, error.to_string());
                }
            }
            Failure::Final => return self.set_aside_refused(number, bytes, record, error),
        }
        if let Some(listener) = &self.shared.options.listener {
            let key = &self.queue.key;
            contain(|| listener.failed(SpoolId(number), &key.topic, key.partition, error));
        }
        self.failure.get_or_insert_with(|| error.to_string());
    }

    /// Returns whether the selector insists on a partition that is not connected.
    fn is_for_absent(&self, message: &Message) -> bool {
        let producer = &self.shared.producer;
        let connected = producer.partitions(message.topic());
        let chosen = producer.partition_for(message);
        !connected.is_empty() && chosen.is_ok_and(|partition| !connected.contains(&partition))
    }

    /// Moves a message to the queue of the partition that the selector chooses for it now.
    pub(super) fn place(&mut self, number: u64, bytes: u64, record: &Record) {
        let message = &record.message;
        match self.shared.producer.partition_for(message) {
            Ok(partition) => {
                let placed = message.clone().with_partition(partition);
                let row = record::encode(&placed, record.time);
                let queue = self.shared.storage.common.index.find_or_make(&QueueKey::of(&placed));
                // Before it has left this queue: those that are sent in order see it in one of them.
                if queue.add() {
                    let (topic, partition) = (message.topic().clone(), Some(partition));
                    self.shared.storage.common.events.send(SpoolEvent::Filling { topic, partition });
                }
                self.to_place.push(Placed { from: Arc::clone(self.queue), number, bytes, to: queue, row });
            }
            Err(error) => self.failed_to_be_placed(number, bytes, record, &error),
        }
    }

    fn failed_to_be_placed(&mut self, number: u64, bytes: u64, record: &Record, error: &SendError) {
        if classify_replayed(error, false) == Failure::Final {
            return self.set_aside_refused(number, bytes, record, error);
        }
        self.failure.get_or_insert_with(|| error.to_string());
    }

    /// Sets a message aside that is refused for good.
    fn set_aside_refused(&mut self, number: u64, bytes: u64, record: &Record, error: &SendError) {
        self.attempts.refused_for_good(number);
        let row = record::encode(&record.message, record.time);
        self.set_aside(number, bytes, row, error.to_string());
    }

    pub(super) fn set_aside(&mut self, number: u64, bytes: u64, row: Vec<u8>, reason: String) {
        let attempts = self.attempts.take(number);
        let (topic, partition) = (self.queue.key.topic.clone(), self.queue.key.partition);
        if let Some(listener) = &self.shared.options.listener {
            contain(|| listener.set_aside(SpoolId(number), &topic, partition, &reason));
        }
        tracing::debug!(
            id = number,
            queue = queue_name(&topic, partition),
            reason,
            "a message was set aside"
        );
        let event = SpoolEvent::SetAside { topic, partition, reason: reason.clone(), attempts };
        self.shared.storage.common.events.send(event);
        self.finished.push(Finished { number, bytes, fate: Fate::SetAside { reason, attempts, row } });
        self.was_set_aside = true;
    }

    pub(super) fn remove_finished(&mut self) {
        self.shared.storage.finish(self.queue, std::mem::take(&mut self.finished));
        self.shared.storage.place(self.queue, std::mem::take(&mut self.to_place));
    }
}
