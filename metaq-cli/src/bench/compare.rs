//! The figures of a run beside those of an earlier one.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

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

/// The largest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// Reads the figures of an earlier run: the last line of a file.
///
/// # Errors
/// When the file can't be read, or that line has no figures. The text names the file.
pub(super) fn read(path: &Path) -> io::Result<Map<String, Value>> {
    let named = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text));
    read.map_err(|error| io::Error::new(error.kind(), named(&error)))?;
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, named(&reason));
    if text.len() as u64 > MAX_FILE {
        return Err(invalid(&format!("it has more than {MAX_FILE} bytes")));
    }
    let last = text.split(|byte| *byte == b'\n').rfind(|line| !line.trim_ascii().is_empty());
    let figures =
        last.and_then(|line| serde_json::from_slice::<Value>(line).ok()).and_then(|value| match value {
            Value::Object(figures) if figures.get("msgs_per_s").is_some_and(Value::is_number) => {
                Some(figures)
            }
            _ => None,
        });
    figures.ok_or_else(|| invalid("its last line is not that of metaq bench --json"))
}

/// Formats the figures of both runs, and their differences.
pub(super) fn table(old: &Map<String, Value>, new: &Map<String, Value>) -> String {
    let mut table = format!("\n{:<15}{:>14}{:>14}{:>10}\n", "", "old", "new", "change");
    for (name, more_is_better) in COMPARED {
        let figure = |figures: &Map<String, Value>| figures.get(name).and_then(Value::as_f64);
        let (Some(old), Some(new)) = (figure(old), figure(new)) else { continue };
        // A latency of zero is that of no message.
        let is_known = old > 0.0 && (new > 0.0 || more_is_better);
        let change = if is_known { new / old - 1.0 } else { 0.0 };
        let verdict = match change {
            change if change.abs() < NOTEWORTHY => "",
            change if (change > 0.0) == more_is_better => "  better",
            _ => "  worse",
        };
        let percent = if is_known { format!("{:>+9.1}%", change * 100.0) } else { format!("{:>10}", "-") };
        // Writing to a string can't fail.
        let _ = writeln!(table, "{name:<15}{old:>14.2}{new:>14.2}{percent}{verdict}");
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
                "max_us                   0.00          5.00         -",
            ]
        );
    }

    #[test]
    fn figures_of_no_message_are_neither_better_nor_worse() {
        let some = figures(r#"{"msgs_per_s":1000.0,"p50_us":100.0}"#);
        let none = figures(r#"{"msgs_per_s":0.0,"p50_us":0.0}"#);
        let rows = |table: String| table.lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            rows(table(&some, &none)),
            [
                "msgs_per_s            1000.00          0.00   -100.0%  worse",
                "p50_us                 100.00          0.00         -",
            ]
        );
        assert_eq!(
            rows(table(&none, &some)),
            [
                "msgs_per_s               0.00       1000.00         -",
                "p50_us                   0.00        100.00         -",
            ]
        );
    }

    #[test]
    fn only_the_last_line_counts_and_errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.json");
        let read_of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path).map_err(|error| error.to_string())
        };
        // A table before it may hold anything.
        let figures = read_of(b"\xff table\r\n{\"msgs_per_s\":7.0}\r\n\n  \n").unwrap();
        assert_eq!(figures["msgs_per_s"], 7.0);
        for wrong in [
            "",
            "\n\n",
            "{}",
            "[7]",
            "{\"msgs_per_s\":\"7\"}",
            "{\"msgs_per_s\":7.0",
            "{\"msgs_per_s\":7.0}\nx",
        ] {
            let error = read_of(wrong.as_bytes()).unwrap_err();
            assert!(error.contains("old.json: its last line is not that of"), "{wrong}: {error}");
        }
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
    }
}
