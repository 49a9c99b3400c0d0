//! The lines of results: JSON, or words separated by tabs.

use std::io::Write as _;

use metaq_producer::{Outcome, Partition, SendReceipt};
use metaq_spool::SpoolId;
use serde::Serialize;

use super::TransactionResult;
use crate::{
    display::{OutputForm, one_line},
    report::Replayed,
};

/// The JSON line of a message that was not acknowledged.
#[derive(Serialize)]
struct FailedLine<'a> {
    line: u64,
    error: Failure<'a>,
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: &'a str,
    outcome: &'a str,
    message: &'a str,
}

/// The JSON line of a spooled message that was set aside.
#[derive(Serialize)]
struct SetAsideLine<'a> {
    spooled: String,
    error: Failure<'a>,
}

/// The JSON line of a transaction's result.
#[derive(Serialize)]
struct TransactionLine<'a> {
    transaction: Option<&'a str>,
    outcome: &'a str,
    messages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Reason<'a>>,
}

#[derive(Serialize)]
struct Reason<'a> {
    kind: &'a str,
    message: &'a str,
}

/// Appends the line of a stored message; people get none.
pub(super) fn stored(
    text: &mut Vec<u8>,
    form: OutputForm,
    line: u64,
    partition: Partition,
    offset: i64,
    id: i64,
) {
    // None of these has a character that JSON escapes. `format!` would take a quarter of the time of a line.
    let [start, after_line, after_partition, after_offset, end] = match form {
        OutputForm::Human => return,
        OutputForm::Json => [r#"{"line":"#, r#","partition":""#, r#"","offset":"#, r#","id":""#, "\"}\n"],
        OutputForm::Plain => ["", "\tstored\t", "\t", "\t", "\n"],
    };
    let mut digits = itoa::Buffer::new();
    let mut add = |part: &str| text.extend_from_slice(part.as_bytes());
    add(start);
    add(digits.format(line));
    add(after_line);
    add(digits.format(partition.broker.0));
    add("-");
    add(digits.format(partition.index));
    add(after_partition);
    add(digits.format(offset));
    add(after_offset);
    add(digits.format(id));
    add(end);
}

/// Appends the line of a message that was spooled; people get none.
pub(super) fn spooled(text: &mut Vec<u8>, form: OutputForm, line: u64, id: SpoolId) {
    // Writing to memory can't fail.
    let _ = match form {
        OutputForm::Human => Ok(()),
        OutputForm::Json => writeln!(text, r#"{{"line":{line},"spooled":"{id}"}}"#),
        OutputForm::Plain => writeln!(text, "{line}\tspooled\t{id}"),
    };
}

/// Appends the line of what became of a spooled message; people get none.
pub(super) fn replayed(text: &mut Vec<u8>, form: OutputForm, replayed: &Replayed) {
    // Writing to memory can't fail.
    let _ = match (form, replayed) {
        (OutputForm::Human, _) => Ok(()),
        (OutputForm::Json, Replayed::Stored(id, receipt)) => {
            let SendReceipt { partition, offset, message_id, .. } = receipt;
            writeln!(
                text,
                r#"{{"spooled":"{id}","partition":"{partition}","offset":{offset},"id":"{message_id}"}}"#
            )
        }
        (OutputForm::Plain, Replayed::Stored(id, receipt)) => {
            let SendReceipt { partition, offset, message_id, .. } = receipt;
            writeln!(text, "replayed\t{id}\t{partition}\t{offset}\t{message_id}")
        }
        (OutputForm::Json, Replayed::SetAside(id, reason)) => {
            let error = Failure { kind: "set-aside", outcome: Outcome::Rejected.as_str(), message: reason };
            json(text, &SetAsideLine { spooled: id.to_string(), error });
            Ok(())
        }
        (OutputForm::Plain, Replayed::SetAside(id, reason)) => {
            writeln!(text, "set-aside\t{id}\t{}", one_line(reason))
        }
    };
}

/// Appends the line of a message that was not acknowledged; people get none.
pub(super) fn failed(
    text: &mut Vec<u8>,
    form: OutputForm,
    line: u64,
    (kind, outcome, message): (&str, &str, &str),
) {
    match form {
        OutputForm::Human => {}
        OutputForm::Json => json(text, &FailedLine { line, error: Failure { kind, outcome, message } }),
        OutputForm::Plain => {
            let message = one_line(message);
            // Writing to memory can't fail.
            let _ = writeln!(text, "{line}\t{outcome}\t{kind}\t{message}");
        }
    }
}

/// Appends the line of a transaction.
pub(super) fn transaction(text: &mut Vec<u8>, form: OutputForm, result: &TransactionResult) {
    let id = result.transaction.as_deref();
    // Writing to memory can't fail.
    let _ = match form {
        OutputForm::Human => writeln!(text, "{}", result.describe()),
        OutputForm::Json => {
            let error = result.error.as_ref().map(|(kind, message)| Reason { kind, message });
            let (outcome, messages) = (result.outcome, result.messages);
            json(text, &TransactionLine { transaction: id, outcome, messages, error });
            Ok(())
        }
        OutputForm::Plain => {
            let (kind, error) = result.error.as_ref().map_or(("", ""), |(kind, text)| (*kind, text.as_str()));
            let error = one_line(error);
            let (id, outcome, messages) = (id.unwrap_or(""), result.outcome, result.messages);
            writeln!(text, "transaction\t{outcome}\t{id}\t{messages}\t{kind}\t{error}")
        }
    };
}

fn json(text: &mut Vec<u8>, line: &impl Serialize) {
    // Numbers and texts always serialize, and writing to memory can't fail.
    let _ = serde_json::to_writer(&mut *text, line);
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_messages_have_the_same_form_as_by_format() {
        let numbers = [i64::MIN, -1, 0, 9, 10, i64::MAX];
        for (line, partition) in
            [(1, Partition::new(0, 0)), (u64::MAX, Partition::ANY), (7, Partition::new(12, 34))]
        {
            for (offset, id) in numbers.into_iter().zip(numbers.into_iter().rev()) {
                let text = |form| {
                    let mut text = Vec::new();
                    stored(&mut text, form, line, partition, offset, id);
                    String::from_utf8(text).unwrap()
                };
                let json = format!(
                    "{{\"line\":{line},\"partition\":\"{partition}\",\"offset\":{offset},\"id\":\"{id}\"}}\n"
                );
                assert_eq!(text(OutputForm::Json), json);
                let plain = format!("{line}\tstored\t{partition}\t{offset}\t{id}\n");
                assert_eq!(text(OutputForm::Plain), plain);
                assert_eq!(text(OutputForm::Human), "");
            }
        }
    }
}
