//! The refusals of the messages of a queue, for reasons that may pass or not.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// As many messages are set aside without one that is stored between them.
const SET_ASIDE_IN_A_ROW: u32 = 3;

/// After this time without one that is stored, another one is set aside.
const PAUSE: Duration = Duration::from_secs(300);

/// How often messages were refused with a status such as 500.
///
/// A broker that refuses every message has a problem of its own, and no message is set aside for it but the
/// first ones, and one more every five minutes: a refusal counts if another message of the queue was stored
/// since the last one of the same message, or if no earlier message is refused.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    refused: BTreeMap<u64, Refused>,
    /// The messages of the queue that were stored.
    stored: u64,
    set_aside_in_a_row: u32,
    last_set_aside: Option<Instant>,
}

#[derive(Debug, Default)]
struct Refused {
    count: u32,
    stored_before: u64,
}

impl Attempts {
    pub(crate) fn stored(&mut self, number: u64) {
        self.refused.remove(&number);
        self.stored += 1;
        self.set_aside_in_a_row = 0;
    }

    /// Counts a refusal; true if the message is to be set aside.
    pub(crate) fn refused(&mut self, number: u64, most: u32) -> bool {
        let is_first = self.refused.first_key_value().is_none_or(|(first, _)| *first >= number);
        let refused = self.refused.entry(number).or_default();
        if is_first || self.stored > refused.stored_before {
            refused.count = refused.count.saturating_add(1);
        }
        refused.stored_before = self.stored;
        let is_long_ago = self.last_set_aside.is_none_or(|last| last.elapsed() >= PAUSE);
        let is_poison =
            refused.count >= most && (self.set_aside_in_a_row < SET_ASIDE_IN_A_ROW || is_long_ago);
        if is_poison {
            self.set_aside_in_a_row += 1;
            self.last_set_aside = Some(Instant::now());
        }
        is_poison
    }

    /// Counts the refusal of a message that is set aside in any case.
    pub(crate) fn refused_for_good(&mut self, number: u64) {
        self.refused.entry(number).or_default().count += 1;
    }

    /// Forgets messages that the queue does not hold any more.
    pub(crate) fn forget_before(&mut self, number: u64) {
        self.refused = self.refused.split_off(&number);
    }

    /// Forgets a message, and returns the number of its refusals.
    pub(crate) fn take(&mut self, number: u64) -> u32 {
        self.refused.remove(&number).map_or(0, |refused| refused.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_refuses_all_sets_few_messages_aside() {
        let mut attempts = Attempts::default();
        let mut waiting: Vec<u64> = (0..10).collect();
        for _ in 0..100 {
            waiting.retain(|number| {
                let is_poison = attempts.refused(*number, 5);
                if is_poison {
                    assert_eq!(attempts.take(*number), 5);
                }
                !is_poison
            });
        }
        assert_eq!(waiting.len(), 7);
        // One that was dropped meanwhile stands in no way.
        attempts.forget_before(3);
        // After a success the account begins anew.
        attempts.stored(3);
        assert!((0..5).any(|_| attempts.refused(4, 5)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_is_set_aside_after_some_minutes() {
        let mut attempts = Attempts::default();
        for number in 0..3 {
            assert!(attempts.refused(number, 1));
            attempts.take(number);
        }
        assert!(!attempts.refused(3, 1));
        tokio::time::advance(PAUSE - Duration::from_millis(1)).await;
        assert!(!attempts.refused(3, 1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(attempts.refused(3, 1) && !attempts.refused(4, 1));
    }

    #[test]
    fn a_message_among_stored_ones_is_set_aside() {
        let mut attempts = Attempts::default();
        // Another one before it is refused as well, at times.
        assert!(!attempts.refused(1, 9) && !attempts.refused(7, 3));
        for round in 0..3 {
            attempts.stored(10 + round);
            assert_eq!(attempts.refused(7, 3), round == 2, "{round}");
        }
        assert_eq!((attempts.take(7), attempts.take(1), attempts.take(5)), (3, 1, 0));
    }
}
