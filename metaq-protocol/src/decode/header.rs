//! Header lines of each command (protocol §3 and protocol §4).

use bytes::Bytes;

use super::{DecodeError, DecodeErrorKind, line::Words, response_head::ResponseHead};
use crate::{
    Checksum, Flag, Frame, GetCommand, OffsetCommand, Opaque, PutCommand, PutData, QuitCommand, StatsCommand,
    SyncCommand, Token, Topic, TransactionCommand, TransactionId, VersionCommand, command::is_all_digits,
    number, text,
};

/// A decoded header line, with the length of the body that must follow.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) frame: Frame,
    /// Length of the line, CR LF included.
    pub(super) head_len: usize,
    pub(super) body_len: usize,
}

/// The last received names. Frames of one connection mostly repeat them, and a repeated name is shared
/// instead of allocated.
#[derive(Debug, Default)]
pub(super) struct Names {
    topic: Option<Topic>,
    group: Option<Token>,
}

impl Names {
    fn topic(&mut self, word: &[u8]) -> Topic {
        match &self.topic {
            Some(topic) if topic.as_bytes() == word => topic.clone(),
            _ => self.topic.insert(Topic::received(word)).clone(),
        }
    }

    fn group(&mut self, word: &[u8]) -> Token {
        match &self.group {
            Some(group) if group.as_bytes() == word => group.clone(),
            _ => self.group.insert(Token::received(word)).clone(),
        }
    }
}

