//! The figures of a run beside those of an earlier one.

use std::{fmt::Write as _, fs, io, path::Path};

use serde_json::{Map, Value};

/// The figures that are compared, and whether more is better.
const COMPARED: [(&str, bool); 9] = [
    ("msgs_per_s", true),
    ("mb_per_s", true),
    ("p50_us", false),
    ("p90_us", false),
    ("p99_us", false),
    ("p999_us", false),
    ("max_us", false),
    ("cpu_us_per_msg", false),
    ("max_rss_kib", false),
];

/// A change of less than this is not called better or worse.
const NOTEWORTHY: f64 = 0.05;

/// Reads the figures of an earlier run: the last line of a file.
///
/// # Errors
/// When the file can't be read, or that line has no figures.
pub(super) fn read(path: &Path) -> io::Result<Map<String, Value>> {
    let text = fs::read_to_string(path)?;
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let figures = serde_json::from_str::<Value>(last).ok().and_then(|value| match value {
        Value::Object(figures) if figures.contains_key("msgs_per_s") => Some(figures),
        _ => None,
    });
    figures.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "its last line is not that of metaq bench --json")
    })
}

/// Formats the figures of both runs, and their differences.
pub(super) fn table(old: &Map<String, Value>, new: &Map<String, Value>) -> String {
    let mut table = format!("\n{:<15}{:>14}{:>14}{:>10}\n", "", "old", "new", "change");
    for (name, more_is_better) in COMPARED {
        let figure = |figures: &Map<String, Value>| figures.get(name).and_then(Value::as_f64);
        let (Some(old), Some(new)) = (figure(old), figure(new)) else { continue };
        let change = if old == 0.0 { 0.0 } else { new / old - 1.0 };
        let verdict = match change {
            change if change.abs() < NOTEWORTHY => "",
            change if (change > 0.0) == more_is_better => "  better",
            _ => "  worse",
        };
        // Writing to a string can't fail.
        let _ = writeln!(table, "{name:<15}{old:>14.2}{new:>14.2}{:>+9.1}%{verdict}", change * 100.0);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(text: &str) -> Map<String, Value> {
        match serde_json::from_str(text).unwrap() {
            Value::Object(figures) => figures,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn changes_are_named_in_the_right_direction() {
        let old = figures(r#"{"msgs_per_s":1000.0,"p50_us":100.0,"p99_us":200.0,"max_us":0.0}"#);
        let new = figures(r#"{"msgs_per_s":1500.0,"p50_us":200.0,"p99_us":201.0,"max_us":5.0,"p90_us":1.0}"#);
        let table = table(&old, &new);
        let lines: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "msgs_per_s            1000.00       1500.00    +50.0%  better",
                "p50_us                 100.00        200.00   +100.0%  worse",
                "p99_us                 200.00        201.00     +0.5%",
                "max_us                   0.00          5.00     +0.0%",
            ]
        );
    }
}
