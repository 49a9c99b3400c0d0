//! Which entries were told to be unusable, so that each is told once.

use std::collections::BTreeMap;
#[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{BadEntry, DiscoveryEvent, EventPublisher, supervise::log};

/// What passes by itself as a rule is told when it has lasted so long.
#[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
const LASTING: Duration = Duration::from_secs(2);

/// An entry that can't be used.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    pub(crate) entry: BadEntry,
    /// Whether it may well pass: a broker that is shut down takes out its address before its topics.
    pub(crate) may_pass: bool,
}

impl Bad {
    /// One that stays so until somebody mends it.
    pub(crate) fn lasting(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { entry: BadEntry::new(path, reason), may_pass: false }
    }
}

/// The entries that can't be used, by who has come across them: the address of a broker may be missed by all topics.
#[derive(Debug)]
pub(crate) struct Reports<K> {
    by_reader: BTreeMap<K, BTreeMap<BadEntry, State>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Told,
    Since(Instant),
}

impl<K> Default for Reports<K> {
    fn default() -> Self {
        Self { by_reader: BTreeMap::new() }
    }
}

impl<K: Ord> Reports<K> {
    /// Returns those of the entries in `bad`, which are all that a reader has come across now, that nobody had before.
    /// Those that may pass aren't among them yet.
    #[must_use = "they are to be told once no lock is held"]
    pub(crate) fn report(&mut self, reader: K, bad: Vec<Bad>) -> Vec<BadEntry> {
        let (mut found, mut new) = (BTreeMap::new(), Vec::new());
        for Bad { entry, may_pass } in bad {
            let known = self.by_reader.values().filter_map(|entries| entries.get(&entry)).copied();
            let state = known.min_by_key(|state| *state != State::Told);
            let state = state.unwrap_or_else(|| {
                if may_pass {
                    return State::Since(Instant::now());
                }
                new.push(entry.clone());
                State::Told
            });
            found.insert(entry, state);
        }
        if found.is_empty() {
            self.by_reader.remove(&reader);
        } else {
            self.by_reader.insert(reader, found);
        }
        new
    }

    /// When something that may pass will have lasted too long.
    #[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
    pub(crate) fn due(&self) -> Option<Instant> {
        let states = self.by_reader.values().flat_map(BTreeMap::values);
        states
            .filter_map(|state| match state {
                State::Told => None,
                State::Since(since) => Some(*since + LASTING),
            })
            .min()
    }

    /// Returns what may pass but has lasted too long.
    #[cfg(any(test, feature = "etcd", feature = "zookeeper"))]
    #[must_use = "they are to be told once no lock is held"]
    pub(crate) fn lasting(&mut self) -> BTreeSet<BadEntry> {
        let now = Instant::now();
        let mut told = BTreeSet::new();
        for (entry, state) in self.by_reader.values_mut().flatten() {
            match state {
                State::Since(since) if *since + LASTING <= now => {
                    told.insert(entry.clone());
                    *state = State::Told;
                }
                _ => {}
            }
        }
        told
    }

    /// Forgets what a reader has come across who reads no more.
    #[cfg(any(test, feature = "zookeeper"))]
    pub(crate) fn forget(&mut self, reader: &K) {
        self.by_reader.remove(reader);
    }

    /// Forgets what all others than these have come across.
    #[cfg(feature = "etcd")]
    pub(crate) fn retain(&mut self, reads: impl Fn(&K) -> bool) {
        self.by_reader.retain(|reader, _| reads(reader));
    }
}

/// Tells that an entry can't be used.
pub(crate) fn tell(entry: &BadEntry, events: &EventPublisher) {
    log(|| tracing::warn!(path = %entry.path, reason = %entry.reason, "entry of the registry can't be used"));
    events.send(DiscoveryEvent::BadEntry(entry.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(paths: &[&str], may_pass: bool) -> Vec<Bad> {
        paths.iter().map(|path| Bad { entry: BadEntry::new(*path, "bad"), may_pass }).collect()
    }

    fn report(reports: &mut Reports<i32>, reader: i32, bad: Vec<Bad>, events: &EventPublisher) {
        reports.report(reader, bad).iter().for_each(|entry| tell(entry, events));
    }

    /// What was told; a last event marks the end.
    async fn told(events: &EventPublisher, told: &mut crate::DiscoveryEvents) -> Vec<String> {
        events.send(DiscoveryEvent::Lost);
        let mut paths = Vec::new();
        while let Some(DiscoveryEvent::BadEntry(entry)) = told.next().await {
            paths.push(entry.path);
        }
        paths
    }

    #[tokio::test]
    async fn an_entry_is_told_once_whoever_meets_it_and_again_when_it_comes_back() {
        let events = EventPublisher::default();
        let (mut listening, mut reports) = (events.subscribe(), Reports::default());
        report(&mut reports, 1, bad(&["a", "b"], false), &events);
        report(&mut reports, 2, bad(&["b", "c"], false), &events);
        report(&mut reports, 1, bad(&["b"], false), &events);
        report(&mut reports, 1, bad(&["a"], false), &events);
        reports.forget(&2);
        report(&mut reports, 1, bad(&[], false), &events);
        report(&mut reports, 2, bad(&["b"], false), &events);
        assert_eq!(reports.due(), None);
        assert_eq!(told(&events, &mut listening).await, ["a", "b", "c", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_told_when_it_lasts() {
        let events = EventPublisher::default();
        let (mut listening, mut reports) = (events.subscribe(), Reports::default());
        report(&mut reports, 1, bad(&["passes", "lasts"], true), &events);
        tokio::time::advance(Duration::from_secs(1)).await;
        report(&mut reports, 1, bad(&["lasts"], true), &events);
        report(&mut reports, 2, bad(&["lasts", "later"], true), &events);
        reports.lasting().iter().for_each(|entry| tell(entry, &events));
        assert!(told(&events, &mut listening).await.is_empty());
        assert_eq!(reports.due(), Some(Instant::now() + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        reports.lasting().iter().for_each(|entry| tell(entry, &events));
        report(&mut reports, 3, bad(&["lasts"], true), &events);
        assert_eq!(told(&events, &mut listening).await, ["lasts"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        reports.lasting().iter().for_each(|entry| tell(entry, &events));
        assert_eq!(told(&events, &mut listening).await, ["later"]);
        assert_eq!(reports.due(), None);
    }
}
