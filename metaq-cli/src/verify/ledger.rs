//! The outcome of each number, how often it was found, and what is wrong with that.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use metaq_producer::{Outcome, Partition};

use super::{
    counts::{Counts, Wrong},
    payload::Numbered,
};

/// The place of a message: its partition, and its offset there.
pub(super) type Place = (Partition, i64);

/// The outcome that was reported for a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reported {
    /// The number was reserved by a run that was killed, which may have sent it.
    #[default]
    PossiblySent,
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
    /// Found where its receipt says.
    is_in_place: bool,
    /// Found, or known to be stored, with other bytes than were sent.
    is_damaged: bool,
    /// The place that the receipt names.
    place: Option<Place>,
}

/// All numbers of a run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    found: u64,
    duplicated: Wrong,
    reordered: Wrong,
    corrupted: Wrong,
    /// The places that receipts name, with their numbers; made when the sending is over.
    places: BTreeMap<Place, u64>,
    /// The end of what was read of each partition.
    read_to: BTreeMap<Partition, i64>,
    /// What could not be read before that.
    gaps: Vec<(Partition, Range<i64>)>,
}

/// The order of one partition: the largest acknowledged number that was found so far.
#[derive(Debug, Default)]
pub(super) struct Order(Option<u64>);

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

    /// Removes the numbers from `end` on, which were reserved and not sent.
    pub(super) fn truncate_to(&mut self, end: u64) {
        self.entries.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    }

    /// Enters the outcome of a number, and the place that its receipt names.
    pub(super) fn report(&mut self, number: u64, reported: Reported, place: Option<Place>) {
        if let Some(entry) = self.entry(number) {
            (entry.reported, entry.place) = (reported, place);
        }
    }

    /// Enters that no outcome will come for the numbers from `first` on that have none.
    pub(super) fn give_up_from(&mut self, first: u64) {
        for entry in self.entries.iter_mut().skip(usize::try_from(first).unwrap_or(usize::MAX)) {
            if entry.reported == Reported::PossiblySent {
                entry.reported = Reported::Unknown;
            }
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(number).ok()?)
    }

    /// Ends the entering of outcomes. Returns the partitions that receipts name.
    pub(super) fn end_sending(&mut self) -> BTreeSet<Partition> {
        let places = self.entries.iter().enumerate();
        self.places = places.filter_map(|(at, entry)| Some((entry.place?, at as u64))).collect();
        self.places.keys().map(|(partition, _)| *partition).collect()
    }

    /// Returns the first offset from `offset` on of a partition that a receipt names.
    pub(super) fn next_place(&self, partition: Partition, offset: i64) -> Option<i64> {
        let mut places = self.places.range((partition, offset)..=(partition, i64::MAX));
        places.next().map(|((_, offset), _)| *offset)
    }

    /// Enters that a partition was read up to an offset; `i64::MAX` for all of it.
    pub(super) fn read_to(&mut self, partition: Partition, offset: i64) {
        self.read_to.insert(partition, offset);
    }

    /// Enters a part of a partition that can't be read.
    pub(super) fn skip(&mut self, partition: Partition, offsets: Range<i64>) {
        self.gaps.push((partition, offsets));
    }

    /// Enters a message that was read. `order` is that of its partition, if the order is checked.
    pub(super) fn find(&mut self, numbered: Numbered, place: Place, order: Option<&mut Order>) {
        let number = match numbered {
            Numbered::Other | Numbered::Fence => return,
            Numbered::Whole(number) => number,
            Numbered::Damaged(number) => return self.find_damage(place, number),
        };
        let Some(entry) = self.entry(number) else {
            // A number that was never sent can only be a damaged one.
            let text = || format!("number {number}, which was not sent, in {}", name(place));
            return self.corrupted.add(text);
        };
        entry.found = entry.found.saturating_add(1);
        entry.is_in_place |= entry.place == Some(place);
        let Entry { reported, found, .. } = *entry;
        if found > 1 {
            return self.duplicated.add(|| format!("number {number} in {}", name(place)));
        }
        self.found += 1;
        if let Some(order) = order.filter(|_| reported == Reported::Acknowledged) {
            match order.0 {
                Some(largest) if number < largest => {
                    self.reordered.add(|| format!("number {number} behind {largest} in {}", name(place)));
                }
                _ => order.0 = Some(number),
            }
        }
    }

    /// Enters bytes of a log that are no message, or none of those that were sent. The number is that which
    /// the place was acknowledged for, or else that which the bytes name.
    pub(super) fn find_damage(&mut self, place: Place, named: Option<u64>) {
        let number = self.places.get(&place).copied().or(named);
        self.corrupted.add(|| match number {
            Some(number) => format!("number {number} in {}", name(place)),
            None => name(place),
        });
        // A message that is damaged is not lost as well.
        if let Some(entry) = number.and_then(|number| self.entry(number)) {
            entry.is_damaged = true;
        }
    }

    /// Returns whether a place was not read.
    fn is_unread(&self, (partition, offset): Place) -> bool {
        self.read_to.get(&partition).is_none_or(|end| offset >= *end)
            || self.gaps.iter().any(|(of, offsets)| *of == partition && offsets.contains(&offset))
    }

    /// Returns the counts, and what is wrong by kind.
    pub(super) fn verdict(&self) -> (Counts, Vec<(&'static str, Wrong)>) {
        let mut counts = Counts { sent: self.len(), found: self.found, ..Counts::default() };
        let (mut lost, mut unexpected, mut misplaced) =
            (Wrong::default(), Wrong::default(), Wrong::default());
        for (number, entry) in self.entries.iter().enumerate() {
            let Entry { reported, found, is_in_place, is_damaged, place } = *entry;
            let is_stored = found > 0 || is_damaged;
            match reported {
                Reported::Acknowledged => {
                    counts.acknowledged += 1;
                    let is_unread = place.is_none_or(|place| self.is_unread(place));
                    match place {
                        Some(place) if found > 0 && !is_in_place && !is_unread => {
                            misplaced.add(|| format!("number {number}, which is not in {}", name(place)));
                        }
                        _ if !is_stored && is_unread => counts.unverified += 1,
                        Some(place) if !is_stored => {
                            lost.add(|| format!("number {number} of {}", name(place)))
                        }
                        _ => {}
                    }
                }
                Reported::Unknown => {
                    counts.unknown += 1;
                    counts.unknown_stored += u64::from(is_stored);
                }
                Reported::PossiblySent => {
                    counts.possibly_sent += 1;
                    counts.possibly_sent_stored += u64::from(is_stored);
                }
                Reported::NotSent => counts.not_sent += 1,
                Reported::Rejected => counts.rejected += 1,
            }
            if is_stored && matches!(reported, Reported::NotSent | Reported::Rejected) {
                unexpected.add(|| format!("number {number}"));
            }
        }
        counts.lost = lost.count;
        counts.duplicated = self.duplicated.count;
        counts.reordered = self.reordered.count;
        counts.corrupted = self.corrupted.count;
        counts.misplaced = misplaced.count;
        counts.stored_unexpectedly = unexpected.count;
        let wrong = vec![
            ("lost", lost),
            ("duplicated", self.duplicated.clone()),
            ("reordered", self.reordered.clone()),
            ("corrupted", self.corrupted.clone()),
            ("misplaced", misplaced),
            ("stored, although reported as not stored", unexpected),
        ];
        (counts, wrong)
    }
}

