//! The counts of requests that a broker reports by `stats`.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// A count that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load(Ordering::Relaxed).fmt(f)
    }
}

/// The counts of a broker. A Java broker counts all requests, refused ones included; the handlers show the
/// exceptions.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) put: Counter,
    pub(super) get: Counter,
    pub(super) offset: Counter,
    pub(super) begin: Counter,
    pub(super) xa_begin: Counter,
    pub(super) commit: Counter,
    pub(super) rollback: Counter,
    pub(super) get_miss: Counter,
    pub(super) put_failed: Counter,
}