type Parse = fn(&Words<'_>, usize, &mut Names) -> Result<Header, DecodeError>;

/// Finds the parser for a command's word.
fn reader(verb: &[u8]) -> Option<(&'static str, Parse)> {
    Some(match verb {
        b"put" => ("put", put),
        b"get" => ("get", get),
        b"offset" => ("offset", offset),
        b"sync" => ("sync", sync),
        b"stats" => ("stats", stats),
        b"version" => ("version", version),
        b"quit" => ("quit", |words, _, _| Ok(Header::new(words, QuitCommand::new(), 0))),
        b"transaction" => ("transaction", transaction),
        b"result" => ("result", result),
        b"value" => ("value", value),
        _ => return None,
    })
}

/// Returns true if a line may start with this word.
pub(super) fn is_command(verb: &[u8]) -> bool {
    reader(verb).is_some()
}

/// Parses a header line, independent of the body.
pub(super) fn parse(line: &[u8], max_body: usize, names: &mut Names) -> Result<Header, DecodeError> {
    let words = Words::split(line)?;
    let verb = words.get(0).unwrap_or_default();
    let Some((command, parse)) = reader(verb) else {
        return Err(DecodeError::new(DecodeErrorKind::UnknownCommand, verb));
    };
    parse(&words, max_body, names).map_err(|error| error.in_command(command))
}

impl Header {
    fn new(words: &Words<'_>, frame: impl Into<Frame>, body_len: usize) -> Self {
        Self { frame: frame.into(), head_len: words.head_len(), body_len }
    }
}

fn put(words: &Words<'_>, max_body: usize, names: &mut Names) -> Result<Header, DecodeError> {
    words.at_most(8)?;
    let body_len = words.body_len(3, max_body)?;
    let flag = Flag(words.i32(4, "flag")?);
    // The four layouts, and the distinction between the two with seven words: protocol §3.1.
    let (checksum, transaction, opaque) = match words.count() {
        8 => (Some(5), Some(6), 7),
        7 if looks_like_checksum(words.get(5).unwrap_or_default()) => (Some(5), None, 6),
        7 => (None, Some(5), 6),
        _ => (None, None, 5),
    };
    let checksum = checksum.map_or(Ok(Checksum::NONE.0), |index| words.i32(index, "checksum"))?;
    let transaction = transaction.map(|index| transaction_id(words, index)).transpose()?;
    let mut command =
        PutCommand::from_data(names.topic(words.required(1, "topic")?), 0, flag, PutData::default());
    command.partition = words.i32(2, "partition")?;
    command.checksum = Checksum(checksum);
    command.transaction = transaction;
    command.opaque = Opaque(words.i32(opaque, "opaque")?);
    Ok(Header::new(words, command, body_len))
}

fn looks_like_checksum(word: &[u8]) -> bool {
    match word {
        [b'-' | b'0'..=b'9', ..] => true,
        [byte, ..] if byte.is_ascii() => false,
        // A character has at most four bytes.
        _ => {
            let first = text::from_utf8_lossy(&word[..word.len().min(4)]).chars().next();
            first.is_some_and(|c| number::digit(c).is_some())
        }
    }
}

fn transaction_id(words: &Words<'_>, index: usize) -> Result<TransactionId, DecodeError> {
    let word = words.required(index, "transaction id")?;
    text::from_utf8_lossy(word)
        .parse()
        .map_err(|_| DecodeError::new(DecodeErrorKind::InvalidTransactionId, word).in_field("transaction id"))
}

fn get(words: &Words<'_>, _: usize, names: &mut Names) -> Result<Header, DecodeError> {
    let opaque = Opaque(words.i32(6, "opaque")?);
    let command = GetCommand::new(
        names.topic(words.required(1, "topic")?),
        names.group(words.required(2, "group")?),
        words.i32(3, "partition")?,
        words.i64(4, "offset")?,
        words.i32(5, "max_size")?,
    )
    .with_opaque(opaque);
    Ok(Header::new(words, command, 0))
}

fn offset(words: &Words<'_>, _: usize, names: &mut Names) -> Result<Header, DecodeError> {
    let opaque = Opaque(words.i32(5, "opaque")?);
    let command = OffsetCommand::new(
        names.topic(words.required(1, "topic")?),
        names.group(words.required(2, "group")?),
        words.i32(3, "partition")?,
        words.i64(4, "offset")?,
    )
    .with_opaque(opaque);
    Ok(Header::new(words, command, 0))
}

fn sync(words: &Words<'_>, max_body: usize, names: &mut Names) -> Result<Header, DecodeError> {
    words.at_most(8)?;
    let body_len = words.body_len(3, max_body)?;
    let flag = Flag(words.i32(4, "flag")?);
    let message_id = words.i64(5, "message id")?;
    let (checksum, opaque) = match words.count() {
        8 => (words.i32(6, "checksum")?, 7),
        _ => (Checksum::NONE.0, 6),
    };
    let opaque = Opaque(words.i32(opaque, "opaque")?);
    let partition = words.i32(2, "partition")?;
    let topic = names.topic(words.required(1, "topic")?);
    let command = SyncCommand::new(topic, partition, flag, message_id, PutData::default())
        .with_checksum(Checksum(checksum))
        .with_opaque(opaque);
    Ok(Header::new(words, command, body_len))
}

fn stats(words: &Words<'_>, _: usize, _: &mut Names) -> Result<Header, DecodeError> {
    let item = words.get(1).map(Token::received);
    let opaque = match words.get(2) {
        Some(_) => Opaque(words.i32(2, "opaque")?),
        None => Opaque::NONE,
    };
    Ok(Header::new(words, StatsCommand::new(item, opaque), 0))
}

fn version(words: &Words<'_>, _: usize, _: &mut Names) -> Result<Header, DecodeError> {
    let opaque = match words.get(1) {
        Some(_) => Opaque(words.i32(1, "opaque")?),
        None => Opaque::NONE,
    };
    Ok(Header::new(words, VersionCommand::new(opaque), 0))
}

fn transaction(words: &Words<'_>, _: usize, _: &mut Names) -> Result<Header, DecodeError> {
    words.at_most(7)?;
    let id = transaction_id(words, 1)?;
    let session = Token::received(words.required(2, "session")?);
    let action = words.required(3, "action")?;
    let action = text::from_utf8_lossy(action)
        .parse()
        .map_err(|_| DecodeError::new(DecodeErrorKind::UnknownAction, action).in_field("action"))?;
    let (timeout, qualifier, opaque) = match words.count() {
        7 => (words.i32(4, "timeout")?, words.get(5), 6),
        6 if is_all_digits(&text::from_utf8_lossy(words.get(4).unwrap_or_default())) => {
            (words.i32(4, "timeout")?, None, 5)
        }
        6 => (0, words.get(4), 5),
        _ => (0, None, 4),
    };
    let opaque = Opaque(words.i32(opaque, "opaque")?);
    let qualifier = qualifier.map(Token::received);
    let command = TransactionCommand::received(id, session, action, timeout, qualifier).with_opaque(opaque);
    Ok(Header::new(words, command, 0))
}

fn result(words: &Words<'_>, max_body: usize, _: &mut Names) -> Result<Header, DecodeError> {
    ResponseHead::result(words, max_body).map(Header::from)
}

fn value(words: &Words<'_>, max_body: usize, _: &mut Names) -> Result<Header, DecodeError> {
    ResponseHead::value(words, max_body).map(Header::from)
}

impl From<ResponseHead> for Header {
    fn from(head: ResponseHead) -> Self {
        Self { frame: head.with_body(Bytes::new()).into(), head_len: head.head_len, body_len: head.body_len }
    }
}
