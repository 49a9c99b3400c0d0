//! `transaction`: begin, prepare, commit, roll back.

use alloc::{borrow::ToOwned, string::String};
use core::{fmt, str::FromStr};

use bytes::BytesMut;

use crate::{
    InvalidToken, InvalidTokenKind, Opaque, Token, TransactionId,
    encode::{Encode, frame_methods},
    excerpt,
    number::{self, LineBuilder, text_len},
};

/// `transaction`: one step of a transaction.
///
/// ```text
/// transaction id session action [timeout] [qualifier] opaque\r\n
///
/// >> transaction TX:h-1:1 h-1 BEGIN 7 -2147483644\r\n
/// << result 200 0 -2147483644\r\n
/// ```
///
/// Of six words, the fifth is the timeout if it consists of digits, and the qualifier otherwise. A qualifier
/// of digits therefore needs a timeout, which [`with_qualifier`](Self::with_qualifier) checks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionCommand {
    /// The transaction; [`TransactionId::Null`] for `RECOVER`.
    pub id: TransactionId,
    /// The session. The broker doesn't compare it with the session in a local id.
    pub session: Token,
    /// The step.
    pub action: TransactionAction,
    /// The number that the response repeats.
    pub opaque: Opaque,
    timeout: i32,
    qualifier: Option<Token>,
}

impl TransactionCommand {
    /// Creates a step without timeout and qualifier.
    #[must_use]
    pub fn new(id: TransactionId, session: Token, action: TransactionAction) -> Self {
        Self::received(id, session, action, 0, None)
    }

    /// Creates a step from a received line, where any combination may occur.
    pub(crate) fn received(
        id: TransactionId,
        session: Token,
        action: TransactionAction,
        timeout: i32,
        qualifier: Option<Token>,
    ) -> Self {
        Self { id, session, action, opaque: Opaque::default(), timeout, qualifier }
    }

    /// Sets the timeout in seconds. 0 or less means never, and isn't encoded.
    #[must_use]
    pub fn with_timeout(mut self, seconds: i32) -> Self {
        self.timeout = seconds.max(0);
        self
    }

    /// Sets the name of the producer, by which `RECOVER` selects. Set the timeout first.
    ///
    /// # Errors
    /// [`InvalidToken`] when the qualifier is empty, contains a space or a line end, or consists of digits
    /// while there is no timeout: a peer would take it for one.
    pub fn with_qualifier(mut self, qualifier: &str) -> Result<Self, InvalidToken> {
        let token = Token::new(qualifier)?;
        if self.timeout == 0 && is_all_digits(qualifier) {
            return Err(InvalidToken::new(qualifier, InvalidTokenKind::TakenForTimeout));
        }
        self.qualifier = Some(token);
        Ok(self)
    }

    /// Sets the opaque.
    #[must_use]
    pub fn with_opaque(mut self, opaque: Opaque) -> Self {
        self.opaque = opaque;
        self
    }

    /// The number of seconds after which the broker rolls back. 0 is never; negative only when received so.
    #[must_use]
    pub fn timeout(&self) -> i32 {
        self.timeout
    }

    /// The name of the producer.
    #[must_use]
    pub fn qualifier(&self) -> Option<&str> {
        self.qualifier.as_deref()
    }

    /// The timeout if it is encoded: when it is set, or when the qualifier would be misread without it.
    fn written_timeout(&self) -> Option<i32> {
        let misread = self.qualifier.as_ref().is_some_and(|qualifier| is_all_digits(qualifier));
        (self.timeout != 0 || misread).then_some(self.timeout)
    }
}

/// Returns true if Java takes a word for a timeout: all its characters are digits. An empty word counts, too.
pub(crate) fn is_all_digits(word: &str) -> bool {
    word.chars().all(|c| number::digit(c).is_some())
}

impl Encode for TransactionCommand {
    fn head_len(&self) -> usize {
        "transaction ".len()
            + self.id.as_str().len()
            + 1
            + self.session.len()
            + 1
            + self.action.as_str().len()
            + self.written_timeout().map_or(0, |timeout| 1 + text_len(timeout.into()))
            + self.qualifier.as_ref().map_or(0, |qualifier| 1 + qualifier.len())
            + 1
            + text_len(self.opaque.0.into())
            + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        dst.reserve(self.head_len() + body_len);
        dst.extend_from_slice(b"transaction ");
        dst.extend_from_slice(self.id.as_str().as_bytes());
        dst.extend_from_slice(b" ");
        dst.extend_from_slice(self.session.as_bytes());
        dst.extend_from_slice(b" ");
        dst.extend_from_slice(self.action.as_str().as_bytes());
        if let Some(timeout) = self.written_timeout() {
            dst.extend_from_slice(LineBuilder::new().number(timeout).as_bytes());
        }
        if let Some(qualifier) = &self.qualifier {
            dst.extend_from_slice(b" ");
            dst.extend_from_slice(qualifier.as_bytes());
        }
        dst.extend_from_slice(LineBuilder::line_end().number(self.opaque.0).as_bytes());
    }
}

frame_methods!(TransactionCommand);

/// The steps of a transaction that a [`TransactionCommand`] requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TransactionAction {
    /// `BEGIN`: start the transaction. The response has an empty body, also when the transaction exists
    /// already.
    Begin,
    /// `PREPARE`: first phase of an XA commit. The response is `0`, or `3` for an empty transaction.
    Prepare,
    /// `COMMIT_ONE_PHASE`: commit without `PREPARE`. The response has an empty body.
    CommitOnePhase,
    /// `COMMIT_TWO_PHASE`: commit a prepared transaction. The response has an empty body.
    CommitTwoPhase,
    /// `ROLLBACK`: discard the transaction. The response has an empty body.
    Rollback,
    /// `RECOVER`: list prepared transactions. The response has one id per line.
    Recover,
    /// `FORGET`: drop a heuristically decided transaction. The response has an empty body.
    Forget,
    /// `END`: end the work of the XA branch. **There is no response at all.**
    End,
}

impl TransactionAction {
    /// All actions.
    pub const ALL: [Self; 8] = [
        Self::Begin,
        Self::Prepare,
        Self::CommitOnePhase,
        Self::CommitTwoPhase,
        Self::Rollback,
        Self::Recover,
        Self::Forget,
        Self::End,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN",
            Self::Prepare => "PREPARE",
            Self::CommitOnePhase => "COMMIT_ONE_PHASE",
            Self::CommitTwoPhase => "COMMIT_TWO_PHASE",
            Self::Rollback => "ROLLBACK",
            Self::Recover => "RECOVER",
            Self::Forget => "FORGET",
            Self::End => "END",
        }
    }
}

impl fmt::Display for TransactionAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TransactionAction {
    type Err = InvalidTransactionAction;

    fn from_str(text: &str) -> Result<Self, InvalidTransactionAction> {
        let found = Self::ALL.into_iter().find(|action| action.as_str() == text);
        found.ok_or_else(|| InvalidTransactionAction { text: excerpt(text).to_owned() })
    }
}

/// A word that is not a [`TransactionAction`]; actions are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTransactionAction {
    text: String,
}

impl fmt::Display for InvalidTransactionAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text } = self;
        write!(
            f,
            "{text:?} is not one of BEGIN, PREPARE, COMMIT_ONE_PHASE, COMMIT_TWO_PHASE, ROLLBACK, RECOVER, FORGET, END"
        )
    }
}

impl core::error::Error for InvalidTransactionAction {}

impl InvalidTransactionAction {
    /// The beginning of the word, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}
