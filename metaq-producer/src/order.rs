//! One message at a time in each partition.

use std::collections::HashMap;

use metaq_protocol::Partition;
use parking_lot::Mutex;

/// Whose turn it is in each partition of a topic. A broker stores messages of one partition that are in flight at the same
/// time in any order (wire rule 1.2), so the order of the calls is kept only by waiting for each answer (K-50).
#[derive(Debug, Default)]
pub(crate) struct Order {
    turns: Mutex<HashMap<Partition, Turn>>,
}

#[derive(Debug, Default)]
struct Turn {
    taken: bool,
    /// How many wait for it.
    waiting: usize,
}

impl Order {
    /// Takes the turn in `partition`, if nobody has it and nobody who came before waits for it.
    pub(crate) fn take(&self, partition: Partition, has_waited: bool) -> bool {
        let mut turns = self.turns.lock();
        let turn = turns.entry(partition).or_default();
        if turn.taken || (turn.waiting > 0 && !has_waited) {
            return false;
        }
        turn.taken = true;
        true
    }

    /// Gives the turn back. True when somebody waits for it.
    pub(crate) fn give_back(&self, partition: Partition) -> bool {
        let mut turns = self.turns.lock();
        let Some(turn) = turns.get_mut(&partition) else { return false };
        turn.taken = false;
        if turn.waiting == 0 {
            turns.remove(&partition);
            return false;
        }
        true
    }

    /// One more waits for the turn in `partition`.
    pub(crate) fn wait(&self, partition: Partition) {
        self.turns.lock().entry(partition).or_default().waiting += 1;
    }

    /// One waits no longer.
    pub(crate) fn end_wait(&self, partition: Partition) {
        let mut turns = self.turns.lock();
        let Some(turn) = turns.get_mut(&partition) else { return };
        turn.waiting = turn.waiting.saturating_sub(1);
        if turn.waiting == 0 && !turn.taken {
            turns.remove(&partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_taken_by_one_and_goes_to_those_who_wait() {
        let (order, one, two) = (Order::default(), Partition::new(0, 1), Partition::new(0, 2));
        assert!(order.take(one, false) && order.take(two, false));
        assert!(!order.take(one, false));
        order.wait(one);
        assert!(order.give_back(one) && !order.give_back(two));
        assert!(!order.take(one, false), "nobody passes those who wait");
        assert!(order.take(one, true));
        order.end_wait(one);
        assert!(!order.give_back(one));
        assert!(order.turns.lock().is_empty(), "nothing is kept of partitions that nobody sends to");
    }
}
