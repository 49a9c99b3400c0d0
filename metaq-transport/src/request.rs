//! The things that can be queued on a connection: any command, or a put that lies elsewhere.

use metaq_protocol::{Command, PutRef};

use crate::{CompletionToken, outbox::Outbox, slots::SlotKey};

/// About what the words of a put take besides its topic.
const PUT_WORDS: usize = 48;

/// A thing to be queued.
pub(crate) trait OutgoingRequest {
    /// The bytes that it counts for in the limit.
    fn bytes(&self) -> usize;

    /// Whether its answer may say where a message was stored.
    fn is_put(&self) -> bool;

    /// The listener for its end, and the token; none when a future awaits it.
    fn notify(&self) -> Option<CompletionToken<'_>>;

    fn push(&mut self, outbox: &mut Outbox, frame: u64, key: SlotKey);
}

impl OutgoingRequest for &mut Command {
    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    fn is_put(&self) -> bool {
        matches!(self, Command::Put(_))
    }

    fn notify(&self) -> Option<CompletionToken<'_>> {
        None
    }

    fn push(&mut self, outbox: &mut Outbox, frame: u64, key: SlotKey) {
        self.set_opaque(key.opaque());
        outbox.push(frame, self);
    }
}

/// A put of which somebody is told.
pub(crate) struct CompletionPut<'a, 'p>(pub(crate) &'a mut PutRef<'p>, pub(crate) CompletionToken<'a>);

impl OutgoingRequest for CompletionPut<'_, '_> {
    #[inline]
    fn bytes(&self) -> usize {
        // Of the header only what may be long: the exact figure takes longer than it is worth.
        self.0.data.len() + self.0.topic.len() + PUT_WORDS
    }

    #[inline]
    fn is_put(&self) -> bool {
        true
    }

    #[inline]
    fn notify(&self) -> Option<CompletionToken<'_>> {
        Some(self.1)
    }

    #[inline]
    fn push(&mut self, outbox: &mut Outbox, frame: u64, key: SlotKey) {
        self.0.opaque = key.opaque();
        outbox.push_put(frame, self.0);
    }
}
