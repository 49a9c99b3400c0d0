//! The limits of what is unanswered on a connection, and the queue of those who wait for room.

use tokio::sync::{Mutex, MutexGuard, Notify, futures::Notified};

/// How many requests, and how many of their bytes, are unanswered. A request holds its share until it has ended, whoever
/// still waits for it.
#[derive(Debug)]
pub(crate) struct Room {
    requests: usize,
    bytes: usize,
    max_requests: usize,
    max_bytes: usize,
    /// How many wait for room.
    pub(crate) waiting: usize,
}

impl Room {
    pub(crate) fn new(max_requests: usize, max_bytes: usize) -> Self {
        // A request counts at most for what a slot can hold.
        let max_bytes = max_bytes.clamp(1, u32::MAX as usize);
        Self { requests: 0, bytes: 0, max_requests, max_bytes, waiting: 0 }
    }

    /// Takes room for a request of `bytes`, and returns what to give back. One that is larger than the whole limit may go
    /// alone. Nobody passes those who wait, except who has waited himself.
    pub(crate) fn take(&mut self, bytes: usize, has_waited: bool) -> Option<u32> {
        let bytes = bytes.clamp(1, self.max_bytes);
        let fits = self.requests < self.max_requests && self.bytes + bytes <= self.max_bytes;
        if !fits || (self.waiting > 0 && !has_waited) {
            return None;
        }
        self.requests += 1;
        self.bytes += bytes;
        Some(bytes as u32)
    }

    /// Gives back what one request took.
    pub(crate) fn free(&mut self, bytes: u32) {
        self.requests -= 1;
        self.bytes -= bytes as usize;
    }

    /// Requests and bytes that are taken.
    pub(crate) fn taken(&self) -> (usize, usize) {
        (self.requests, self.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests == 0
    }
}

/// Lets those who wait for room through one at a time, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    turn: Mutex<()>,
    freed: Notify,
}

impl Turnstile {
    /// Waits until all who came before are through.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Ends when room was freed, or the connection's state has changed.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Tells whoever's turn it is to look again.
    pub(crate) fn tell(&self) {
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_requests_and_bytes() {
        let mut room = Room::new(2, 100);
        assert_eq!(room.take(60, false), Some(60));
        assert_eq!(room.take(60, false), None, "too many bytes");
        assert_eq!(room.take(40, false), Some(40));
        room.free(60);
        room.free(40);
        assert!(room.is_empty());
        assert_eq!(room.take(1_000, false), Some(100), "a large one goes alone");
        assert_eq!(room.take(0, false), None);
        room.free(100);
        assert_eq!((room.take(0, false), room.take(0, false)), (Some(1), Some(1)));
        assert_eq!(room.take(0, false), None, "too many requests");
        assert_eq!(room.taken(), (2, 2));
    }

    #[test]
    fn nobody_passes_those_who_wait() {
        let mut room = Room::new(2, 100);
        room.waiting = 1;
        assert_eq!(room.take(1, false), None);
        assert_eq!(room.take(1, true), Some(1));
    }
}
