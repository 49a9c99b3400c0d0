//! Counts of messages without an outcome, by which a flush waits for older ones and not for newer ones.

use std::{
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use crate::storage::Storage;

/// The time between two looks at the counts.
const PAUSE: Duration = Duration::from_millis(2);

/// The looks before the first pause: what is about to be counted ends meanwhile.
const AT_ONCE: u32 = 32;

/// The looks without a change after which messages count as forgotten. It takes three seconds, and longer
/// on a machine that runs no tasks meanwhile.
pub(crate) const FORGOTTEN: u32 = 1500;

/// The half in which a message is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    Even,
    Odd,
}

/// The numbers of messages of two generations: the present one, which new messages belong to, and the one
/// before it. A new one begins when nothing is left of the one before.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// Changed by those who flush alone, which are not on the way of messages.
    generation: Mutex<u64>,
    /// The generation modulo two.
    present: AtomicU8,
    counts: [AtomicU64; 2],
}

/// The generation in which nothing is left of what was counted before a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target(u64);

impl Unsettled {
    /// Counts a message.
    #[inline]
    pub(crate) fn begin(&self) -> Half {
        // A generation that begins between the two lines is that of a flush that does not wait for this one.
        let half = if self.present.load(Ordering::Acquire) == 0 { Half::Even } else { Half::Odd };
        self.counts[half as usize].fetch_add(1, Ordering::AcqRel);
        half
    }

    /// A message has its outcome.
    #[inline]
    pub(crate) fn end(&self, half: Half) {
        self.counts[half as usize].fetch_sub(1, Ordering::AcqRel);
    }

    /// Begins a new generation if nothing is left of the one before, and returns what is left of it.
    fn advance(&self, generation: &mut u64) -> u64 {
        // Of two halves, the one before has the number of the next one.
        let other = u8::from(generation.is_multiple_of(2));
        let left = self.counts[usize::from(other)].load(Ordering::Acquire);
        if left == 0 {
            *generation += 1;
            self.present.store(other, Ordering::Release);
        }
        left
    }

    /// Returns the target that is reached when all that are counted now have their outcome.
    pub(crate) fn target(&self) -> Target {
        let mut generation = self.generation.lock();
        // Two must begin: the first when the older messages have ended, the second when the others have.
        let target = Target(*generation + 2);
        self.advance(&mut generation);
        target
    }

    /// The messages that are waited for next; none when the target is reached.
    fn left(&self, target: Target) -> Option<(u64, u64)> {
        let mut generation = self.generation.lock();
        while *generation < target.0 {
            let left = self.advance(&mut generation);
            if left > 0 {
                return Some((*generation, left));
            }
        }
        None
    }

    /// Waits until the target is reached, or for as many looks without a change. Has the storage write what
    /// comes meanwhile, without waiting for its interval; the time that this takes counts for no look.
    pub(crate) async fn wait(&self, target: Target, patience: Option<u32>, storage: &Storage) {
        let (mut before, mut looks) = (None, 0);
        while let Some(left) = self.left(target) {
            if before != Some(left) {
                (before, looks) = (Some(left), 0);
            } else if patience.is_some_and(|most| looks >= most) {
                return;
            }
            looks = looks.saturating_add(1);
            if looks < AT_ONCE {
                tokio::task::yield_now().await;
            } else {
                storage.flush().await;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Waits until there are none, in a spool that takes no more.
    pub(crate) async fn wait_for_all(&self) {
        while self.counts.iter().any(|count| count.load(Ordering::Acquire) > 0) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_messages_are_waited_for_and_newer_ones_are_not() {
        let unsettled = Unsettled::default();
        let older = unsettled.begin();
        let target = unsettled.target();
        let newer = unsettled.begin();
        assert_eq!(unsettled.left(target), Some((1, 1)));
        unsettled.end(older);
        assert_eq!(unsettled.left(target), None, "the newer one has no outcome");
        // The next one finds an older message, until whose end newer ones count as older, and no longer.
        let (next, newest) = (unsettled.target(), unsettled.begin());
        unsettled.end(newer);
        assert!(unsettled.left(next).is_some());
        let later = unsettled.begin();
        unsettled.end(newest);
        assert_eq!(unsettled.left(next), None);
        unsettled.end(later);
    }

    #[test]
    fn those_who_wait_at_the_same_time_wait_for_their_own() {
        let unsettled = Unsettled::default();
        let a = unsettled.begin();
        let first = unsettled.target();
        let b = unsettled.begin();
        let second = unsettled.target();
        let c = unsettled.begin();
        let third = unsettled.target();
        unsettled.end(c);
        assert!([first, second, third].iter().all(|target| unsettled.left(*target).is_some()));
        unsettled.end(a);
        assert_eq!(unsettled.left(first), None);
        assert!(unsettled.left(second).is_some() && unsettled.left(third).is_some());
        unsettled.end(b);
        assert_eq!((unsettled.left(third), unsettled.left(second)), (None, None));
    }
}
