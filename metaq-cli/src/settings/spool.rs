//! The settings of a spool.

use std::{path::Path, time::Duration};

use metaq_spool::{Fsync, SpoolOptions, WhenFull};

use super::{Origin, Settings};

/// The settings of a spool. Each has the name of a field of [`SpoolOptions`].
pub(super) const SPOOL_SETTINGS: [&str; 10] = [
    "spool.fsync",
    "spool.max_messages",
    "spool.max_bytes",
    "spool.max_age",
    "spool.when_full",
    "spool.spool_unknown",
    "spool.spool_server_errors",
    "spool.replay_rate",
    "spool.replay_window",
    "spool.max_attempts",
];

/// The largest message that the protocol can carry.
const LARGEST: usize = i32::MAX as usize;

/// The interval of `interval`, when none is named.
const INTERVAL: Duration = Duration::from_millis(10);

impl Settings {
    /// Returns the options of the spool in a folder.
    pub(crate) fn spool(&self, folder: &Path) -> SpoolOptions {
        let mut options = SpoolOptions::new(folder);
        for name in SPOOL_SETTINGS {
            if let Some(value) = self.get(name) {
                // It was checked when it was collected.
                let _ = set(&mut options, name, value);
            }
        }
        options.ordered = self.config.ordered;
        options
    }

    /// Lifts the limit on the size of messages, unless it is set. What a folder holds was within the limit of
    /// lines when it was spooled, and would be set aside beyond the default of another run.
    pub(crate) fn lift_size_limit(&mut self) {
        if *self.origin("max_message_size") == Origin::Default {
            self.config.max_message_size = LARGEST;
        }
    }

    /// Returns the text of a spool's setting, also of a default; `None` for other settings, and for what is
    /// not limited.
    pub(crate) fn spool_text(&self, name: &str) -> Option<String> {
        let options = self.spool(Path::new(""));
        let time = |time: Duration| humantime::format_duration(time).to_string();
        match name {
            "spool.fsync" => Some(match options.fsync {
                Fsync::Interval(interval) => format!("interval={}", time(interval)),
                Fsync::Never => "never".to_owned(),
                _ => "each".to_owned(),
            }),
            "spool.max_messages" => Some(options.max_messages.to_string()),
            "spool.max_bytes" => Some(options.max_bytes.to_string()),
            "spool.max_age" => options.max_age.map(time),
            "spool.when_full" => Some(match options.when_full {
                WhenFull::DropOldest => "drop-oldest".to_owned(),
                _ => "refuse".to_owned(),
            }),
            "spool.spool_unknown" => Some(options.spool_unknown.to_string()),
            "spool.spool_server_errors" => Some(options.spool_server_errors.to_string()),
            "spool.replay_rate" => options.replay_rate.map(|rate| rate.to_string()),
            "spool.replay_window" => Some(options.replay_window.to_string()),
            "spool.max_attempts" => Some(options.max_attempts.to_string()),
            _ => None,
        }
    }

    /// Returns a setting of a spool that was given as an option.
    pub(crate) fn spool_option(&self) -> Option<&'static str> {
        SPOOL_SETTINGS.into_iter().find(|name| matches!(self.origin(name), Origin::Option(_)))
    }
}

/// Fails when a setting of a spool can't have this value.
pub(super) fn check(name: &str, value: &str) -> Result<(), String> {
    let expected = set(&mut SpoolOptions::new(""), name, value);
    expected.map_err(|expected| format!("{name} is {value:?}, but it has to be {expected}"))
}

/// Sets an option; the error says what its value has to be.
fn set(options: &mut SpoolOptions, name: &str, value: &str) -> Result<(), &'static str> {
    const COUNT: &str = "a whole number that is greater than zero";
    const SWITCH: &str = "true or false";
    let switch = || value.parse::<bool>().map_err(|_| SWITCH);
    let count = || value.parse::<u64>().ok().filter(|count| *count > 0).ok_or(COUNT);
    match name {
        "spool.fsync" => {
            options.fsync = fsync(value).ok_or("each, never, interval, or interval=TIME, such as 10ms")?;
        }
        "spool.max_messages" => options.max_messages = count()?,
        "spool.max_bytes" => {
            options.max_bytes =
                size(value).ok_or("a number of bytes, KiB, MiB, GiB or TiB, such as 64MiB")?;
        }
        "spool.max_age" => {
            options.max_age = Some(time(value).ok_or("a time with a unit, such as 12h or 3days")?);
        }
        "spool.when_full" => {
            options.when_full = match value {
                "refuse" => WhenFull::Refuse,
                "drop-oldest" => WhenFull::DropOldest,
                _ => return Err("refuse or drop-oldest"),
            };
        }
        "spool.spool_unknown" => options.spool_unknown = switch()?,
        "spool.spool_server_errors" => options.spool_server_errors = switch()?,
        "spool.replay_rate" => options.replay_rate = Some(u32::try_from(count()?).unwrap_or(u32::MAX)),
        "spool.replay_window" => {
            let window = count()?;
            let most = "a whole number from 1 to 65536";
            options.replay_window =
                usize::try_from(window).ok().filter(|window| *window <= 65_536).ok_or(most)?;
        }
        "spool.max_attempts" => options.max_attempts = u32::try_from(count()?).unwrap_or(u32::MAX),
        _ => {}
    }
    Ok(())
}

fn fsync(text: &str) -> Option<Fsync> {
    match text {
        "each" => Some(Fsync::Each),
        "never" => Some(Fsync::Never),
        "interval" => Some(Fsync::Interval(INTERVAL)),
        _ => time(text.strip_prefix("interval=")?).map(Fsync::Interval),
    }
}

/// Parses a time that is greater than zero.
fn time(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|time| !time.is_zero())
}

/// Parses a number of bytes that is greater than zero.
fn size(text: &str) -> Option<u64> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_its_values_and_a_reason_for_others() {
        for (name, good, bad, said) in [
            ("spool.fsync", &["each", "never", "interval", "interval=1s"][..], "interval=0s", "each, never"),
            ("spool.max_messages", &["1"], "0", "greater than zero"),
            ("spool.max_bytes", &["1", "64MiB", "1 TiB"], "16M", "such as 64MiB"),
            ("spool.max_age", &["12h", "3days"], "3", "such as 12h"),
            ("spool.when_full", &["refuse", "drop-oldest"], "drop", "refuse or drop-oldest"),
            ("spool.spool_unknown", &["true"], "yes", "true or false"),
            ("spool.spool_server_errors", &["false"], "", "true or false"),
            ("spool.replay_rate", &["100"], "-1", "whole number"),
            ("spool.replay_window", &["65536"], "65537", "from 1 to 65536"),
            ("spool.max_attempts", &["7"], "x", "whole number"),
        ] {
            good.iter().for_each(|value| check(name, value).unwrap());
            let error = check(name, bad).unwrap_err();
            assert!(error.starts_with(&format!("{name} is {bad:?}, ")) && error.contains(said), "{error}");
        }
    }

    #[test]
    fn sizes_and_intervals_have_units() {
        for (text, bytes) in [("7", 7), ("2KiB", 2 << 10), ("3 MiB", 3 << 20), ("1TiB", 1 << 40)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        assert!(["", "0", "MiB", "1.5MiB", "99999999999TiB"].iter().all(|text| size(text).is_none()));
        assert_eq!(fsync("interval"), Some(Fsync::Interval(Duration::from_millis(10))));
        assert_eq!(fsync("interval=2s"), Some(Fsync::Interval(Duration::from_secs(2))));
    }
}
