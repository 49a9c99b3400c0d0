//! The cases to compare, and the number and duration of rounds.

use std::{fmt, time::Duration};

/// Limit on the bytes of a window of messages. A larger one would measure memory rather than clients.
const LARGEST_WINDOW: usize = 128 << 20;

const SIZES: [usize; 4] = [128, 1024, 16 * 1024, 256 * 1024];
const WINDOWS: [usize; 4] = [1, 64, 1024, 8192];

/// The minimum number of messages of a round.
pub(super) const MIN_MESSAGES: u64 = 50;

/// The maximum number of messages of a round.
const MAX_MESSAGES: u64 = 20_000_000;

/// The broker to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Null,
    Real,
}

/// One case: a message size, and a number of messages in flight to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) target: Target,
    pub(super) size: usize,
    pub(super) window: usize,
    /// Set if processors are kept from halting.
    pub(super) awake: bool,
}

impl Case {
    fn null(size: usize, window: usize) -> Self {
        Self { target: Target::Null, size, window, awake: false }
    }

    fn real(size: usize, window: usize) -> Self {
        Self { target: Target::Real, ..Self::null(size, window) }
    }

    fn awake(self) -> Self {
        Self { awake: true, ..self }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", bytes(self.size), thousands(self.window as f64))?;
        if self.target == Target::Real {
            write!(f, ", real broker")?;
        }
        if self.awake {
            write!(f, ", cores awake")?;
        }
        Ok(())
    }
}

/// Formats a size for people.
pub(super) fn bytes(size: usize) -> String {
    if size.is_multiple_of(1024) { format!("{} KiB", size / 1024) } else { format!("{size} B") }
}

/// Formats a whole number for people, with thousands separators.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::from(if number <= -0.5 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The cases, and the number and duration of rounds.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) quick: bool,
    pub(super) cases: Vec<Case>,
    /// Cases left out because their window takes too much memory.
    pub(super) left_out: Vec<Case>,
    /// Numbers of tasks that send one message at a time each.
    pub(super) tasks: Vec<u32>,
    /// The number of measured rounds of each client.
    pub(super) rounds: usize,
    /// The number of rounds that the Java client gets first, so that the JVM compiles it.
    pub(super) warm_up: usize,
    /// The approximate duration of a measured round.
    pub(super) round: Duration,
    /// The approximate duration of one of Java's first rounds.
    pub(super) warm_up_round: Duration,
}

impl Plan {
    pub(super) fn full() -> Self {
        let all = SIZES.into_iter().flat_map(|size| WINDOWS.map(|window| Case::null(size, window)));
        let (mut cases, left_out): (Vec<_>, Vec<_>) =
            all.partition(|case| case.size * case.window <= LARGEST_WINDOW);
        cases.extend(SIZES.map(|size| Case::null(size, 1).awake()));
        cases.push(Case::null(128, 64).awake());
        cases.push(Case::null(128, 1024).awake());
        cases.extend([1, 64, 1024].map(|window| Case::real(128, window)));
        cases.push(Case::real(1024, 1024));
        Self {
            quick: false,
            cases,
            left_out,
            tasks: vec![1024, 10_000],
            rounds: 5,
            warm_up: 6,
            round: Duration::from_millis(1000),
            warm_up_round: Duration::from_millis(1000),
        }
    }

    pub(super) fn quick() -> Self {
        let mut cases: Vec<_> = WINDOWS.map(|window| Case::null(128, window)).into();
        cases.extend([Case::null(1024, 1024), Case::null(16 * 1024, 1024), Case::null(256 * 1024, 64)]);
        cases.extend([Case::null(128, 1).awake(), Case::real(128, 1024)]);
        Self {
            quick: true,
            cases,
            left_out: Vec::new(),
            rounds: 3,
            warm_up: 5,
            round: Duration::from_millis(500),
            warm_up_round: Duration::from_millis(700),
            ..Self::full()
        }
    }

    /// Returns the plan for comparing two builds of metaq. Java doesn't run, so there is time for more
    /// rounds.
    pub(super) fn against(self) -> Self {
        let rounds = if self.quick { 9 } else { 15 };
        Self { rounds, ..self }
    }

    /// Returns the number of messages of a round at `rate` messages a second.
    pub(super) fn messages(&self, rate: f64, case: Case) -> u64 {
        messages(rate, self.round, case)
    }

    /// Keeps the cases whose name contains `text`.
    pub(super) fn retain(&mut self, text: &str) {
        self.cases.retain(|case| case.to_string().contains(text));
    }
}

/// Returns the number of messages that take `time` at `rate` messages a second, within the limits of a round.
pub(super) fn messages(rate: f64, time: Duration, case: Case) -> u64 {
    ((rate * time.as_secs_f64()) as u64).max(4 * case.window as u64).clamp(MIN_MESSAGES, MAX_MESSAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_and_window_is_measured_or_left_out() {
        let plan = Plan::full();
        let left_out: Vec<_> = plan.left_out.iter().map(Case::to_string).collect();
        assert_eq!(left_out, ["256 KiB, 1,024", "256 KiB, 8,192"]);
        for size in SIZES {
            for window in WINDOWS {
                let case = Case::null(size, window);
                assert!(plan.cases.contains(&case) != plan.left_out.contains(&case), "{case}");
            }
        }
        assert!(Plan::quick().cases.iter().all(|case| plan.cases.contains(case)));
    }

    #[test]
    fn cases_are_named_as_people_write_them() {
        assert_eq!(Case::null(16 * 1024, 8192).to_string(), "16 KiB, 8,192");
        assert_eq!(Case::real(128, 1).to_string(), "128 B, 1, real broker");
        assert_eq!(Case::null(1024, 1).awake().to_string(), "1 KiB, 1, cores awake");
        assert_eq!([0.4, 999.6, 1_234_567.0, -123.0].map(thousands), ["0", "1,000", "1,234,567", "-123"]);
    }
}
