//! Small writes that are delayed so that they coalesce.

/// Writes smaller than this, in bytes, are delayed by one scheduler tick so that they coalesce.
///
/// Otherwise a connection that was woken would write every few requests separately.
const SMALL_WRITE: usize = 16 * 1024;

/// The number of delays in a row without growth after which small writes are no longer delayed.
const FUTILE_DELAYS: u32 = 4;

/// The interval at which a small write is delayed again, in small writes.
const RETRY_INTERVAL: u32 = 64;

/// Decides whether a small write is delayed.
#[derive(Debug, Default)]
pub(crate) struct WriteCoalescing {
    /// The number of bytes in the outbox when the write was delayed.
    delayed_at: Option<usize>,
    futile: u32,
    small_writes: u32,
}

impl WriteCoalescing {
    /// Returns whether a write of `bytes` bytes would be delayed by [`delay`](Self::delay).
    pub(crate) fn may_delay(&self, bytes: usize) -> bool {
        self.delayed_at.is_none() && self.is_worthwhile(bytes)
    }

    fn is_worthwhile(&self, bytes: usize) -> bool {
        bytes < SMALL_WRITE
            && (self.futile < FUTILE_DELAYS || self.small_writes.is_multiple_of(RETRY_INTERVAL))
    }

    /// Delays a write of `bytes` bytes once, so that senders run before it. Returns whether it is delayed.
    pub(crate) fn delay(&mut self, bytes: usize) -> bool {
        let delay = self.may_delay(bytes);
        if delay {
            self.delayed_at = Some(bytes);
        }
        delay
    }

    /// Records that `bytes` bytes are about to be written.
    pub(crate) fn record_write(&mut self, bytes: usize) {
        if bytes < SMALL_WRITE {
            self.small_writes = self.small_writes.wrapping_add(1);
        }
        if let Some(delayed_at) = self.delayed_at.take() {
            self.futile = if bytes > delayed_at { 0 } else { self.futile.saturating_add(1) };
        }
    }
}
