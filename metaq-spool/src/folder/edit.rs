//! Changes of a folder, put together from messages that are removed or put back.

use std::{collections::HashSet, time::UNIX_EPOCH};

use metaq_producer::Message;

use super::SpooledMessage;
use crate::{
    record::{self, QueueKey},
    storage::rows::{QueueRow, StateRow},
    store::{Change, Key},
};

/// A change of a folder that is being put together.
pub(super) struct Edit {
    pub(super) state: StateRow,
    pub(super) queues: Vec<(u32, QueueRow)>,
    changes: Vec<Change>,
    pub(super) seen: HashSet<Key>,
    pub(super) from_aside: u64,
}

impl Edit {
    pub(super) fn new(state: StateRow, queues: Vec<(u32, QueueRow)>) -> Self {
        let state = StateRow { serial: state.serial + 1, ..state };
        Self { state, queues, changes: Vec::new(), seen: HashSet::new(), from_aside: 0 }
    }

    pub(super) fn remove(&mut self, message: &SpooledMessage) {
        let SpooledMessage { key, bytes, .. } = message;
        self.changes.push(Change::Remove(*key));
        if message.set_aside.is_some() {
            self.from_aside += 1;
        } else if let Some((_, row)) = self.queues.iter_mut().find(|(queue, _)| *queue == key.queue) {
            row.messages = row.messages.saturating_sub(1);
            row.bytes = row.bytes.saturating_sub(*bytes);
        }
    }

    /// Has a message wait that came from the queue with the number `old`, if there is no other one for it.
    pub(super) fn put_back(&mut self, message: &SpooledMessage, old: u32, body: &Message) {
        let number = message.id.0;
        let time = message.spooled_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let row = record::encode(body, time);
        let key = QueueKey::of(body);
        // Its queue may have been emptied, forgotten, and made again with another number.
        let at = self.queues.iter().position(|(_, row)| row.key == key).unwrap_or_else(|| {
            let is_taken = self.queues.iter().any(|(queue, _)| *queue == old);
            let queue = if is_taken { self.state.next_queue } else { old };
            self.state.next_queue = self.state.next_queue.max(queue + 1);
            self.queues.push((queue, QueueRow::new(key, number)));
            self.queues.len() - 1
        });
        let (queue, of_queue) = &mut self.queues[at];
        of_queue.messages += 1;
        of_queue.bytes += row.len() as u64;
        of_queue.first = of_queue.first.min(number);
        of_queue.end = of_queue.end.max(number + 1);
        self.changes.push(Change::Put(Key::message(*queue, number), row));
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        let rows = self.queues.iter().map(|(id, row)| Change::Put(Key::queue(*id), row.encode()));
        let state = Change::Put(Key::STATE, self.state.encode());
        self.changes.iter().cloned().chain(rows).chain([state]).collect()
    }
}
