//! The command that begins, prepares and ends transactions.

use alloc::{borrow::ToOwned, string::String};
use core::{fmt, str::FromStr};

use bytes::BytesMut;

use crate::{
    Opaque, TransactionId, Word,
    number::is_digit,
    text::{Line, number_len},
};

/// Begins, prepares or ends a transaction (wire rule 3.7).
///
/// ```text
/// transaction SP id SP session SP kind [SP timeout] [SP qualifier] SP opaque CRLF
///
/// transaction TX:s:1 s BEGIN 7 100\r\n
/// transaction null s RECOVER XAMessageProducer-vm 101\r\n
/// ```
///
/// The timeout and the qualifier are told apart by their looks: what is all digits is a timeout. Hence a qualifier of
/// digits only needs a timeout before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionCommand {
    id: TransactionId,
    session: Word,
    kind: TransactionKind,
    timeout: i32,
    qualifier: Option<Word>,
    /// Links the answer to this request.
    pub opaque: Opaque,
}

impl TransactionCommand {
    /// A command about the transaction `id`, without a timeout and without a qualifier.
    #[must_use]
    pub fn new(id: TransactionId, session: Word, kind: TransactionKind) -> Self {
        Self { id, session, kind, timeout: 0, qualifier: None, opaque: Opaque::NONE }
    }

    /// The command with a timeout in seconds, for `BEGIN`. 0 or less is none.
    #[must_use]
    pub fn with_timeout(self, seconds: i32) -> Self {
        Self { timeout: seconds.max(0), ..self }
    }

    /// The command with a qualifier, which tells whose distributed transactions are meant. Set the timeout first.
    ///
    /// # Errors
    /// When the qualifier is all digits and there is no timeout: a broker would take it for one, and then give
    /// `RECOVER` everybody's transactions (rule K-20).
    pub fn with_qualifier(self, qualifier: Word) -> Result<Self, InvalidQualifier> {
        if self.timeout <= 0 && qualifier.chars().all(is_digit) {
            return Err(InvalidQualifier { text: crate::excerpt(&qualifier).to_owned() });
        }
        Ok(Self { qualifier: Some(qualifier), ..self })
    }

    pub(crate) fn received(
        id: TransactionId,
        session: Word,
        kind: TransactionKind,
        timeout: i32,
        qualifier: Option<Word>,
        opaque: Opaque,
    ) -> Self {
        Self { id, session, kind, timeout, qualifier, opaque }
    }

    /// The transaction.
    #[must_use]
    pub fn id(&self) -> &TransactionId {
        &self.id
    }

    /// The session, which brokers don't compare with that in the id.
    #[must_use]
    pub fn session(&self) -> &Word {
        &self.session
    }

    /// What is to be done.
    #[must_use]
    pub fn kind(&self) -> TransactionKind {
        self.kind
    }

    /// The timeout in seconds; 0 or less is none.
    #[must_use]
    pub fn timeout(&self) -> i32 {
        self.timeout
    }

    /// The qualifier, if there is one.
    #[must_use]
    pub fn qualifier(&self) -> Option<&Word> {
        self.qualifier.as_ref()
    }

    /// The qualifier as it is written: a blank one is left out.
    fn written_qualifier(&self) -> Option<&Word> {
        let is_blank = |word: &Word| word.chars().all(char::is_whitespace);
        self.qualifier.as_ref().filter(|word| !is_blank(word))
    }

    /// The timeout as it is written: none is left out, unless a qualifier would be taken for it, which only one that came
    /// over the wire could.
    fn written_timeout(&self) -> Option<i32> {
        let needed = || self.written_qualifier().is_some_and(|qualifier| qualifier.chars().all(is_digit));
        (self.timeout > 0 || needed()).then_some(self.timeout)
    }

    pub(crate) fn head_len(&self) -> usize {
        "transaction\r\n".len()
            + 1
            + self.id.text_len()
            + 1
            + self.session.len()
            + 1
            + self.kind.as_str().len()
            + self.written_timeout().map_or(0, number_len)
            + self.written_qualifier().map_or(0, |qualifier| 1 + qualifier.len())
            + number_len(self.opaque.0)
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        let mut line =
            Line::begin(dst, "transaction").display(&self.id).text(&self.session).text(self.kind.as_str());
        if let Some(timeout) = self.written_timeout() {
            line = line.number(timeout);
        }
        if let Some(qualifier) = self.written_qualifier() {
            line = line.text(qualifier);
        }
        line.number(self.opaque.0).end();
    }
}

/// What a [`TransactionCommand`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionKind {
    /// Begins the transaction. Doing so again changes nothing.
    Begin,
    /// First phase. Answered `0` when it is prepared, `3` when there was nothing in it.
    Prepare,
    /// Commits without preparing.
    CommitOnePhase,
    /// Second phase.
    CommitTwoPhase,
    /// Rolls back.
    Rollback,
    /// Asks for the prepared transactions of a qualifier, or of everybody.
    Recover,
    /// Forgets a transaction that was ended by hand.
    Forget,
    /// Dissociates the connection from the transaction. Never answered.
    End,
}

impl TransactionKind {
    const ALL: [Self; 8] = [
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
    pub fn as_str(self) -> &'static str {
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

    /// Whether a broker answers it.
    #[must_use]
    pub fn is_answered(self) -> bool {
        self != Self::End
    }
}

impl fmt::Display for TransactionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TransactionKind {
    type Err = UnknownTransactionKind;

    fn from_str(text: &str) -> Result<Self, UnknownTransactionKind> {
        let unknown = || UnknownTransactionKind { text: crate::excerpt(text).to_owned() };
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(unknown)
    }
}

/// A word that is none of the [`TransactionKind`]s.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a kind of transaction command; they are written in capitals, such as BEGIN")]
pub struct UnknownTransactionKind {
    text: String,
}

/// A qualifier that a broker would take for a timeout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the qualifier {text:?} is all digits; without a timeout before it, a broker takes it for one")]
pub struct InvalidQualifier {
    text: String,
}
