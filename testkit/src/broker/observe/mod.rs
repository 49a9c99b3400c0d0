//! Observations of the requests that a broker receives, whatever it does with them.
//!
//! - `records`: the requests that match a filter.
//! - `put_monitor`: the unanswered puts of each partition.
//!
//! `connections` reports requests here. A test starts an observation by a method of `handle/watch`.

mod put_monitor;
mod records;

pub use put_monitor::PutMonitor;
pub(super) use put_monitor::UnansweredPut;
pub(super) use records::Records;
pub use records::{Record, SeenRequest};
