//! What happened over time, in intervals of equal length.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The length of an interval. Longer runs have longer ones when they are drawn.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// The most intervals that are kept; then two at a time become one.
const MAX_INTERVALS: usize = 4096;

/// One interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Interval {
    /// The time from the start of the run to that of the interval.
    pub(super) start: Duration,
    pub(super) length: Duration,
    /// The number of messages that were acknowledged.
    pub(super) count: u64,
    /// Latencies in nanoseconds; zero without messages.
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

/// The intervals so far, and the latencies of the current one.
#[derive(Debug)]
pub(super) struct Timeline {
    started: Instant,
    length: Duration,
    intervals: Vec<Interval>,
    current: Histogram<u64>,
}

impl Timeline {
    #[expect(clippy::expect_used, reason = "the bounds are constants that a histogram takes")]
    pub(super) fn new() -> Self {
        let current = Histogram::new_with_max(60_000_000_000, 2).expect("these bounds are fine");
        Self { started: Instant::now(), length: INTERVAL, intervals: Vec::new(), current }
    }

    /// Records the latency of a message that was acknowledged now.
    pub(super) fn record(&mut self, nanoseconds: u64) {
        self.advance(self.started.elapsed());
        self.current.saturating_record(nanoseconds);
    }

    /// Ends the intervals that are over after this time.
    fn advance(&mut self, elapsed: Duration) {
        while elapsed >= self.start() + self.length {
            self.end_interval();
        }
    }

    /// The start of the current interval.
    fn start(&self) -> Duration {
        self.intervals.last().map_or(Duration::ZERO, |last| last.start + last.length)
    }

    fn end_interval(&mut self) {
        let mut interval = Interval { start: self.start(), length: self.length, ..Interval::default() };
        if !self.current.is_empty() {
            interval.count = self.current.len();
            interval.p50 = self.current.value_at_quantile(0.5);
            interval.p99 = self.current.value_at_quantile(0.99);
            interval.max = self.current.max();
            self.current.reset();
        }
        self.intervals.push(interval);
        if self.intervals.len() >= MAX_INTERVALS {
            self.intervals = merge(&self.intervals, 2);
            self.length *= 2;
        }
    }

    /// Returns the intervals. The last one is shorter.
    pub(super) fn end(mut self) -> Vec<Interval> {
        let elapsed = self.started.elapsed();
        self.advance(elapsed);
        self.length = (elapsed - self.start()).max(Duration::from_micros(1));
        if !self.current.is_empty() {
            self.end_interval();
        }
        self.intervals
    }
}

/// Makes one interval of each `count`.
pub(super) fn merge(intervals: &[Interval], count: usize) -> Vec<Interval> {
    let merged = intervals.chunks(count.max(1)).map(|parts| {
        let messages: u64 = parts.iter().map(|part| part.count).sum();
        // The mean of medians, by messages: the latencies themselves are gone.
        let medians: u128 = parts.iter().map(|part| u128::from(part.p50) * u128::from(part.count)).sum();
        Interval {
            start: parts[0].start,
            length: parts.iter().map(|part| part.length).sum(),
            count: messages,
            p50: (medians / u128::from(messages.max(1))) as u64,
            p99: parts.iter().map(|part| part.p99).max().unwrap_or_default(),
            max: parts.iter().map(|part| part.max).max().unwrap_or_default(),
        }
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_in_the_interval_of_its_time() {
        let mut timeline = Timeline::new();
        for (millis, latency) in [(0, 10), (99, 30), (100, 50), (350, 70)] {
            timeline.advance(Duration::from_millis(millis));
            timeline.current.saturating_record(latency);
        }
        timeline.end_interval();
        let counts: Vec<_> = timeline.intervals.iter().map(|interval| interval.count).collect();
        assert_eq!(counts, [2, 1, 0, 1]);
        let starts: Vec<_> = timeline.intervals.iter().map(|interval| interval.start.as_millis()).collect();
        assert_eq!(starts, [0, 100, 200, 300]);
        assert_eq!((timeline.intervals[0].p50, timeline.intervals[0].max), (10, 30));
        let merged = merge(&timeline.intervals, 3);
        assert_eq!(merged.len(), 2);
        assert_eq!((merged[0].count, merged[0].length.as_millis(), merged[0].p99), (3, 300, 50));
    }

    #[test]
    fn long_runs_have_longer_intervals() {
        let mut timeline = Timeline::new();
        for second in 0..3600 {
            timeline.advance(Duration::from_secs(second));
            timeline.current.saturating_record(1);
        }
        let intervals = timeline.intervals;
        assert!(intervals.len() < MAX_INTERVALS && intervals.len() > MAX_INTERVALS / 4);
        assert_eq!(intervals.iter().map(|interval| interval.count).sum::<u64>(), 3599);
        assert!(intervals.windows(2).all(|pair| pair[0].start + pair[0].length == pair[1].start));
    }
}
