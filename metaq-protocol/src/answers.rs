//! What the bodies of answers say.

use alloc::{
    borrow::ToOwned,
    string::{String, ToString as _},
    vec::Vec,
};
use core::fmt;

use crate::{
    BooleanCommand, TransactionId, XaTransactionId,
    number::{parse_i32, parse_i64},
};

/// The body of a successful answer to a put: `id SP partition SP offset` (wire rule 3.1).
///
/// ```
/// use metaq_protocol::PutAnswer;
///
/// let answer = PutAnswer::parse(b"-5468924307537133568 1 31")?;
/// assert_eq!((answer.message_id, answer.partition, answer.offset), (-5_468_924_307_537_133_568, 1, 31));
/// # Ok::<(), metaq_protocol::InvalidAnswer>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the three numbers of the answer")]
pub struct PutAnswer {
    /// The message's id; often negative, because the broker's clock counts from the machine's start.
    pub message_id: i64,
    /// The partition's index within the broker.
    pub partition: i32,
    /// Where the message begins in the partition's log, in bytes; -1 inside a transaction.
    pub offset: i64,
}

impl PutAnswer {
    /// Reads the body of an answer. As in Java, further words are ignored (rule M-20).
    ///
    /// # Errors
    /// When there are fewer than three words, or one of them is no number of its size (rule M-21).
    pub fn parse(body: &[u8]) -> Result<Self, InvalidAnswer> {
        let mut words = body.split(|byte| *byte == b' ');
        let mut next = || words.next().unwrap_or_default();
        let (message_id, partition, offset) = (parse_i64(next()), parse_i32(next()), parse_i64(next()));
        match (message_id, partition, offset) {
            (Some(message_id), Some(partition), Some(offset)) => Ok(Self { message_id, partition, offset }),
            _ => Err(InvalidAnswer::new("a message id, a partition and an offset", body)),
        }
    }
}

impl fmt::Display for PutAnswer {
    /// As it stands on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.message_id, self.partition, self.offset)
    }
}

/// The body of a successful answer to `PREPARE` (wire rule 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct PrepareAnswer(pub i32);

impl PrepareAnswer {
    /// 0: prepared; to be committed or rolled back.
    pub const PREPARED: Self = Self(0);
    /// 3: there was nothing in the transaction, and it is gone.
    pub const READ_ONLY: Self = Self(3);

    /// Reads the body of an answer.
    ///
    /// # Errors
    /// When it is no number.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidAnswer> {
        parse_i32(body).map(Self).ok_or_else(|| InvalidAnswer::new("a vote", body))
    }
}

/// Reads the body of a successful answer to `RECOVER`: ids of prepared transactions, one a line (wire rule 3.7).
///
/// As in Java, what isn't such an id ends the reading; how many there were before is in the error.
///
/// # Errors
/// The ids before the faulty line, and the fault.
pub fn parse_recover_answer(
    body: &[u8],
) -> Result<Vec<XaTransactionId>, (Vec<XaTransactionId>, InvalidAnswer)> {
    let text = String::from_utf8_lossy(body);
    let mut ids = Vec::new();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        match line.parse() {
            Ok(TransactionId::Xa(id)) => ids.push(id),
            _ => return Err((ids, InvalidAnswer::new("a distributed transaction's id", line.as_bytes()))),
        }
    }
    Ok(ids)
}

/// Why a broker refused a command about a distributed transaction (wire rule 3.7).
///
/// ```text
/// XAException:code=-4,msg=XA transaction 'XID:2:71:72:q' has not been started.
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("XA error {code}: {message}")]
#[non_exhaustive]
pub struct XaAnswerError {
    /// An `XAException` code: -3 failed, -4 unknown transaction, -6 wrong state, 6 to 8 ended by hand.
    pub code: i32,
    /// The broker's words.
    pub message: String,
}

impl XaAnswerError {
    /// The code of failures that come without one, and of what is no XA error.
    pub const FAILED: i32 = -3;

    /// Reads an answer that is no success.
    #[must_use]
    pub fn of(answer: &BooleanCommand) -> Self {
        let text = answer.text();
        let (code, message) = Self::parse(&text).unwrap_or((Self::FAILED, &text));
        Self { code, message: message.to_owned() }
    }

    fn parse(text: &str) -> Option<(i32, &str)> {
        let mut rest = text.strip_prefix("XAException:")?;
        loop {
            rest = &rest[rest.find("code=")? + "code=".len()..];
            let digits = rest.strip_prefix('-').unwrap_or(rest);
            let digits_len = digits.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(rest.len() - digits.len() + digits_len);
            if let (true, Some(message)) = (digits_len > 0, after.strip_prefix(",msg=")) {
                let is_line_end = |c| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
                let message = message.split(is_line_end).next().unwrap_or_default();
                return Some((parse_i32(number.as_bytes())?, message));
            }
        }
    }
}

/// A broker's statistics: lines of a key and a value (wire rule 3.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    lines: Vec<(String, Option<String>)>,
}

impl Stats {
    /// Reads the body of an answer to `stats`: each line is split at its first space, unless that is its first
    /// character; a line without one is a key without a value, as `STATS` and `END` are.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let mut lines: Vec<_> = text.split("\r\n").collect();
        while lines.len() > 1 && lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        if text.contains("\r\n") && lines == [""] {
            lines.clear();
        }
        let split = |line: &str| match line.split_once(' ') {
            Some((key, value)) if !key.is_empty() => (key.to_owned(), Some(value.to_owned())),
            _ => (line.to_owned(), None),
        };
        Self { lines: lines.into_iter().map(split).collect() }
    }

    /// All lines in their order: keys, with values where there are any. A key may come repeatedly.
    pub fn lines(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.lines.iter().map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// The value of the last line with that key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines().filter(|(line_key, _)| *line_key == key).last().and_then(|(_, value)| value)
    }
}

/// The body of an answer that isn't what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidAnswer {
    expected: &'static str,
    text: String,
}

impl InvalidAnswer {
    fn new(expected: &'static str, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        Self { expected, text: crate::excerpt(&text).to_string() }
    }
}
