//! The limits of what a producer holds at a time.

use tokio::sync::{Notify, Semaphore};

/// The limits of messages and of their bytes. A message holds its share from when it is accepted until it has
/// its outcome, whether or not its handle is held. Waiters are served in the order in which they came.
#[derive(Debug)]
pub(crate) struct Permits {
    messages: Semaphore,
    bytes: Semaphore,
    max_messages: usize,
    max_bytes: usize,
    returned: Notify,
}

/// The share of one message, to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(u32);

impl Share {
    /// Its bytes.
    pub(crate) fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// The shares that several messages give back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Returned {
    messages: usize,
    bytes: usize,
}

impl Returned {
    pub(crate) fn add(&mut self, share: Share) {
        self.messages += 1;
        self.bytes += share.bytes();
    }
}

impl Permits {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        let max_messages = max_messages.clamp(1, Semaphore::MAX_PERMITS);
        let max_bytes = max_bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            messages: Semaphore::new(max_messages),
            bytes: Semaphore::new(max_bytes),
            max_messages,
            max_bytes,
            returned: Notify::new(),
        }
    }

    /// The share of a message of `len` bytes. One that is larger than the whole limit may still go alone.
    pub(crate) fn share(&self, len: usize) -> Share {
        Share(len.clamp(1, self.max_bytes) as u32)
    }

    /// Takes capacity for a message of `len` bytes if there is any and no waiters are queued.
    pub(crate) fn try_take(&self, len: usize) -> Option<Share> {
        let share = self.share(len);
        let message = self.messages.try_acquire().ok()?;
        self.bytes.try_acquire_many(share.0).ok()?.forget();
        message.forget();
        Some(share)
    }

    /// Waits for capacity for a message of `len` bytes; none when the producer was closed.
    pub(crate) async fn take(&self, len: usize) -> Option<Share> {
        let share = self.share(len);
        let message = self.messages.acquire().await.ok()?;
        self.bytes.acquire_many(share.0).await.ok()?.forget();
        message.forget();
        Some(share)
    }

    /// Gives back what a message had that wasn't accepted after all.
    pub(crate) fn give_one_back(&self, share: Share) {
        let mut returned = Returned::default();
        returned.add(share);
        self.give_back(returned);
    }

    pub(crate) fn give_back(&self, returned: Returned) {
        if returned.messages > 0 {
            self.bytes.add_permits(returned.bytes);
            self.messages.add_permits(returned.messages);
            if self.taken().0 == 0 {
                self.returned.notify_waiters();
            }
        }
    }

    /// The limits, in messages and bytes.
    pub(crate) fn limits(&self) -> (usize, usize) {
        (self.max_messages, self.max_bytes)
    }

    /// Messages and bytes that are taken.
    pub(crate) fn taken(&self) -> (usize, usize) {
        (
            self.max_messages.saturating_sub(self.messages.available_permits()),
            self.max_bytes.saturating_sub(self.bytes.available_permits()),
        )
    }

    /// Waits until nothing is taken.
    pub(crate) async fn all_returned(&self) {
        loop {
            let mut returned = std::pin::pin!(self.returned.notified());
            returned.as_mut().enable();
            if self.taken().0 == 0 {
                return;
            }
            returned.await;
        }
    }

    /// Refuses all who wait for capacity or will ask for it.
    pub(crate) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }

    /// Describes how much of the limit is taken, for errors.
    pub(crate) fn describe(&self) -> String {
        let (messages, bytes) = self.taken();
        let Self { max_messages, max_bytes, .. } = self;
        format!("{messages} of {max_messages} messages and {bytes} of {max_bytes} bytes are unacknowledged")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn limits_messages_and_bytes_and_serves_in_order() {
        let permits = Arc::new(Permits::new(3, 100));
        let large = permits.try_take(90).unwrap();
        assert_eq!(permits.try_take(20), None, "too many bytes");
        assert_eq!(permits.taken(), (1, 90), "what was refused took nothing");
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..3 {
            let (permits, told) = (Arc::clone(&permits), told.clone());
            tokio::spawn(async move {
                permits.take(50).await.unwrap();
                told.send(n).unwrap();
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(permits.try_take(1), None, "nobody passes those who wait");
        let mut returned = Returned::default();
        returned.add(large);
        permits.give_back(returned);
        assert_eq!((order.recv().await, order.recv().await), (Some(0), Some(1)));
        assert!(permits.describe().contains("of 3 messages"), "{}", permits.describe());
        permits.close();
        assert_eq!(permits.take(1).await, None);
    }

    #[test]
    fn a_message_above_the_limit_goes_alone() {
        let permits = Permits::new(2, 100);
        let share = permits.try_take(1_000).unwrap();
        assert_eq!(permits.try_take(0), None);
        let mut returned = Returned::default();
        returned.add(share);
        permits.give_back(returned);
        assert_eq!(permits.taken(), (0, 0));
        assert_eq!(permits.try_take(0), Some(Share(1)), "an empty message counts, too");
    }
}
