//! The counts of a run, and examples of what is wrong.

use serde::Serialize;

/// The number of examples of each kind that are kept.
const EXAMPLES: usize = 10;

/// A kind of error, with the first numbers that have it.
#[derive(Clone, Debug, Default)]
pub(super) struct Wrong {
    pub(super) count: u64,
    pub(super) examples: Vec<String>,
}

impl Wrong {
    pub(super) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// The counts of a run, as the JSON line has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    pub(super) not_sent: u64,
    pub(super) rejected: u64,
    pub(super) unknown: u64,
    /// Of the unknown ones, those that are stored.
    pub(super) unknown_stored: u64,
    /// Reserved by a run that was killed, without an outcome.
    pub(super) possibly_sent: u64,
    pub(super) possibly_sent_stored: u64,
    pub(super) found: u64,
    /// Acknowledged, in a part of a partition that was not read.
    pub(super) unverified: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) corrupted: u64,
    /// Not where the receipt says.
    pub(super) misplaced: u64,
    /// Stored, although reported as not sent or rejected.
    pub(super) stored_unexpectedly: u64,
}

impl Counts {
    /// Returns whether a promise was broken.
    pub(super) fn is_wrong(&self) -> bool {
        self.lost
            + self.duplicated
            + self.reordered
            + self.corrupted
            + self.misplaced
            + self.stored_unexpectedly
            > 0
    }
}
