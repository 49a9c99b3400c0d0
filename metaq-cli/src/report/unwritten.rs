//! Counts of the results that could not be written.

use metaq_producer::Outcome;
use serde::Deserialize;

/// Counts, by outcome, of the results that could not be written.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    /// The lowest and the highest line number.
    lines: Option<(u64, u64)>,
    /// Set for any other line, such as the result of a transaction.
    has_other: bool,
    stored: u64,
    rejected: u64,
    unknown: u64,
    not_sent: u64,
}

/// The relevant part of a line that was not written.
#[derive(Deserialize)]
struct Printed<'a> {
    line: u64,
    #[serde(borrow)]
    error: Option<Failure<'a>>,
}

#[derive(Deserialize)]
struct Failure<'a> {
    outcome: &'a str,
}

/// Returns the number of a line of results, and the outcome unless the message was stored. The line is JSON,
/// or words separated by tabs.
fn printed(line: &[u8]) -> Option<(u64, Option<&str>)> {
    if line.first() == Some(&b'{') {
        let Printed { line, error } = serde_json::from_slice(line).ok()?;
        return Some((line, error.map(|error| error.outcome)));
    }
    let mut words = str::from_utf8(line).ok()?.split('\t');
    let (number, outcome) = (words.next()?.parse().ok()?, words.next()?);
    Some((number, Some(outcome).filter(|outcome| *outcome != "stored")))
}

impl Unwritten {
    /// Counts the results in lines that were not written. Other lines, such as the result of a transaction,
    /// don't count.
    pub(super) fn count(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            match printed(line) {
                Some((line, outcome)) => self.add(line, outcome),
                None => self.has_other |= !line.is_empty(),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_none() && !self.has_other
    }

    /// Counts one result: `outcome` is that of a message that was not acknowledged, `None` for an
    /// acknowledged one.
    pub(super) fn add(&mut self, line: u64, outcome: Option<&str>) {
        let (first, last) = self.lines.unwrap_or((line, line));
        self.lines = Some((first.min(line), last.max(line)));
        match outcome {
            None => self.stored += 1,
            Some(outcome) if outcome == Outcome::Rejected.as_str() => self.rejected += 1,
            Some(outcome) if outcome == Outcome::NotSent.as_str() => self.not_sent += 1,
            Some(_) => self.unknown += 1,
        }
    }

    /// Formats the counts. `stored` is the word for acknowledged messages.
    pub(crate) fn describe(&self, stored: &str) -> String {
        let Self { lines: Some((first, last)), stored: count, rejected, unknown, not_sent, .. } = self else {
            return "the results of all lines were written".to_owned();
        };
        let all = count + rejected + unknown + not_sent;
        format!(
            "of lines {first} to {last}, {all} results could not be written: \
             {count} {stored}, {rejected} rejected, {unknown} unknown, {not_sent} not sent"
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
    }
}
