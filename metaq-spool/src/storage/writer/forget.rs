//! Queues that are empty, and that nobody uses any more.

use super::Writer;

/// As many queues are kept although they may be empty: those that fill and empty again and again are not made
/// anew each time.
pub(super) const KEPT: usize = if cfg!(test) { 8 } else { 1024 };

impl Writer {
    /// Forgets the queues that are empty and not in use, once half of all were emptied since the last time,
    /// or there are twice as many. So no more than [`KEPT`] are empty, or as many as are not and are replayed
    /// at the moment; and each look at a queue is paid for by one that was emptied or made.
    pub(super) fn forget_unused(&mut self) {
        let known = self.common.index.len();
        let is_worth_it = known >= self.looks_at || known >= KEPT && self.emptied >= known / 2;
        // A commit in doubt refers to queues by their numbers.
        if !is_worth_it || self.is_broken || self.in_doubt.is_some() {
            return;
        }
        let Self { queues, common, .. } = self;
        let forgotten = common.index.forget(|queue| match queues.get(&queue.id) {
            // Known to the index and the writer.
            Some(state) => state.row.messages == 0 && queue.is_unused(2),
            None => queue.is_unused(1),
        });
        for id in forgotten {
            if queues.remove(&id).is_some() {
                self.forgotten.push(id);
            }
        }
        self.looks_at = (common.index.len() * 2).max(KEPT);
        self.emptied = 0;
    }
}
