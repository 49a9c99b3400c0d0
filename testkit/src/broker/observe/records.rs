//! Records of the requests that a broker received.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use metaq_protocol::Command;
use parking_lot::Mutex;

use crate::broker::requests::Requests;

/// A request as a broker received it, whatever it did with it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SeenRequest {
    /// The number of the connection on which it arrived, counted from 1 in the order in which they were made.
    pub connection: usize,
    /// The request.
    pub command: Command,
}

/// The requests that a [`Broker`](crate::Broker) received after [`Broker::record`](crate::Broker::record) was
/// called, as far as they match. Clones are the same record. The broker stops recording when the last clone
/// is dropped.
#[derive(Clone, Debug)]
pub struct Record(Arc<RecordState>);

#[derive(Debug)]
struct RecordState {
    requests: Requests,
    matched: AtomicU64,
    seen: Mutex<Vec<SeenRequest>>,
}

impl Record {
    pub(in crate::broker) fn new(requests: Requests) -> Self {
        Self(Arc::new(RecordState { requests, matched: AtomicU64::new(0), seen: Mutex::default() }))
    }

    /// Returns all recorded requests, in the order in which the broker received them.
    #[must_use]
    pub fn all(&self) -> Vec<SeenRequest> {
        self.0.seen.lock().clone()
    }

    /// Returns the number of recorded requests.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.seen.lock().len()
    }

    /// Removes and returns all recorded requests.
    #[must_use]
    pub fn take(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut *self.0.seen.lock())
    }
}

/// All records of a broker.
#[derive(Debug, Default)]
pub(in crate::broker) struct Records {
    /// Set while there is any record, to check without the lock.
    any: AtomicBool,
    records: Mutex<Vec<Record>>,
}

impl Records {
    pub(in crate::broker) fn add(&self, record: Record) {
        let mut records = self.records.lock();
        records.push(record);
        self.any.store(true, Ordering::Release);
    }

    /// Adds a request to the records that it matches.
    pub(in crate::broker) fn observe(&self, command: &Command, connection: usize) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut records = self.records.lock();
        records.retain(|record| Arc::strong_count(&record.0) > 1);
        self.any.store(!records.is_empty(), Ordering::Release);
        for Record(state) in &*records {
            if state.requests.matches(command, connection) {
                let matched = state.matched.fetch_add(1, Ordering::AcqRel);
                let mut seen = state.seen.lock();
                if matched >= state.requests.skip && matched - state.requests.skip < state.requests.limit {
                    seen.push(SeenRequest { connection, command: command.clone() });
                }
            }
        }
    }
}
