//! Reporting of each unusable entry of a registry exactly once.

#[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
use std::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{BadEntry, DiscoveryEvent, EventPublisher, panics::log};

/// The time for which a transient fault must last before it is reported.
#[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
const TRANSIENT_GRACE: Duration = Duration::from_secs(2);

/// An entry of a registry that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnusableEntry {
    pub(crate) entry: BadEntry,
    /// Set for faults that usually disappear without repair: a broker that shuts down removes its address
    /// before its topics.
    pub(crate) is_transient: bool,
}

impl UnusableEntry {
    /// A fault that remains until the entry is repaired.
    pub(crate) fn permanent(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { entry: BadEntry::new(path, reason), is_transient: false }
    }
}

/// Deduplicates reports of unusable entries, and counts the readers that found each: every topic of a broker
/// finds that the broker's address is missing.
///
/// The cost of a report depends on the reader's own entries, not on the number of other readers.
#[derive(Debug)]
pub(crate) struct BadEntryReports<K> {
    by_reader: BTreeMap<K, BTreeSet<Arc<BadEntry>>>,
    entries: BTreeMap<Arc<BadEntry>, Known>,
    /// The transient faults that were not reported yet, by the time at which they were first found.
    pending: BTreeSet<(Instant, Arc<BadEntry>)>,
}

/// An entry that at least one reader has found.
#[derive(Clone, Copy, Debug)]
struct Known {
    readers: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reported,
    PendingSince(Instant),
}

impl<K> Default for BadEntryReports<K> {
    fn default() -> Self {
        Self { by_reader: BTreeMap::new(), entries: BTreeMap::new(), pending: BTreeSet::new() }
    }
}

impl<K: Ord> BadEntryReports<K> {
    /// Replaces the entries that `reader` has found by `bad`, and returns those of them that no reader had
    /// found before. Transient faults are not returned yet; see `take_overdue`.
    #[must_use = "report them once no lock is held"]
    pub(crate) fn report(&mut self, reader: K, bad: Vec<UnusableEntry>) -> Vec<BadEntry> {
        if bad.is_empty() && !self.by_reader.contains_key(&reader) {
            return Vec::new();
        }
        let mut former = self.by_reader.remove(&reader).unwrap_or_default();
        let (mut found, mut new) = (BTreeSet::new(), Vec::new());
        for UnusableEntry { entry, is_transient } in bad {
            if let Some(entry) = former.take(&entry) {
                found.insert(entry);
            } else if !found.contains(&entry) {
                found.insert(self.add_reader(entry, is_transient, &mut new));
            }
        }
        former.iter().for_each(|entry| self.remove_reader(entry));
        if !found.is_empty() {
            self.by_reader.insert(reader, found);
        }
        new
    }

    /// Adds a reader that has found an entry.
    fn add_reader(&mut self, entry: BadEntry, is_transient: bool, new: &mut Vec<BadEntry>) -> Arc<BadEntry> {
        let entry = Arc::new(entry);
        match self.entries.entry(Arc::clone(&entry)) {
            btree_map::Entry::Occupied(mut known) => {
                known.get_mut().readers += 1;
                Arc::clone(known.key())
            }
            btree_map::Entry::Vacant(unknown) => {
                let state = if is_transient {
                    let now = Instant::now();
                    self.pending.insert((now, Arc::clone(&entry)));
                    State::PendingSince(now)
                } else {
                    new.push(BadEntry::clone(&entry));
                    State::Reported
                };
                unknown.insert(Known { readers: 1, state });
                entry
            }
        }
    }

    /// Removes a reader that no longer finds an entry.
    fn remove_reader(&mut self, entry: &Arc<BadEntry>) {
        let Some(known) = self.entries.get_mut(entry) else { return };
        known.readers -= 1;
        if known.readers > 0 {
            return;
        }
        if let State::PendingSince(since) = known.state {
            self.pending.remove(&(since, Arc::clone(entry)));
        }
        self.entries.remove(entry);
    }

