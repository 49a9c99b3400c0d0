//! The limits of this machine: a client with one thread, and without a runtime or the guarantees of a
//! producer, sends the same bytes to the same broker.

mod exchange;
mod puts;
mod throughput;

pub use exchange::{exchange, ping_pong};
pub use puts::{Puts, Work};
pub use throughput::tcp_throughput;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The figures of one limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limit {
    /// The name of the limit.
    pub what: String,
    /// The size of each payload, in bytes.
    pub size: usize,
    /// The number of messages in flight; 0 if none is answered.
    pub window: usize,
    /// Messages per second.
    pub msgs_per_s: f64,
    /// CPU time of the client per message, in microseconds; none if the peer is in the same process.
    pub cpu_us_per_msg: Option<f64>,
    /// The median time from a message to its answer, in microseconds, if single messages were timed.
    pub p50_us: Option<f64>,
    /// The 99th percentile of that time, in microseconds.
    pub p99_us: Option<f64>,
}

impl Limit {
    pub(crate) fn new(what: &str, size: usize, window: usize, messages: u64, elapsed: Duration) -> Self {
        let msgs_per_s = messages as f64 / elapsed.as_secs_f64();
        let what = what.to_owned();
        Self { what, size, window, msgs_per_s, cpu_us_per_msg: None, p50_us: None, p99_us: None }
    }

    pub(crate) fn with_cpu(mut self, cpu: Duration, messages: u64) -> Self {
        self.cpu_us_per_msg = Some(cpu.as_secs_f64() * 1e6 / messages.max(1) as f64);
        self
    }
}
