//! The times that tests took, kept below `target` for the next run.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use crate::target;

/// The name of a whole run.
pub(crate) const ALL: &str = "all";

/// The times of one kind of run, by names.
#[derive(Debug)]
pub(crate) struct Times {
    path: PathBuf,
    times: BTreeMap<String, Duration>,
}

impl Times {
    /// Reads the times of the last run; none when there was no run.
    pub(crate) fn read(kind: &str) -> Self {
        let path = target().join(format!("xtask-{kind}-times"));
        let times = parse(&fs::read_to_string(&path).unwrap_or_default());
        Self { path, times }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Duration> {
        self.times.get(name).copied()
    }

    pub(crate) fn set(&mut self, name: &str, time: Duration) {
        self.times.insert(name.to_owned(), time);
    }

    pub(crate) fn write(&self) {
        // The next run does without them.
        let _ = fs::write(&self.path, text(&self.times));
    }

    /// A few words about the last whole run.
    pub(crate) fn last(&self) -> String {
        match self.get(ALL).map(|time| time.as_secs()) {
            None => "no run was timed here yet".to_owned(),
            Some(seconds @ ..120) => format!("the last run took {seconds} s"),
            Some(seconds) => format!("the last run took {} min", seconds.div_ceil(60)),
        }
    }
}

/// One line for each: milliseconds and name.
fn text(times: &BTreeMap<String, Duration>) -> String {
    times.iter().map(|(name, time)| format!("{} {name}\n", time.as_millis())).collect()
}

fn parse(text: &str) -> BTreeMap<String, Duration> {
    let time = |line: &str| {
        let (millis, name) = line.split_once(' ')?;
        Some((name.to_owned(), Duration::from_millis(millis.parse().ok()?)))
    };
    text.lines().filter_map(time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_were_written() {
        let times = [("a b", 1500), ("all", 61_000)];
        let times: BTreeMap<_, _> = times
            .into_iter()
            .map(|(name, millis)| (name.to_owned(), Duration::from_millis(millis)))
            .collect();
        assert_eq!(parse(&text(&times)), times);
        assert!(parse("x\n1\n\nx y\n").is_empty());
    }

    #[test]
    fn the_last_run_is_described_in_seconds_or_minutes() {
        let last = |times: &str| Times { path: PathBuf::new(), times: parse(times) }.last();
        assert_eq!(last(""), "no run was timed here yet");
        assert_eq!(last("61000 all"), "the last run took 61 s");
        assert_eq!(last("600001 all"), "the last run took 10 min");
        assert_eq!(last("601000 all"), "the last run took 11 min");
    }
}
