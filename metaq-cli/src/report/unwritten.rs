//! Counts of the results that could not be written.

use metaq_producer::Outcome;
use serde::{Deserialize, de::IgnoredAny};

/// The outcome of a message that is in the spool.
pub(super) const SPOOLED: &str = "spooled";

/// Counts, by outcome, of the results that could not be written.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    /// The lowest and the highest line number.
    lines: Option<(u64, u64)>,
    /// Set for any other line, such as the result of a transaction.
    has_other: bool,
    /// Lines about what became of spooled messages.
    replayed: u64,
    stored: u64,
    spooled: u64,
    rejected: u64,
    unknown: u64,
    not_sent: u64,
}

/// The relevant part of a line that was not written.
#[derive(Deserialize)]
struct Printed<'a> {
    line: Option<u64>,
    #[serde(default)]
    spooled: Option<IgnoredAny>,
    #[serde(borrow)]
    error: Option<Failure<'a>>,
}

/// A line of results.
#[derive(Debug, PartialEq, Eq)]
enum Parsed<'a> {
    /// The number of a line, and the outcome unless the message was stored.
    Message(u64, Option<&'a str>),
    /// What became of a spooled message.
    Replayed,
    Other,
}

#[derive(Deserialize)]
struct Failure<'a> {
    outcome: &'a str,
}

/// Parses a line of results, which is JSON, or words separated by tabs.
fn parsed(line: &[u8]) -> Parsed<'_> {
    if line.first() == Some(&b'{') {
        return match serde_json::from_slice(line) {
            Ok(Printed { line: Some(line), spooled: Some(_), .. }) => Parsed::Message(line, Some(SPOOLED)),
            Ok(Printed { line: Some(line), error, .. }) => {
                Parsed::Message(line, error.map(|error| error.outcome))
            }
            Ok(Printed { spooled: Some(_), .. }) => Parsed::Replayed,
            _ => Parsed::Other,
        };
    }
    let mut words = str::from_utf8(line).unwrap_or_default().split('\t');
    match (words.next(), words.next()) {
        (Some("replayed" | "set-aside"), _) => Parsed::Replayed,
        (Some(number), Some(outcome)) => match number.parse() {
            Ok(number) => Parsed::Message(number, Some(outcome).filter(|outcome| *outcome != "stored")),
            Err(_) => Parsed::Other,
        },
        _ => Parsed::Other,
    }
}

impl Unwritten {
    /// Counts the results in lines that were not written. Other lines, such as the result of a transaction,
    /// don't count.
    pub(super) fn count(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            match parsed(line) {
                Parsed::Message(line, outcome) => self.add(line, outcome),
                Parsed::Replayed => self.add_replayed(),
                Parsed::Other => self.has_other |= !line.is_empty(),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_none() && self.replayed == 0 && !self.has_other
    }

    /// Counts a line about what became of a spooled message.
    pub(super) fn add_replayed(&mut self) {
        self.replayed += 1;
    }

    /// Counts one result: `outcome` is that of a message that was not acknowledged, `None` for an
    /// acknowledged one.
    pub(super) fn add(&mut self, line: u64, outcome: Option<&str>) {
        let (first, last) = self.lines.unwrap_or((line, line));
        self.lines = Some((first.min(line), last.max(line)));
        match outcome {
            None => self.stored += 1,
            Some(SPOOLED) => self.spooled += 1,
            Some(outcome) if outcome == Outcome::Rejected.as_str() => self.rejected += 1,
            Some(outcome) if outcome == Outcome::NotSent.as_str() => self.not_sent += 1,
            Some(_) => self.unknown += 1,
        }
    }

    /// Formats the counts. `stored` is the word for acknowledged messages.
    pub(crate) fn describe(&self, stored: &str) -> String {
        let replayed = match self.replayed {
            0 => String::new(),
            count => format!("; nor could {count} results of spooled messages"),
        };
        let Self { lines: Some((first, last)), stored: count, spooled, rejected, unknown, not_sent, .. } =
            self
        else {
            return format!("the results of all lines were written{replayed}");
        };
        let all = count + spooled + rejected + unknown + not_sent;
        let spooled = if *spooled > 0 { format!("{spooled} spooled, ") } else { String::new() };
        format!(
            "of lines {first} to {last}, {all} results could not be written: \
             {count} {stored}, {spooled}{rejected} rejected, {unknown} unknown, {not_sent} not sent{replayed}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_their_outcomes() {
        let mut unwritten = Unwritten::default();
        assert_eq!(unwritten.describe("stored"), "the results of all lines were written");
        unwritten.count(b"");
        assert!(unwritten.is_empty());
        unwritten.count(b"{\"transaction\":null,\"outcome\":\"committed\",\"messages\":0}\n");
        assert!(!unwritten.is_empty());
        unwritten.count(
            b"{\"line\":7,\"partition\":\"0-1\",\"offset\":-1,\"id\":\"-5\"}\n\
              {\"line\":3,\"error\":{\"kind\":\"k\",\"outcome\":\"unknown\",\"message\":\"a \\\"b\\\" \\u00e4\"}}\n",
        );
        unwritten.count(
            b"{\"line\":9,\"error\":{\"kind\":\"k\",\"outcome\":\"not-sent\",\"message\":\"\"}}\n\
              {\"line\":8,\"error\":{\"kind\":\"k\",\"outcome\":\"rejected\",\"message\":\"\"}}\n",
        );
        unwritten.count(b"10\tstored\t0-1\t7\t-5\n11\tunknown\tk\ttext\n");
        let text =
            "of lines 3 to 11, 6 results could not be written: 2 taken, 1 rejected, 2 unknown, 1 not sent";
        assert_eq!(unwritten.describe("taken"), text);

        unwritten.count(b"{\"line\":12,\"spooled\":\"7\"}\n13\tspooled\t8\n");
        unwritten.count(
            b"{\"spooled\":\"7\",\"partition\":\"0-1\",\"offset\":0,\"id\":\"5\"}\n\
              {\"spooled\":\"8\",\"error\":{\"kind\":\"k\",\"outcome\":\"rejected\",\"message\":\"\"}}\n\
              replayed\t7\t0-1\t0\t5\nset-aside\t8\tno\n",
        );
        let text = "of lines 3 to 13, 8 results could not be written: 2 taken, 2 spooled, 1 rejected, 2 unknown, \
                    1 not sent; nor could 4 results of spooled messages";
        assert_eq!(unwritten.describe("taken"), text);
    }
}
