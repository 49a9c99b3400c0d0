//! The golden cases that the real Java classes made (format: `tests/vectors/README.md`). Each file is run whole; where
//! this crate refuses on purpose what Java lets through, or does what Java can't, the case's category is in a table with
//! the reason.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the counts are part of the result")]

mod bodies;
mod commands;
mod names;

use std::{collections::BTreeMap, fmt::Write as _};

use metaq_protocol::json;
use serde_json::Value;

/// A deliberate difference from Java: the file, the category, and why.
struct Difference {
    file: &'static str,
    category: &'static str,
    reason: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        file: "encode",
        category: "unicode-name",
        reason: "Java can't write names outside ASCII, though brokers read them; this crate writes them",
    },
    Difference {
        file: "encode",
        category: "get-extreme",
        reason: "Java can't write the smallest 64-bit number; this crate writes it",
    },
    Difference { file: "encode", category: "offset-extreme", reason: "the same" },
    Difference { file: "encode", category: "sync-extreme", reason: "the same" },
    Difference {
        file: "encode",
        category: "unsafe-name",
        reason: "Java writes spaces and line ends into the stream, which puts it out of step (K-33)",
    },
    Difference {
        file: "encode",
        category: "unsafe-tx",
        reason: "Java writes ids and qualifiers that no broker can read back, or reads as something else (K-20 to K-22)",
    },
    Difference {
        file: "decode",
        category: "verbs",
        reason: "Java takes any word that begins with v or q for a command",
    },
    Difference {
        file: "decode",
        category: "blanks",
        reason: "the same: version, a tab and a number is one word that begins with v",
    },
    Difference {
        file: "decode",
        category: "damaged",
        reason: "the same; and Java waits for the body of a header that it will refuse",
    },
    Difference { file: "decode", category: "line-ends", reason: "the same" },
    Difference { file: "decode", category: "long-line", reason: "the same" },
    Difference {
        file: "decode",
        category: "waits-before-refusing",
        reason: "Java waits for the body of a header that it will refuse; this crate refuses at once",
    },
    Difference {
        file: "txid",
        category: "damaged",
        reason: "a space in a transaction id can't stand in a command line, and never comes from one",
    },
    Difference { file: "txid", category: "good", reason: "the same" },
    Difference {
        file: "txid",
        category: "format",
        reason: "Java writes local transaction numbers above 32 bits, and no broker reads them (K-22)",
    },
    Difference {
        file: "txid",
        category: "qualifier",
        reason: "Java writes colons and spaces into a qualifier, and no broker reads them back",
    },
    Difference {
        file: "broker",
        category: "parse",
        reason: "Java makes addresses without a host or a usable port, to which nobody can connect; and it takes no host \
                 with an underscore, which DNS-less networks have",
    },
    Difference { file: "broker", category: "format", reason: "Java writes the address of an empty host" },
    Difference {
        file: "body",
        category: "xa-answer",
        reason: "Java stumbles over a code that fits no 32 bits or a missing body, and reports -7; this crate says -3",
    },
];

/// What came of a case: as in Java, or different on purpose.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Different,
}

/// What a case checks: `Ok` when this crate does as Java did, else how it differs.
type Check = fn(&Value) -> Result<(), String>;

fn run(file: &str, text: &str, check: Check) {
    let mut counts: BTreeMap<(String, &str), usize> = BTreeMap::new();
    let mut failures = String::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let category = case["cat"].as_str().unwrap();
        let difference = DIFFERENCES.iter().find(|known| known.file == file && known.category == category);
        let verdict = match (check(&case), difference) {
            (Ok(()), _) => Verdict::Same,
            (Err(_), Some(_)) if is_open_to_difference(file, &case) => Verdict::Different,
            (Err(how), _) => {
                writeln!(failures, "{}: {how}\n    {}", case["id"], &line[..line.len().min(400)]).unwrap();
                continue;
            }
        };
        let what = case["op"].as_str().or_else(|| case["command"].as_str()).unwrap_or("sequence or refusal");
        let verdict = if verdict == Verdict::Same { "as in Java" } else { "different on purpose" };
        *counts.entry((format!("{what} ({category})"), verdict)).or_default() += 1;
    }
    for ((what, verdict), count) in &counts {
        println!("{file}: {count:4} {what}: {verdict}");
    }
    let total: usize = counts.values().sum();
    let different: usize =
        counts.iter().filter(|((_, verdict), _)| *verdict != "as in Java").map(|(_, n)| n).sum();
    println!("{file}: {total} cases, {different} of them different on purpose");
    for difference in DIFFERENCES.iter().filter(|difference| difference.file == file) {
        let used = counts.keys().any(|(what, verdict)| {
            what.ends_with(&format!("({})", difference.category)) && *verdict != "as in Java"
        });
        assert!(
            used,
            "the difference {} of {file} is not needed: {}",
            difference.category, difference.reason
        );
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert_eq!(total, text.lines().count(), "no case is left out");
}

/// Cases of the codec may differ only where Java is plainly mistaken. The text forms of names have differences of their
/// own, which the vectors don't mark.
fn is_open_to_difference(file: &str, case: &Value) -> bool {
    let is_defect = |value: &Value| value["java_defect"] == true;
    let in_steps = case["steps"].as_array().is_some_and(|steps| steps.iter().any(is_defect));
    matches!(file, "txid" | "broker") || is_defect(case) || in_steps
}

fn hex(text: &str) -> Vec<u8> {
    json::from_hex(text).unwrap()
}

/// That two things are equal, or how they differ.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, ours: T, java: T) -> Result<(), String> {
    if ours == java { Ok(()) } else { Err(format!("{what}: {ours:?} here, {java:?} in Java")) }
}
