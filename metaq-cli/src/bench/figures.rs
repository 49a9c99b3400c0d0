//! What `metaq bench` has measured.

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

/// Latencies up to a minute are told apart, in nanoseconds; longer ones count as that.
const LONGEST: u64 = 60_000_000_000;

/// Figures of a latency are right to so many digits.
const DIGITS: u8 = 3;

/// What came of messages.
pub(super) struct Tally {
    /// Of acknowledged messages, in nanoseconds.
    latencies: Histogram<u64>,
    failures: Failures,
}

/// Messages that were not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) count: u64,
    pub(super) first: Option<SendError>,
}

impl Tally {
    #[expect(clippy::expect_used, reason = "the bounds are constants that a histogram takes")]
    pub(super) fn new() -> Self {
        let latencies = Histogram::new_with_max(LONGEST, DIGITS).expect("these bounds are fine");
        Self { latencies, failures: Failures::default() }
    }

    pub(super) fn acknowledged(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST);
        self.latencies.saturating_record(nanoseconds);
    }

    pub(super) fn failed(&mut self, error: SendError) {
        self.failures.count += 1;
        self.failures.first.get_or_insert(error);
    }

    pub(super) fn into_failures(self) -> Failures {
        self.failures
    }
}

/// When the measuring began, and what the program had used until then.
pub(super) struct Measured {
    start: Instant,
    cpu: Duration,
}

impl Measured {
    pub(super) fn start() -> Self {
        Self { cpu: cpu_time(), start: Instant::now() }
    }

    pub(super) fn end(self, tally: Tally) -> Figures {
        let (elapsed, cpu) = (self.start.elapsed(), cpu_time().saturating_sub(self.cpu));
        // One that was stopped before it began may have taken no time; a rate is a number all the same.
        let elapsed = elapsed.max(Duration::from_nanos(1));
        let acknowledged = tally.latencies.len();
        let messages = acknowledged + tally.failures.count;
        let quantile = |quantile| tally.latencies.value_at_quantile(quantile) as f64 / 1e3;
        let line = Line {
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
    line: Line,
    failures: Failures,
}

/// The line of JSON; its keys are for programs, and don't change.
#[derive(Debug, Serialize)]
struct Line {
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

    /// For programs.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.line)
    }

    /// For people.
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

/// The time that all threads of this program have spent on processors, in user and system mode.
fn cpu_time() -> Duration {
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let used = usage.map_or(0, |usage| micros(usage.user_time()) + micros(usage.system_time()));
    Duration::from_micros(used.unsigned_abs())
}

/// The most memory that this program has had resident.
fn peak_memory_kib() -> u64 {
    // What getrusage tells includes what the parent of a process had when it started it.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let told = peak.and_then(|peak| peak.trim().strip_suffix("kB")?.trim().parse().ok());
    told.unwrap_or_else(|| getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs()))
}
