//! Runs all cases of a file and counts them.

use std::{collections::BTreeMap, fmt::Display, path::Path};

use serde_json::Value;

use crate::refused::{REFUSED, Refusal};

/// The outcome of a case.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The same as with Java.
    Same,
    /// Refused, although Java accepts it.
    Refused(String),
}

impl Outcome {
    pub(crate) fn refused(error: impl Display) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Runs every case of `tests/vectors/NAME.jsonl`.
///
/// `case` panics where the result differs from Java's, and returns the reason where a case is refused that
/// Java accepts. Those must be exactly the cases in the table in `refused.rs`.
pub(crate) fn all(name: &str, expected: usize, case: impl Fn(&Value) -> Outcome) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name).with_extension("jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let table: Vec<&Refusal> = REFUSED.iter().filter(|refusal| refusal.file == name).collect();
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut seen, mut failed) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let (id, category) = (value["id"].as_str().unwrap(), value["cat"].as_str().unwrap());
        let listed = table.iter().find(|refusal| refusal.lists(id, category));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&value)))
            .unwrap_or_else(|_| panic!("case {id} ({category}) failed: {line:.600}"));
        let kind = match value["op"].as_str() {
            Some(op) => format!("{name}/{op}"),
            None => name.to_owned(),
        };
        let (ran, refused) = counts.entry(kind).or_default();
        *ran += 1;
        match (&outcome, listed) {
            (Outcome::Same, None) => {}
            (Outcome::Refused(_), Some(_)) => {
                *refused += 1;
                seen.push(id.to_owned());
            }
            (Outcome::Same, Some(_)) => {
                failed.push(format!("{id} is in the table of refusals, and was not refused"))
            }
            (Outcome::Refused(error), None) => failed.push(format!("{id} ({category}) refused: {error}")),
        }
    }
    for (kind, (ran, refused)) in &counts {
        println!("{kind}: {ran} cases, {refused} of them refused on purpose");
    }
    for refusal in table {
        println!("  refused: {} {:?}: {}", refusal.category, refusal.cases, refusal.reason);
        for &case in refusal.cases {
            assert!(seen.iter().any(|id| id == case), "{case} in the table of refusals doesn't exist");
        }
    }
    let ran: usize = counts.values().map(|(ran, _)| ran).sum();
    assert_eq!(ran, expected, "cases of {name}");
    assert!(failed.is_empty(), "{failed:#?}");
}
