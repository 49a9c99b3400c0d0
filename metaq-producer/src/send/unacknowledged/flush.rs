//! Waiting for what was accepted before.

use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::{sync::Notify, time::Instant};

use super::{State, Unacknowledged};
use crate::{
    deadline::{self, NotReached},
    panics::with_contained_waker,
};

/// The interval at which overdue messages are looked for, in case the runtime of their connection isn't
/// driven.
const LOOK: Duration = Duration::from_millis(50);

/// The flushes that are under way, and how many messages each waits for.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    inner: Mutex<Inner>,
    done: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    flushes: Vec<Flush>,
}

#[derive(Debug)]
struct Flush {
    id: u64,
    /// The mark of its messages.
    mark: u16,
    messages: usize,
}

/// Messages that ended, by the mark of the flush that waited for them.
pub(super) type Flushed = SmallVec<[(u16, usize); 1]>;

impl Flushes {
    /// Begins a flush, which waits for one message that isn't there until all others are known.
    fn begin(&self) -> u16 {
        let mut inner = self.inner.lock();
        inner.last += 1;
        let id = inner.last;
        let is_used = |mark: &u16| inner.flushes.iter().any(|flush| flush.mark == *mark);
        // One is always free.
        let mark =
            (0..=u16::MAX).map(|n| (id as u16).wrapping_add(n)).find(|mark| *mark != 0 && !is_used(mark));
        let mark = mark.unwrap_or(1);
        inner.flushes.push(Flush { id, mark, messages: 1 });
        mark
    }

    fn add(&self, mark: u16, messages: usize) {
        if let Some(flush) = self.inner.lock().flushes.iter_mut().find(|flush| flush.mark == mark) {
            flush.messages += messages;
        }
    }

    /// Messages have their outcome.
    pub(super) fn ended(&self, ended: &Flushed) {
        if ended.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        for (mark, messages) in ended {
            if let Some(flush) = inner.flushes.iter_mut().find(|flush| flush.mark == *mark) {
                flush.messages = flush.messages.saturating_sub(*messages);
            }
        }
        inner.flushes.retain(|flush| flush.messages > 0);
        drop(inner);
        self.done.notify_waiters();
    }

    /// Whether all flushes that began up to this one are over.
    fn are_done(&self, last: u64) -> bool {
        self.inner.lock().flushes.iter().all(|flush| flush.id > last)
    }
}

impl Unacknowledged {
    /// Waits until all messages that are accepted now have their outcome, and the failure handler has those
    /// that it is to get. `expire` ends what is overdue.
    pub(crate) async fn flush(&self, expire: impl Fn()) {
        let mark = self.flushes.begin();
        let last = self.flushes.inner.lock().last;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let messages = shard.mark(mark, |entry| !matches!(entry.state, State::Ended(_)));
            // Before any of them can end.
            self.flushes.add(mark, messages);
        }
        self.flushes.ended(&Flushed::from_elem((mark, 1), 1));
        loop {
            let mut done = std::pin::pin!(self.flushes.done.notified());
            // From here on nothing is missed.
            done.as_mut().enable();
            if self.flushes.are_done(last) {
                break;
            }
            let done_or_late = deadline::timeout_at(deadline::after(LOOK), done.as_mut());
            match with_contained_waker(done_or_late).await {
                Ok(()) => {}
                Err(NotReached::Elapsed) => expire(),
                Err(NotReached::NoRuntime) => with_contained_waker(done).await,
            }
        }
        with_contained_waker(self.failures.all_delivered()).await;
    }

    /// Waits until all messages have their outcome, but not beyond `until`. `expire` ends what is overdue.
    /// No more messages may be accepted; one who waited for capacity and isn't polled any more may hold some
    /// of it for ever.
    pub(crate) async fn drain(&self, until: Instant, expire: impl Fn()) {
        let mut was_empty = false;
        loop {
            let look = deadline::after(LOOK).min(until);
            let returned = deadline::timeout_at(look, self.permits.all_returned());
            match with_contained_waker(returned).await {
                Ok(()) => return,
                Err(NotReached::Elapsed) if look < until => expire(),
                Err(_) => return,
            }
            // Twice: a message that got its capacity just before is not seen the first time.
            let is_empty = self.tokens(|state| !matches!(state, State::Ended(_))).is_empty();
            if is_empty && was_empty {
                return;
            }
            was_empty = is_empty;
        }
    }
}
