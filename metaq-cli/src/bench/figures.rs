//! The results of `metaq bench`.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use metaq_producer::SendError;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde::Serialize;

use crate::exit_status::FailureCounts;

/// Upper bound of recorded latencies, in nanoseconds: a minute. Longer ones are recorded as this.
const MAX_LATENCY: u64 = 60_000_000_000;

/// The number of significant digits of recorded latencies.
const DIGITS: u8 = 3;

/// Counts and latencies of messages.
pub(super) struct Tally {
    /// Latencies of acknowledged messages, in nanoseconds.
    latencies: Histogram<u64>,
    failures: Failures,
}

/// Messages that were not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) count: u64,
    pub(super) outcomes: FailureCounts,
    pub(super) first: Option<SendError>,
}

impl Tally {
    #[expect(clippy::expect_used, reason = "the bounds are constants that a histogram takes")]
    pub(super) fn new() -> Self {
        let latencies = Histogram::new_with_max(MAX_LATENCY, DIGITS).expect("these bounds are fine");
        Self { latencies, failures: Failures::default() }
    }

    pub(super) fn acknowledged(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(MAX_LATENCY);
        self.latencies.saturating_record(nanoseconds);
    }

    pub(super) fn failed(&mut self, error: SendError) {
        self.failures.count += 1;
        self.failures.outcomes.add(error.outcome());
        self.failures.first.get_or_insert(error);
    }

    pub(super) fn into_failures(self) -> Failures {
        self.failures
    }
}

/// A measurement in progress: its start, and the CPU time that the program had used by then.
pub(super) struct Measurement {
    start: Instant,
    cpu: Duration,
}

impl Measurement {
    pub(super) fn start() -> Self {
        Self { cpu: cpu_time(), start: Instant::now() }
    }

    pub(super) fn end(self, tally: Tally) -> Figures {
        let (elapsed, cpu) = (self.start.elapsed(), cpu_time().saturating_sub(self.cpu));
        // A run that was stopped before it began may have taken no time; the rate must still be a number.
        let elapsed = elapsed.max(Duration::from_nanos(1));
        let acknowledged = tally.latencies.len();
        let messages = acknowledged + tally.failures.count;
        let quantile = |quantile| tally.latencies.value_at_quantile(quantile) as f64 / 1e3;
        let line = FiguresLine {
            messages,
            elapsed_s: elapsed.as_secs_f64(),
            msgs_per_s: acknowledged as f64 / elapsed.as_secs_f64(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            cpu_us_per_msg: if messages == 0 { 0.0 } else { cpu.as_secs_f64() * 1e6 / messages as f64 },
            max_rss_kib: peak_memory_kib(),
            failures: tally.failures.count,
        };
        Figures { line, failures: tally.failures }
    }
}

/// The figures of one run.
#[derive(Debug)]
pub(super) struct Figures {
    line: FiguresLine,
    failures: Failures,
}

/// The line of JSON. Programs read it, so its keys don't change.
#[derive(Debug, Serialize)]
struct FiguresLine {
    messages: u64,
    elapsed_s: f64,
    msgs_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us_per_msg: f64,
    max_rss_kib: u64,
    failures: u64,
}

impl Figures {
    pub(super) fn messages(&self) -> u64 {
        self.line.messages
    }

    pub(super) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Formats the figures for programs.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.line)
    }

    /// Formats the figures for people.
    pub(super) fn table(&self, size: usize, in_flight: usize) -> String {
        let line = &self.line;
        let rows = [
            ("messages", format!("{} of {size} bytes, {in_flight} in flight", line.messages)),
            ("failures", line.failures.to_string()),
            ("time", format!("{:.3} s", line.elapsed_s)),
            ("rate", format!("{:.0} messages/s", line.msgs_per_s)),
            ("latency p50", format!("{:.1} µs", line.p50_us)),
            ("latency p99", format!("{:.1} µs", line.p99_us)),
            ("latency p99.9", format!("{:.1} µs", line.p999_us)),
            ("CPU", format!("{:.2} µs/message", line.cpu_us_per_msg)),
            ("memory", format!("{:.1} MiB at most", line.max_rss_kib as f64 / 1024.0)),
        ];
        let mut table = String::new();
        for (name, value) in rows {
            // Writing to a string can't fail.
            let _ = writeln!(table, "{name:<15}{value}");
        }
        table
    }
}

/// Returns the CPU time of all threads of this program, in user and system mode.
fn cpu_time() -> Duration {
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let used = usage.map_or(0, |usage| micros(usage.user_time()) + micros(usage.system_time()));
    Duration::from_micros(used.unsigned_abs())
}

/// Returns the peak resident memory of this program.
fn peak_memory_kib() -> u64 {
    // The value of `getrusage` includes the memory that the parent process had when it started this one.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let parsed = peak.and_then(|peak| peak.trim().strip_suffix("kB")?.trim().parse().ok());
    parsed
        .unwrap_or_else(|| getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs()))
}
