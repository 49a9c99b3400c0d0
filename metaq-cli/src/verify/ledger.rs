//! The outcome of each number, how often it was found, and what is wrong with that.

use metaq_producer::{Outcome, Partition};
use serde::Serialize;

use super::payload::Numbered;

/// The number of examples of each kind that are kept.
const EXAMPLES: usize = 10;

/// The outcome that was reported for a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reported {
    /// Nothing was reported, or that the outcome is unknown.
    #[default]
    Unknown,
    Acknowledged,
    NotSent,
    Rejected,
}

impl From<Outcome> for Reported {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NotSent => Self::NotSent,
            Outcome::Rejected => Self::Rejected,
            _ => Self::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    reported: Reported,
    found: u8,
}

/// A kind of error, with the first numbers that have it.
#[derive(Clone, Debug, Default)]
pub(super) struct Wrong {
    pub(super) count: u64,
    pub(super) examples: Vec<String>,
}

impl Wrong {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// All numbers of a run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    found: u64,
    duplicated: Wrong,
    reordered: Wrong,
    corrupted: Wrong,
}

/// The order of one partition: the largest acknowledged number that was found so far.
#[derive(Debug, Default)]
pub(super) struct Order(Option<u64>);

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
    pub(super) found: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) corrupted: u64,
    /// Stored, although reported as not sent or rejected.
    pub(super) stored_unexpectedly: u64,
}

impl Counts {
    /// Returns whether a promise was broken.
    pub(super) fn is_wrong(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupted + self.stored_unexpectedly > 0
    }
}

impl Ledger {
    /// The next number.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Adds numbers up to `end`, without an outcome yet.
    pub(super) fn extend_to(&mut self, end: u64) {
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        self.entries.resize(self.entries.len().max(end), Entry::default());
    }

    /// Enters the outcome of a number.
    pub(super) fn report(&mut self, number: u64, reported: Reported) {
        if let Some(entry) = self.entry(number) {
            entry.reported = reported;
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(number).ok()?)
    }

    /// Enters a message that was read. `order` is that of its partition, if the order is checked.
    pub(super) fn find(
        &mut self,
        numbered: Numbered,
        (partition, offset): (Partition, i64),
        order: Option<&mut Order>,
    ) {
        let place = || format!("{partition} at offset {offset}");
        let number = match numbered {
            Numbered::Other | Numbered::Fence => return,
            Numbered::Whole(number) => number,
            Numbered::Damaged(number) => {
                self.corrupted.add(|| match number {
                    Some(number) => format!("number {number} in {}", place()),
                    None => place(),
                });
                // A message that is damaged is not lost as well.
                if let Some(entry) = number.and_then(|number| self.entry(number)) {
                    entry.found = entry.found.saturating_add(1);
                }
                return;
            }
        };
        let Some(entry) = self.entry(number) else {
            // A number that was never sent can only be a damaged one.
            return self.corrupted.add(|| format!("number {number}, which was not sent, in {}", place()));
        };
        entry.found = entry.found.saturating_add(1);
        let Entry { reported, found } = *entry;
        if found > 1 {
            return self.duplicated.add(|| format!("number {number} in {}", place()));
        }
        self.found += 1;
        if let Some(order) = order.filter(|_| reported == Reported::Acknowledged) {
            match order.0 {
                Some(largest) if number < largest => {
                    self.reordered.add(|| format!("number {number} behind {largest} in {}", place()));
                }
                _ => order.0 = Some(number),
            }
        }
    }

    /// Enters bytes of a log that are no message.
    pub(super) fn find_damage(&mut self, partition: Partition, offset: i64) {
        self.corrupted.add(|| format!("{partition} at offset {offset}"));
    }

    /// Returns the counts, and what is wrong by kind.
    pub(super) fn verdict(&self) -> (Counts, Vec<(&'static str, Wrong)>) {
        let mut counts = Counts { sent: self.len(), found: self.found, ..Counts::default() };
        let (mut lost, mut unexpected) = (Wrong::default(), Wrong::default());
        for (number, Entry { reported, found }) in self.entries.iter().enumerate() {
            match reported {
                Reported::Acknowledged => {
                    counts.acknowledged += 1;
                    if *found == 0 {
                        lost.add(|| format!("number {number}"));
                    }
                }
                Reported::Unknown => {
                    counts.unknown += 1;
                    counts.unknown_stored += u64::from(*found > 0);
                }
                Reported::NotSent => counts.not_sent += 1,
                Reported::Rejected => counts.rejected += 1,
            }
            if *found > 0 && matches!(reported, Reported::NotSent | Reported::Rejected) {
                unexpected.add(|| format!("number {number}"));
            }
        }
        counts.lost = lost.count;
        counts.duplicated = self.duplicated.count;
        counts.reordered = self.reordered.count;
        counts.corrupted = self.corrupted.count;
        counts.stored_unexpectedly = unexpected.count;
        let wrong = vec![
            ("lost", lost),
            ("duplicated", self.duplicated.clone()),
            ("reordered", self.reordered.clone()),
            ("corrupted", self.corrupted.clone()),
            ("stored, although reported as not stored", unexpected),
        ];
        (counts, wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: (Partition, i64) = (Partition::new(0, 0), 0);

    #[test]
    fn each_kind_of_error_is_counted_once() {
        let mut ledger = Ledger::default();
        ledger.extend_to(10);
        for number in 0..6 {
            ledger.report(number, Reported::Acknowledged);
        }
        ledger.report(6, Reported::NotSent);
        ledger.report(7, Reported::Rejected);
        let mut order = Order::default();
        // 0 is lost, 3 comes behind 4, 2 twice, 5 is damaged, 6 was not sent, 8 of the unknown ones is there.
        for number in [1, 2, 4, 3, 2, 6, 8] {
            ledger.find(Numbered::Whole(number), PLACE, Some(&mut order));
        }
        ledger.find(Numbered::Damaged(Some(5)), PLACE, Some(&mut order));
        ledger.find(Numbered::Other, PLACE, None);
        let (counts, wrong) = ledger.verdict();
        let expected = Counts {
            sent: 10,
            acknowledged: 6,
            not_sent: 1,
            rejected: 1,
            unknown: 2,
            unknown_stored: 1,
            found: 6,
            lost: 1,
            duplicated: 1,
            reordered: 1,
            corrupted: 1,
            stored_unexpectedly: 1,
        };
        assert_eq!(counts, expected);
        assert!(counts.is_wrong());
        assert_eq!(wrong[0].1.examples, ["number 0"]);
        assert_eq!(wrong[2].1.examples, ["number 3 behind 4 in 0-0 at offset 0"]);
    }

    #[test]
    fn unknown_and_unsent_messages_break_no_promise() {
        let mut ledger = Ledger::default();
        ledger.extend_to(4);
        ledger.report(0, Reported::Acknowledged);
        ledger.report(1, Reported::NotSent);
        let mut order = Order::default();
        for number in [3, 0, 2] {
            ledger.find(Numbered::Whole(number), PLACE, Some(&mut order));
        }
        let (counts, _) = ledger.verdict();
        assert!(!counts.is_wrong() && counts.unknown_stored == 2, "{counts:?}");
    }
}
