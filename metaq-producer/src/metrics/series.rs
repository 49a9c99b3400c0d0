//! The destinations of figures.

use std::{
    collections::HashMap,
    ops::{Add, AddAssign},
};

use metrics::{Label, counter, gauge};

/// The labels of a series, each a name and a value.
pub(super) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Takes the figures of series.
pub(super) trait Series {
    /// Writes a count, which only grows until its source begins again at zero.
    fn count(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64);

    /// The same, of what isn't counted by ones.
    fn sum(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64);

    /// Writes a level, which grows and falls.
    fn level(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64);
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}

/// Writes figures as they are.
pub(super) struct Single;

impl Series for Single {
    fn count(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        counter!(name, owned(labels)).absolute(value);
    }

    fn sum(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.level(name, labels, value);
    }

    fn level(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        gauge!(name, owned(labels)).set(value);
    }
}

type Key = (&'static str, Vec<Label>);

/// Writes figures again and again: counts continue where their source begins again at zero, and levels
/// without a source are set to 0. All levels are when it is dropped.
#[derive(Default)]
pub(super) struct Exported {
    counts: HashMap<Key, Total<u64>>,
    sums: HashMap<Key, Total<f64>>,
    /// The levels that were written, and in which round last.
    levels: HashMap<Key, u64>,
    round: u64,
}

/// A total of what began at zero several times.
#[derive(Default)]
struct Total<T> {
    before: T,
    last: T,
    /// The round in which it was written last.
    round: u64,
}

impl<T: Copy + PartialOrd + AddAssign + Add<Output = T>> Total<T> {
    fn with(&mut self, value: T, round: u64) -> T {
        // A source that was missing meanwhile has begun again as well.
        if value < self.last || self.round + 1 < round {
            self.before += self.last;
        }
        (self.last, self.round) = (value, round);
        self.before + value
    }
}

impl Series for Exported {
    fn count(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        let labels = owned(labels);
        let total = self.counts.entry((name, labels.clone())).or_default().with(value, self.round);
        counter!(name, labels).absolute(total);
    }

    fn sum(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let labels = owned(labels);
        let total = self.sums.entry((name, labels.clone())).or_default().with(value, self.round);
        gauge!(name, labels).set(total);
    }

    fn level(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let labels = owned(labels);
        self.levels.insert((name, labels.clone()), self.round);
        gauge!(name, labels).set(value);
    }
}

impl Exported {
    /// All figures were written.
    pub(super) fn end_round(&mut self) {
        let round = self.round;
        self.levels.retain(|(name, labels), written| {
            if *written < round {
                gauge!(*name, labels.clone()).set(0.0);
            }
            *written == round
        });
        self.round += 1;
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        for (name, labels) in self.levels.keys() {
            gauge!(*name, labels.clone()).set(0.0);
        }
    }
}
