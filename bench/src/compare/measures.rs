//! The measures of both clients, and their comparison.

use super::{
    comparison::Row,
    figures::{Figures, Spread},
};
use crate::limits::Limit;

/// A measure of both clients.
pub(super) struct Measure {
    pub(super) name: &'static str,
    of: fn(&Figures) -> f64,
    /// The measure of the client without a runtime.
    raw: fn(&Limit) -> Option<f64>,
    pub(super) decimals: usize,
    /// Set if lower values are better.
    lower_is_better: bool,
}

pub(super) const MEASURES: [Measure; 5] = [
    Measure {
        name: "Messages per second",
        of: |figures| figures.msgs_per_s,
        raw: |limit| Some(limit.msgs_per_s),
        decimals: 0,
        lower_is_better: false,
    },
    Measure {
        name: "Median latency, µs",
        of: |figures| figures.p50_us,
        raw: |limit| limit.p50_us,
        decimals: 1,
        lower_is_better: true,
    },
    Measure {
        name: "99th percentile of the latency, µs",
        of: |figures| figures.p99_us,
        raw: |limit| limit.p99_us,
        decimals: 1,
        lower_is_better: true,
    },
    Measure {
        name: "CPU of the client per message, µs",
        of: |figures| figures.cpu_us_per_msg,
        raw: |limit| limit.cpu_us_per_msg,
        decimals: 2,
        lower_is_better: true,
    },
    Measure {
        name: "Peak memory of the client, MiB",
        of: |figures| figures.max_rss_kib as f64 / 1024.0,
        raw: |_| None,
        decimals: 1,
        lower_is_better: true,
    },
];

impl Measure {
    pub(super) fn java(&self, row: &Row) -> Option<Spread> {
        Spread::of(row.java.iter().map(self.of))
    }

    pub(super) fn metaq(&self, row: &Row) -> Option<Spread> {
        Spread::of(row.metaq.iter().map(self.of))
    }

    pub(super) fn raw(&self, row: &Row) -> Option<Spread> {
        Spread::of(row.raw.iter().filter_map(self.raw))
    }

    /// Returns the ratio of the medians, above 1 if metaq is better than Java.
    pub(super) fn ratio(&self, row: &Row) -> Option<f64> {
        let (java, metaq) = (self.java(row)?.median, self.metaq(row)?.median);
        Some(if self.lower_is_better { java / metaq } else { metaq / java })
    }
}
