//! The requests that can be queued on a connection: any command, or a put by reference.

use metaq_protocol::{Command, PutRef};

use super::{CompletionToken, Outbox, SlotKey};

/// An estimate of the bytes that a put's header takes besides its topic.
const PUT_WORDS: usize = 48;

/// A request that is to be queued.
pub(crate) trait OutgoingRequest {
    /// Returns the number of bytes that it counts for in the limit.
    fn bytes(&self) -> usize;

    /// Returns whether the response may say where a message was stored.
    fn is_put(&self) -> bool;

    /// Returns the listener for its outcome, and the token; none when a future awaits it.
    fn notify(&self) -> Option<CompletionToken<'_>>;

    /// Sets the opaque and appends the frame to the outbox.
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

/// A put whose outcome is reported to a listener.
pub(crate) struct CompletionPut<'a, 'p>(pub(crate) &'a mut PutRef<'p>, pub(crate) CompletionToken<'a>);

impl OutgoingRequest for CompletionPut<'_, '_> {
    #[inline]
    fn bytes(&self) -> usize {
        // An estimate, without counting the digits of the header: the exact figure would take longer.
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
