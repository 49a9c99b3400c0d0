//! Header lines, read into their fields.

use alloc::{
    borrow::Cow,
    string::{String, ToString as _},
};

use crate::{
    DecodeError, DecodeErrorKind, Opaque, Status, TransactionId, TransactionKind,
    number::{is_digit, parse_i32, parse_i64},
    utf8::lossy,
};

/// A header line, whose texts still lie in the read buffer.
pub(crate) enum Head<'a> {
    Put(PutHead<'a>),
    Sync(SyncHead<'a>),
    /// `result` and `value`.
    Result(ResultHead),
    Get(GetHead<'a>),
    Offset(GetHead<'a>),
    Transaction(TransactionHead<'a>),
    Stats {
        item: Option<Cow<'a, str>>,
        opaque: Opaque,
    },
    Version {
        opaque: Opaque,
    },
    Quit,
}

pub(crate) struct PutHead<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) partition: i32,
    pub(crate) length: usize,
    pub(crate) flag: i32,
    pub(crate) checksum: i32,
    pub(crate) transaction: Option<TransactionId>,
    pub(crate) opaque: Opaque,
}

pub(crate) struct SyncHead<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) partition: i32,
    pub(crate) length: usize,
    pub(crate) flag: i32,
    pub(crate) message_id: i64,
    pub(crate) checksum: i32,
    pub(crate) opaque: Opaque,
}

pub(crate) struct ResultHead {
    /// None for a `value`.
    pub(crate) status: Option<Status>,
    pub(crate) length: usize,
    pub(crate) opaque: Opaque,
}

/// Of a `get`, or of an `offset`, which has no size.
pub(crate) struct GetHead<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) group: Cow<'a, str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) max_size: i32,
    pub(crate) opaque: Opaque,
}

pub(crate) struct TransactionHead<'a> {
    pub(crate) id: TransactionId,
    pub(crate) session: Cow<'a, str>,
    pub(crate) kind: TransactionKind,
    pub(crate) timeout: i32,
    pub(crate) qualifier: Option<Cow<'a, str>>,
    pub(crate) opaque: Opaque,
}

/// No command has more words that matter; words beyond are only counted.
const MAX_TOKENS: usize = 8;

/// The words of a line. Blank ones at its end don't count (wire rule 2).
struct Tokens<'a> {
    command: &'static str,
    line: &'a [u8],
    tokens: [&'a [u8]; MAX_TOKENS],
    count: usize,
}

