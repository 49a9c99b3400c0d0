//! Header lines, read into their fields.

use alloc::string::String;
use core::str;

use crate::{DecodeError, Opaque, Status, decode::DecodeErrorKind};

/// A header line, whose texts still lie in the read buffer.
pub(crate) enum Head<'a> {
    Put(PutHead<'a>),
    /// `result` and `value`.
    Result(ResultHead),
    Get {
        topic: &'a str,
        group: &'a str,
        partition: i32,
        offset: i64,
        max_size: i32,
        opaque: Opaque,
    },
    Offset {
        topic: &'a str,
        group: &'a str,
        partition: i32,
        offset: i64,
        opaque: Opaque,
    },
    Stats {
        item: Option<&'a str>,
        opaque: Opaque,
    },
    Version {
        opaque: Opaque,
    },
    Quit,
}

pub(crate) struct PutHead<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) length: usize,
    pub(crate) flag: i32,
    pub(crate) checksum: i32,
    pub(crate) transaction: Option<&'a str>,
    pub(crate) opaque: Opaque,
}

pub(crate) struct ResultHead {
    /// None for a `value`.
    pub(crate) status: Option<Status>,
    pub(crate) length: usize,
    pub(crate) opaque: Opaque,
}

/// A put has the most words that matter; words beyond are only counted.
const MAX_TOKENS: usize = 8;

/// The words of a line. Blank ones at its end don't count (wire rule 2).
struct Tokens<'a> {
    command: &'static str,
    line: &'a [u8],
    tokens: [&'a [u8]; MAX_TOKENS],
    count: usize,
}

impl<'a> Head<'a> {
    /// Reads a line without its CR LF.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, DecodeError> {
        let mut tokens = Tokens::split(line)?;
        let verb = tokens.tokens[0];
        tokens.command = match verb {
            b"result" => "result",
            b"put" => "put",
            b"value" => "value",
            b"version" => "version",
            b"get" => "get",
            b"offset" => "offset",
            b"stats" => "stats",
            b"quit" => "quit",
            _ => {
                return Err(DecodeError::new("", DecodeErrorKind::UnknownCommand, &tokens.shown()));
            }
        };
        match tokens.command {
            "result" => {
                tokens.at_least(4)?;
                let (status, length) = (tokens.int(1, "status")?, tokens.length(2)?);
                let opaque = tokens.opaque(3)?;
                Ok(Self::Result(ResultHead { status: Some(Status(status)), length, opaque }))
            }
            "value" => {
                tokens.at_least(3)?;
                let (length, opaque) = (tokens.length(1)?, tokens.opaque(2)?);
                Ok(Self::Result(ResultHead { status: None, length, opaque }))
            }
            "put" => Self::parse_put(&tokens),
            "get" => {
                tokens.at_least(7)?;
                Ok(Self::Get {
                    topic: tokens.text(1)?,
                    group: tokens.text(2)?,
                    partition: tokens.int(3, "partition")?,
                    offset: tokens.long(4, "offset")?,
                    max_size: tokens.int(5, "max_size")?,
                    opaque: tokens.opaque(6)?,
                })
            }
            "offset" => {
                tokens.at_least(6)?;
                Ok(Self::Offset {
                    topic: tokens.text(1)?,
                    group: tokens.text(2)?,
                    partition: tokens.int(3, "partition")?,
                    offset: tokens.long(4, "offset")?,
                    opaque: tokens.opaque(5)?,
                })
            }
            "stats" => {
                let item = if tokens.count > 1 {
                    Some(tokens.text(1)?).filter(|item| !item.is_empty())
                } else {
                    None
                };
                let opaque = if tokens.count > 2 { tokens.opaque(2)? } else { Opaque::NONE };
                Ok(Self::Stats { item, opaque })
            }
            "version" => {
                let opaque = if tokens.count > 1 { tokens.opaque(1)? } else { Opaque::NONE };
                Ok(Self::Version { opaque })
            }
            _ => Ok(Self::Quit),
        }
    }

    /// The four forms of a put (wire rule 3.1).
    fn parse_put(tokens: &Tokens<'a>) -> Result<Self, DecodeError> {
        let is_checksum =
            |token: &[u8]| token.first().is_some_and(|first| first.is_ascii_digit() || *first == b'-');
        let (checksum, transaction, opaque) = match tokens.count {
            6 => (-1, None, 5),
            7 if is_checksum(tokens.tokens[5]) => (tokens.int(5, "checksum")?, None, 6),
            7 => (-1, Some(tokens.text(5)?), 6),
            8 => (tokens.int(5, "checksum")?, Some(tokens.text(6)?), 7),
            count => return Err(tokens.error(DecodeErrorKind::TokenCount { count })),
        };
        Ok(Self::Put(PutHead {
            topic: tokens.text(1)?,
            partition: tokens.int(2, "partition")?,
            length: tokens.length(3)?,
            flag: tokens.int(4, "flag")?,
            checksum,
            transaction,
            opaque: tokens.opaque(opaque)?,
        }))
    }

    pub(crate) fn body_len(&self) -> usize {
        match self {
            Self::Put(put) => put.length,
            Self::Result(result) => result.length,
            _ => 0,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Result(ResultHead { status: Some(_), .. }) => "result",
            Self::Result(_) => "value",
            Self::Get { .. } => "get",
            Self::Offset { .. } => "offset",
            Self::Stats { .. } => "stats",
            Self::Version { .. } => "version",
            Self::Quit => "quit",
        }
    }
}