    /// The time at which the next transient fault becomes overdue.
    #[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pending.first().map(|(since, _)| *since + TRANSIENT_GRACE)
    }

    /// Returns the transient faults that have lasted for `TRANSIENT_GRACE`.
    #[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
    #[must_use = "report them once no lock is held"]
    pub(crate) fn take_overdue(&mut self) -> Vec<BadEntry> {
        let (now, mut overdue) = (Instant::now(), Vec::new());
        while self.due().is_some_and(|due| due <= now) {
            let Some((_, entry)) = self.pending.pop_first() else { break };
            if let Some(known) = self.entries.get_mut(&entry) {
                known.state = State::Reported;
            }
            overdue.push(BadEntry::clone(&entry));
        }
        overdue
    }

    /// Removes the entries of a reader that has stopped reading.
    #[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
    pub(crate) fn forget(&mut self, reader: &K) {
        let former = self.by_reader.remove(reader).unwrap_or_default();
        former.iter().for_each(|entry| self.remove_reader(entry));
    }

    /// Removes the entries of all readers for which `reads` returns false.
    #[cfg(feature = "etcd")]
    pub(crate) fn retain(&mut self, reads: impl Fn(&K) -> bool)
    where
        K: Clone,
    {
        let gone: Vec<_> = self.by_reader.keys().filter(|reader| !reads(reader)).cloned().collect();
        gone.iter().for_each(|reader| self.forget(reader));
    }
}

/// Logs that an entry can't be used, and sends the event.
pub(crate) fn publish_bad_entry(entry: &BadEntry, events: &EventPublisher) {
    log(|| tracing::warn!(path = %entry.path, reason = %entry.reason, "entry of the registry can't be used"));
    events.send(DiscoveryEvent::BadEntry(entry.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(paths: &[&str], is_transient: bool) -> Vec<UnusableEntry> {
        paths.iter().map(|path| UnusableEntry { entry: BadEntry::new(*path, "bad"), is_transient }).collect()
    }

    fn report(
        reports: &mut BadEntryReports<i32>,
        reader: i32,
        bad: Vec<UnusableEntry>,
        events: &EventPublisher,
    ) {
        reports.report(reader, bad).iter().for_each(|entry| publish_bad_entry(entry, events));
    }

    /// The entries that were reported; a last event marks the end.
    async fn reported(events: &EventPublisher, listening: &mut crate::DiscoveryEvents) -> Vec<String> {
        events.send(DiscoveryEvent::Expired);
        let mut paths = Vec::new();
        while let Some(DiscoveryEvent::BadEntry(entry)) = listening.next().await {
            paths.push(entry.path);
        }
        paths
    }

    #[tokio::test]
    async fn an_entry_is_reported_once_and_again_after_it_was_gone() {
        let events = EventPublisher::default();
        let (mut listening, mut reports) = (events.subscribe(), BadEntryReports::default());
        report(&mut reports, 1, bad(&["a", "b"], false), &events);
        report(&mut reports, 2, bad(&["b", "c"], false), &events);
        report(&mut reports, 1, bad(&["b"], false), &events);
        report(&mut reports, 1, bad(&["a"], false), &events);
        reports.forget(&2);
        report(&mut reports, 1, bad(&[], false), &events);
        report(&mut reports, 2, bad(&["b"], false), &events);
        assert_eq!(reports.due(), None);
        assert_eq!(reported(&events, &mut listening).await, ["a", "b", "c", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_fault_is_reported_when_it_lasts() {
        let events = EventPublisher::default();
        let (mut listening, mut reports) = (events.subscribe(), BadEntryReports::default());
        report(&mut reports, 1, bad(&["passes", "lasts"], true), &events);
        tokio::time::advance(Duration::from_secs(1)).await;
        report(&mut reports, 1, bad(&["lasts"], true), &events);
        report(&mut reports, 2, bad(&["lasts", "later"], true), &events);
        reports.take_overdue().iter().for_each(|entry| publish_bad_entry(entry, &events));
        assert!(reported(&events, &mut listening).await.is_empty());
        assert_eq!(reports.due(), Some(Instant::now() + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        reports.take_overdue().iter().for_each(|entry| publish_bad_entry(entry, &events));
        report(&mut reports, 3, bad(&["lasts"], true), &events);
        assert_eq!(reported(&events, &mut listening).await, ["lasts"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        reports.take_overdue().iter().for_each(|entry| publish_bad_entry(entry, &events));
        assert_eq!(reported(&events, &mut listening).await, ["later"]);
        assert_eq!(reports.due(), None);
    }

    #[test]
    fn the_cost_of_a_report_does_not_grow_with_readers() {
        const READERS: i32 = 4_000;
        let paths: Vec<_> = (0..10).map(|id| format!("/meta/brokers/ids/{id}/master")).collect();
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let (started, mut reports) = (std::time::Instant::now(), BadEntryReports::default());
        for reader in 0..READERS {
            assert!(reports.report(reader, bad(&paths, true)).is_empty());
        }
        assert_eq!((reports.entries.len(), reports.pending.len()), (10, 10));
        for reader in 0..READERS {
            assert!(reports.report(reader, Vec::new()).is_empty());
        }
        assert!(reports.entries.is_empty() && reports.pending.is_empty() && reports.by_reader.is_empty());
        // When each report scanned all readers, this took 24 s.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