impl<'a> Head<'a> {
    /// Reads a line without its CR LF. Surplus words are ignored where Java ignores them.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, DecodeError> {
        let mut tokens = Tokens::split(line)?;
        match tokens.tokens[0] {
            b"result" => tokens.parse_result(),
            b"put" => tokens.parse_put(),
            b"value" => tokens.parse_value(),
            b"version" => {
                tokens.command = "version";
                let opaque = if tokens.count > 1 { tokens.opaque(1)? } else { Opaque::NONE };
                Ok(Self::Version { opaque })
            }
            b"get" => tokens.parse_get(),
            b"offset" => tokens.parse_offset(),
            b"transaction" => tokens.parse_transaction(),
            b"stats" => {
                tokens.command = "stats";
                let item = (tokens.count > 1).then(|| tokens.text(1)).filter(|item| !item.is_empty());
                let opaque = if tokens.count > 2 { tokens.opaque(2)? } else { Opaque::NONE };
                Ok(Self::Stats { item, opaque })
            }
            b"sync" => tokens.parse_sync(),
            b"quit" => Ok(Self::Quit),
            _ => Err(tokens.error(DecodeErrorKind::UnknownCommand)),
        }
    }

    pub(crate) fn body_len(&self) -> usize {
        match self {
            Self::Put(put) => put.length,
            Self::Sync(sync) => sync.length,
            Self::Result(result) => result.length,
            _ => 0,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Sync(_) => "sync",
            Self::Result(ResultHead { status: Some(_), .. }) => "result",
            Self::Result(_) => "value",
            Self::Get(_) => "get",
            Self::Offset(_) => "offset",
            Self::Transaction(_) => "transaction",
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

    fn parse_result(mut self) -> Result<Head<'a>, DecodeError> {
        self.at_least("result", 4)?;
        let (status, length) = (self.int(1, "status")?, self.length(2)?);
        Ok(Head::Result(ResultHead { status: Some(Status(status)), length, opaque: self.opaque(3)? }))
    }

    fn parse_value(mut self) -> Result<Head<'a>, DecodeError> {
        self.at_least("value", 3)?;
        Ok(Head::Result(ResultHead { status: None, length: self.length(1)?, opaque: self.opaque(2)? }))
    }

    /// The four forms of a put (wire rule 3.1).
    fn parse_put(mut self) -> Result<Head<'a>, DecodeError> {
        self.at_least("put", 6)?;
        let is_checksum = |n: usize| self.text(n).starts_with(|first| is_digit(first) || first == '-');
        let (checksum, transaction, opaque) = match self.count {
            6 => (-1, None, 5),
            7 if is_checksum(5) => (self.int(5, "checksum")?, None, 6),
            7 => (-1, Some(self.transaction(5)?), 6),
            8 => (self.int(5, "checksum")?, Some(self.transaction(6)?), 7),
            count => return Err(self.error(DecodeErrorKind::TokenCount { count })),
        };
        Ok(Head::Put(PutHead {
            topic: self.text(1),
            partition: self.int(2, "partition")?,
            length: self.length(3)?,
            flag: self.int(4, "flag")?,
            checksum,
            transaction,
            opaque: self.opaque(opaque)?,
        }))
    }

    fn parse_sync(mut self) -> Result<Head<'a>, DecodeError> {
        self.at_least("sync", 7)?;
        let (checksum, opaque) = match self.count {
            7 => (-1, 6),
            8 => (self.int(6, "checksum")?, 7),
            count => return Err(self.error(DecodeErrorKind::TokenCount { count })),
        };
        Ok(Head::Sync(SyncHead {
            topic: self.text(1),
            partition: self.int(2, "partition")?,
            length: self.length(3)?,
            flag: self.int(4, "flag")?,
            message_id: self.long(5, "message_id")?,
            checksum,
            opaque: self.opaque(opaque)?,
        }))
    }

    fn parse_get(mut self) -> Result<Head<'a>, DecodeError> {
        self.at_least("get", 7)?;
        let (max_size, opaque) = (self.int(5, "max_size")?, self.opaque(6)?);
        self.get_head(max_size, opaque).map(Head::Get)
    }

    fn parse_offset(mut self) -> Result<Head<'a>, DecodeError> {
        self.at_least("offset", 6)?;
        let opaque = self.opaque(5)?;
        self.get_head(0, opaque).map(Head::Offset)
    }

    fn get_head(&self, max_size: i32, opaque: Opaque) -> Result<GetHead<'a>, DecodeError> {
        let (partition, offset) = (self.int(3, "partition")?, self.long(4, "offset")?);
        Ok(GetHead { topic: self.text(1), group: self.text(2), partition, offset, max_size, opaque })
    }

    /// What stands between the kind and the opaque is a timeout when it is all digits (wire rule 3.7).
    fn parse_transaction(mut self) -> Result<Head<'a>, DecodeError> {
        self.at_least("transaction", 5)?;
        let (timeout, qualifier, opaque) = match self.count {
            5 => (0, None, 4),
            6 if self.text(4).chars().all(is_digit) => (self.int(4, "timeout")?, None, 5),
            6 => (0, Some(self.text(4)), 5),
            7 => (self.int(4, "timeout")?, Some(self.text(5)), 6),
            count => return Err(self.error(DecodeErrorKind::TokenCount { count })),
        };
        let kind = self.text(3);
        Ok(Head::Transaction(TransactionHead {
            id: self.transaction(1)?,
            session: self.text(2),
            kind: kind.parse().map_err(|_| DecodeError::field(self.command, "type", &kind))?,
            timeout,
            qualifier,
            opaque: self.opaque(opaque)?,
        }))
    }

    /// Says which command it is, and that it must have so many words.
    fn at_least(&mut self, command: &'static str, wanted: usize) -> Result<(), DecodeError> {
        self.command = command;
        if self.count < wanted {
            return Err(self.error(DecodeErrorKind::TokenCount { count: self.count }));
        }
        Ok(())
    }

    fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        let shown: String = lossy(&self.line[..self.line.len().min(200)]).to_string();
        DecodeError::new(self.command, kind, &shown)
    }

    fn text(&self, n: usize) -> Cow<'a, str> {
        lossy(self.tokens[n])
    }

    fn transaction(&self, n: usize) -> Result<TransactionId, DecodeError> {
        let text = self.text(n);
        text.parse().map_err(|_| DecodeError::field(self.command, "transaction", &text))
    }

    fn long(&self, n: usize, field: &'static str) -> Result<i64, DecodeError> {
        parse_i64(self.tokens[n]).ok_or_else(|| DecodeError::field(self.command, field, &self.text(n)))
    }

    fn int(&self, n: usize, field: &'static str) -> Result<i32, DecodeError> {
        parse_i32(self.tokens[n]).ok_or_else(|| DecodeError::field(self.command, field, &self.text(n)))
    }

    fn length(&self, n: usize) -> Result<usize, DecodeError> {
        usize::try_from(self.int(n, "length")?)
            .map_err(|_| DecodeError::field(self.command, "length", &self.text(n)))
    }

    fn opaque(&self, n: usize) -> Result<Opaque, DecodeError> {
        self.int(n, "opaque").map(Opaque)
    }
}
