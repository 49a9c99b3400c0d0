//! Small writes that are left to grow.

/// Less than this in the outbox is left to grow for one round of the scheduler: a woken task would
/// otherwise write every few requests by themselves.
const SMALL_WRITE: usize = 16 * 1024;

/// After so many rounds in which nothing was added, small writes are no longer left to grow.
const FUTILE_ROUNDS: u32 = 4;

/// Every so many small writes it is tried again.
const TRY_AGAIN: u32 = 64;

/// Whether a small write is left to grow.
#[derive(Debug, Default)]
pub(crate) struct WriteCoalescing {
    /// The bytes that the outbox held when this round was given to senders.
    given_at: Option<usize>,
    futile: u32,
    small_writes: u32,
}

impl WriteCoalescing {
    /// Whether so few bytes may be left to grow; [`wait`](Self::wait) decides.
    pub(crate) fn may_wait(&self, waiting: usize) -> bool {
        self.given_at.is_none() && self.is_worthwhile(waiting)
    }

    fn is_worthwhile(&self, waiting: usize) -> bool {
        waiting < SMALL_WRITE && (self.futile < FUTILE_ROUNDS || self.small_writes.is_multiple_of(TRY_AGAIN))
    }

    /// Gives this round to senders that are about to run, once. True when it is theirs.
    pub(crate) fn wait(&mut self, waiting: usize) -> bool {
        let wait = self.may_wait(waiting);
        if wait {
            self.given_at = Some(waiting);
        }
        wait
    }

    /// The number of bytes that are about to be written.
    pub(crate) fn written(&mut self, waiting: usize) {
        if waiting < SMALL_WRITE {
            self.small_writes = self.small_writes.wrapping_add(1);
        }
        if let Some(given_at) = self.given_at.take() {
            self.futile = if waiting > given_at { 0 } else { self.futile.saturating_add(1) };
        }
    }
}