fn name((partition, offset): Place) -> String {
    format!("{partition} at offset {offset}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: Partition = Partition::new(0, 0);

    fn place(number: u64) -> Place {
        (PARTITION, 100 * number as i64)
    }

    /// A ledger of acknowledged numbers, and further ones without an outcome.
    fn ledger(acknowledged: u64, len: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.extend_to(len);
        for number in 0..acknowledged {
            ledger.report(number, Reported::Acknowledged, Some(place(number)));
        }
        ledger.end_sending();
        ledger.read_to(PARTITION, i64::MAX);
        ledger
    }

    #[test]
    fn each_kind_of_error_is_counted_once() {
        let mut ledger = ledger(6, 11);
        ledger.report(6, Reported::NotSent, None);
        ledger.report(7, Reported::Rejected, None);
        ledger.report(8, Reported::Unknown, None);
        let mut order = Order::default();
        // 0 is lost, 3 comes behind 4, 2 twice, 5 is damaged, 6 was not sent, 8 of the unknown ones is there.
        for number in [1, 2, 4, 3, 2, 6, 8, 9] {
            let place = if number == 4 { (PARTITION, 4711) } else { place(number) };
            ledger.find(Numbered::Whole(number), place, Some(&mut order));
        }
        ledger.find(Numbered::Damaged(Some(1)), place(5), Some(&mut order));
        ledger.find(Numbered::Other, place(0), None);
        let (counts, wrong) = ledger.verdict();
        let expected = Counts {
            sent: 11,
            acknowledged: 6,
            not_sent: 1,
            rejected: 1,
            unknown: 1,
            unknown_stored: 1,
            possibly_sent: 2,
            possibly_sent_stored: 1,
            found: 7,
            unverified: 0,
            lost: 1,
            duplicated: 1,
            reordered: 1,
            corrupted: 1,
            misplaced: 1,
            stored_unexpectedly: 1,
        };
        assert_eq!(counts, expected);
        assert!(counts.is_wrong());
        assert_eq!(wrong[0].1.examples, ["number 0 of 0-0 at offset 0"]);
        assert_eq!(wrong[2].1.examples, ["number 3 behind 4 in 0-0 at offset 300"]);
        assert_eq!(wrong[3].1.examples, ["number 5 in 0-0 at offset 500"], "the place says which one it was");
    }

    #[test]
    fn unknown_and_unsent_messages_break_no_promise() {
        let mut ledger = ledger(1, 4);
        ledger.report(1, Reported::NotSent, None);
        ledger.give_up_from(2);
        let mut order = Order::default();
        for number in [3, 0, 2] {
            ledger.find(Numbered::Whole(number), place(number), Some(&mut order));
        }
        let (counts, _) = ledger.verdict();
        assert!(!counts.is_wrong() && counts.unknown_stored == 2, "{counts:?}");
    }

    #[test]
    fn what_was_not_read_is_unverified_and_not_lost() {
        let mut ledger = ledger(5, 5);
        ledger.skip(PARTITION, 100..200);
        ledger.read_to(PARTITION, 300);
        ledger.find(Numbered::Whole(0), place(0), None);
        let (counts, _) = ledger.verdict();
        assert_eq!((counts.unverified, counts.lost), (3, 1), "{counts:?}");
        assert_eq!(ledger.next_place(PARTITION, 101), Some(200));
        assert_eq!(ledger.next_place(PARTITION, 401), None);
    }

    #[test]
    fn duplicate_elsewhere_is_not_misplaced_as_well() {
        let mut ledger = ledger(1, 1);
        ledger.find(Numbered::Whole(0), (PARTITION, 50), None);
        ledger.find(Numbered::Whole(0), place(0), None);
        let (counts, _) = ledger.verdict();
        assert_eq!((counts.duplicated, counts.misplaced), (1, 0), "{counts:?}");
    }
}
