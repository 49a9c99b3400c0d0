//! Handing messages to the writer.

use std::sync::Arc;

use metaq_producer::Message;
use tokio::sync::oneshot;

use super::{
    Storage,
    inbox::{Append, Inbox, Request},
};
use crate::{
    SpoolId,
    error::{SpoolSendError, SpoolSendErrorKind},
    events::SpoolEvent,
    record::{self, QueueKey},
};

/// A message that is being written.
pub(crate) struct Pending {
    answer: oneshot::Receiver<Result<SpoolId, String>>,
    message: Message,
}

impl Storage {
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

fn closed(message: Message) -> SpoolSendError {
    SpoolSendError::new(SpoolSendErrorKind::Closed, "the spool was closed", message)
}