impl<'a> Tokens<'a> {
    fn split(line: &'a [u8]) -> Result<Self, DecodeError> {
        let mut tokens = Self { command: "", line, tokens: [&[]; MAX_TOKENS], count: 0 };
        let mut seen = 0;
        for token in line.split(|byte| *byte == b' ') {
            if let Some(slot) = tokens.tokens.get_mut(seen) {
                *slot = token;
            }
            seen += 1;
            if !token.is_empty() {
                tokens.count = seen;
            }
        }
        if tokens.tokens[0].is_empty() {
            return Err(tokens.error(DecodeErrorKind::Blank));
        }
        Ok(tokens)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.line[..self.line.len().min(200)]).into_owned()
    }

    fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError::new(self.command, kind, &self.shown())
    }

    fn at_least(&self, wanted: usize) -> Result<(), DecodeError> {
        if self.count < wanted {
            return Err(self.error(DecodeErrorKind::TokenCount { count: self.count }));
        }
        Ok(())
    }

    fn text(&self, n: usize) -> Result<&'a str, DecodeError> {
        str::from_utf8(self.tokens[n]).map_err(|_| self.error(DecodeErrorKind::NotUtf8))
    }

    fn long(&self, n: usize, field: &'static str) -> Result<i64, DecodeError> {
        parse_number(self.tokens[n])
            .ok_or_else(|| DecodeError::field(self.command, field, &String::from_utf8_lossy(self.tokens[n])))
    }

    fn int(&self, n: usize, field: &'static str) -> Result<i32, DecodeError> {
        let number = parse_number(self.tokens[n]).and_then(|number| i32::try_from(number).ok());
        number
            .ok_or_else(|| DecodeError::field(self.command, field, &String::from_utf8_lossy(self.tokens[n])))
    }

    fn length(&self, n: usize) -> Result<usize, DecodeError> {
        usize::try_from(self.int(n, "length")?)
            .map_err(|_| DecodeError::field(self.command, "length", &String::from_utf8_lossy(self.tokens[n])))
    }

    fn opaque(&self, n: usize) -> Result<Opaque, DecodeError> {
        self.int(n, "opaque").map(Opaque)
    }
}

/// Reads a number as Java does: one sign, digits, leading zeros allowed (wire rule 1.4).
fn parse_number(token: &[u8]) -> Option<i64> {
    let (negative, digits) = match token {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: i64 = 0;
    for digit in digits {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?;
        number = if negative { number.checked_sub(digit)? } else { number.checked_add(digit)? };
    }
    Some(number)
}
