//! The inputs of recorded decodings by the Java classes, as requests to brokers.

use std::{fs, path::Path};

use data_encoding::HEXLOWER;
use metaq_protocol::TransactionAction;
use serde_json::Value;

use super::cases::{Case, Outcome};

/// Returns all recorded inputs, in order.
pub(crate) fn all() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../metaq-protocol/tests/vectors/decode.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let recorded = text.lines().map(|line| serde_json::from_str(line).unwrap());
    recorded.filter(|recorded| !leaves_the_choice(recorded)).map(|recorded| case(&recorded)).collect()
}

/// Returns whether a put leaves the choice among several partitions to the broker, which is random.
fn leaves_the_choice(recorded: &Value) -> bool {
    let fields = &recorded["fields"];
    fields["topic"] == "test" && fields["partition"] == -1
}

fn case(recorded: &Value) -> Case {
    let bytes = HEXLOWER.decode(recorded["bytes"].as_str().unwrap().as_bytes()).unwrap();
    let steps = recorded["steps"].as_array().cloned().unwrap_or_else(|| vec![recorded.clone()]);
    let mut answers = 0;
    let mut outcome = None;
    for step in &steps {
        match (step["outcome"].as_str().unwrap(), step["command"].as_str()) {
            ("error", _) | ("command", Some("quit")) => outcome = outcome.or(Some(Outcome::Closed)),
            ("incomplete", _) => outcome = outcome.or(Some(Outcome::Nothing)),
            ("command", Some("result" | "value")) => {}
            ("command", Some("transaction")) if step["fields"]["type"] == TransactionAction::End.as_str() => {
            }
            _ => answers += 1,
        }
    }
    let name = format!("{} {}", recorded["id"].as_str().unwrap(), recorded["cat"].as_str().unwrap());
    Case::new(name, vec![(bytes, outcome.unwrap_or(Outcome::Answers(answers)))])
}

/// Returns the reason why only the embedded broker, without the Java broker's defects, closed the connection.
pub(crate) fn difference(request: &[u8], closed: bool) -> Option<&'static str> {
    let lines = || request.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let word = |line: &[u8]| line.split(|byte| *byte == b' ').next().unwrap_or_default().to_vec();
    let first = lines().next().unwrap_or_default();
    let verb = word(first);
    // The low byte of a word's first character counts.
    let letter = String::from_utf8_lossy(&verb).chars().next().map(|c| u32::from(c) as u8);
    if !closed {
        None
    } else if lines().any(|line| line.len() > 64 * 1024) {
        Some("lines and bodies have limits")
    } else if letter == Some(b'v') && verb != b"version" && verb != b"value" {
        Some("words that only begin like a command are none")
    } else if [&b"put"[..], b"sync", b"result", b"value"].contains(&&verb[..]) {
        Some("a line that can't be right is refused before its body has come")
    } else {
        None
    }
}
