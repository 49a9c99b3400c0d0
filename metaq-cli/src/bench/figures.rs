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
use serde_json::{Map, Value};

use super::{
    sampling::{LimitedBy, Observed, Samples},
    timeline::{Interval, Timeline},
};
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
    /// How late messages were sent that were due at a time.
    late: Option<Histogram<u64>>,
    timeline: Option<Timeline>,
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
        Self { latencies, failures: Failures::default(), late: None, timeline: None }
    }

    /// Records what happens over time, too.
    pub(super) fn with_timeline(mut self) -> Self {
        self.timeline = Some(Timeline::new());
        self
    }

    /// Records how late a message was sent that was due at a time.
    pub(super) fn sent_late(&mut self, late: Duration) {
        let late_ones = self.late.get_or_insert_with(|| {
            Histogram::new_with_max(MAX_LATENCY, DIGITS).unwrap_or_else(|_| self.latencies.clone())
        });
        late_ones.saturating_record(nanoseconds(late));
    }

    pub(super) fn acknowledged(&mut self, latency: Duration) {
        let nanoseconds = nanoseconds(latency);
        self.latencies.saturating_record(nanoseconds);
        if let Some(timeline) = &mut self.timeline {
            timeline.record(nanoseconds);
        }
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

    pub(super) fn end(self, mut tally: Tally) -> Figures {
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
            details: None,
        };
        let late_p99_us = tally.late.map(|late| late.value_at_quantile(0.99) as f64 / 1e3);
        let timeline = tally.timeline.take().map(Timeline::end).unwrap_or_default();
        let (latencies, failures) = (tally.latencies, tally.failures);
        Figures {
            line,
            failures,
            cpu: cpu.as_secs_f64() / elapsed.as_secs_f64(),
            latencies,
            late_p99_us,
            timeline,
        }
    }
}

/// The figures of one run.
#[derive(Debug)]
pub(super) struct Figures {
    line: FiguresLine,
    failures: Failures,
    /// The CPU time as a part of the elapsed time.
    cpu: f64,
    /// In nanoseconds.
    pub(super) latencies: Histogram<u64>,
    late_p99_us: Option<f64>,
    pub(super) timeline: Vec<Interval>,
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
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// Further figures, at the end of the line.
#[derive(Debug, Serialize)]
struct Details {
    p90_us: f64,
    max_us: f64,
    mb_per_s: f64,
    connections: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked_per_s: Option<f64>,
    /// How late 99 % of the messages that were due at a time were sent at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    late_p99_us: Option<f64>,
    /// The round trip of a request to an idle broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_us: Option<f64>,
    limited_by: &'static str,
    #[serde(skip)]
    explanation: String,
}

/// What the further figures need to know about the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The mean size of the payloads in bytes.
    pub(super) mean_size: f64,
    pub(super) connections: u32,
    pub(super) rate: Option<f64>,
    pub(super) samples: Samples,
    pub(super) round_trip: Option<Duration>,
}

impl Figures {
    /// Adds the further figures.
    pub(super) fn add_details(&mut self, run: &Run) {
        let Run { mean_size, connections, rate, samples, round_trip } = *run;
        let observed = Observed {
            asked: rate,
            reached: self.line.msgs_per_s,
            cpu: self.cpu,
            samples,
            median: Duration::from_nanos(self.latencies.value_at_quantile(0.5)),
            round_trip,
        };
        let limited_by = LimitedBy::find(&observed);
        self.line.details = Some(Details {
            p90_us: self.latencies.value_at_quantile(0.9) as f64 / 1e3,
            max_us: if self.latencies.is_empty() { 0.0 } else { self.latencies.max() as f64 / 1e3 },
            mb_per_s: self.line.msgs_per_s * mean_size / 1e6,
            connections,
            asked_per_s: rate,
            late_p99_us: self.late_p99_us,
            round_trip_us: round_trip.map(|round_trip| round_trip.as_secs_f64() * 1e6),
            limited_by: limited_by.name(),
            explanation: limited_by.explain(&observed),
        });
    }

    /// The figures as the line of JSON has them.
    pub(super) fn map(&self) -> Map<String, Value> {
        match serde_json::to_value(&self.line) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }

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
    pub(super) fn table(&self, workload: &str) -> String {
        let mut table = String::new();
        for (name, value) in self.rows(workload) {
            // Writing to a string can't fail.
            let _ = writeln!(table, "{name:<15}{value}");
        }
        table
    }

    /// Formats the figures as words separated by tabs.
    pub(super) fn plain(&self, workload: &str) -> String {
        self.rows(workload).into_iter().map(|(name, value)| format!("{name}\t{value}\n")).collect()
    }

    fn rows(&self, workload: &str) -> Vec<(&'static str, String)> {
        let line = &self.line;
        let mut rows = vec![
            ("messages", format!("{} {workload}", line.messages)),
            ("failures", line.failures.to_string()),
            ("time", format!("{:.3} s", line.elapsed_s)),
            ("rate", format!("{:.0} messages/s", line.msgs_per_s)),
            ("latency p50", format!("{:.1} µs", line.p50_us)),
            ("latency p99", format!("{:.1} µs", line.p99_us)),
            ("latency p99.9", format!("{:.1} µs", line.p999_us)),
            ("CPU", format!("{:.2} µs/message", line.cpu_us_per_msg)),
            ("memory", format!("{:.1} MiB at most", line.max_rss_kib as f64 / 1024.0)),
        ];
        if let Some(details) = &line.details {
            rows.push(("latency p90", format!("{:.1} µs", details.p90_us)));
            rows.push(("latency max", format!("{:.1} µs", details.max_us)));
            rows.push(("throughput", format!("{:.2} MB/s", details.mb_per_s)));
            if let Some(late) = details.late_p99_us {
                rows.push(("sent late p99", format!("{late:.1} µs")));
            }
            rows.push(("limited by", details.explanation.clone()));
        }
        rows
    }
}

fn nanoseconds(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(MAX_LATENCY)
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
