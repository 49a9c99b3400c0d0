//! The errors of XA transactions.

use std::{error::Error as StdError, fmt};

use metaq_protocol::{BooleanCommand, BrokerAddr, Opaque, TransactionId, XaTransactionId};
use metaq_transport::{Progress, TransportError, TransportErrorKind};

use crate::branch::{NO_RUNTIME, StepError};

/// The code of an [`XaError`], as X/Open and the Java Transaction API number them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with names")]
pub struct XaErrorCode(pub i32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl XaErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// The name in the Java Transaction API, such as `XAER_NOTA`, if there is one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Rolled back, for no particular reason; also by `XaEnd::Fail`.
    RBROLLBACK = 100, "XA_RBROLLBACK";
    /// Rolled back because a message of it has no answer.
    RBCOMMFAIL = 101, "XA_RBCOMMFAIL";
    /// The broker could not write it, and meant to roll it back. As the answer to a commit, a part may be
    /// stored.
    RBOTHER = 104, "XA_RBOTHER";
    /// Rolled back because it took too long.
    RBTIMEOUT = 106, "XA_RBTIMEOUT";
    /// An operator may have ended it.
    HEURHAZ = 8, "XA_HEURHAZ";
    /// An operator has committed it.
    HEURCOM = 7, "XA_HEURCOM";
    /// An operator has rolled it back.
    HEURRB = 6, "XA_HEURRB";
    /// An operator has committed a part of it.
    HEURMIX = 5, "XA_HEURMIX";
    /// The broker failed.
    RMERR = -3, "XAER_RMERR";
    /// The broker doesn't know it: it never began, has ended one way or the other, or was forgotten when the
    /// broker was restarted.
    NOTA = -4, "XAER_NOTA";
    /// The call makes no sense.
    INVAL = -5, "XAER_INVAL";
    /// It isn't in the state for this.
    PROTO = -6, "XAER_PROTO";
    /// The broker can't be reached, or doesn't answer.
    RMFAIL = -7, "XAER_RMFAIL";
    /// It is known already.
    DUPID = -8, "XAER_DUPID";
}

impl XaErrorCode {
    /// Whether the code says that it was rolled back: the codes from 100 to 107. Of a commit that isn't
    /// certain: the broker stores the messages partition by partition, and a part may be stored;
    /// [`XaError::is_unknown`] says so.
    #[must_use]
    pub const fn is_rollback(self) -> bool {
        matches!(self.0, 100..=107)
    }

    /// Whether an operator decided on it: the codes from 5 to 8. The broker remembers that until it is told
    /// to [`forget`](crate::xa::XaResource::forget) it.
    #[must_use]
    pub const fn is_heuristic(self) -> bool {
        matches!(self.0, 5..=8)
    }
}

impl fmt::Display for XaErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// With the name, which a failed assertion shows then.
impl fmt::Debug for XaErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XaErrorCode({self})")
    }
}

/// A step of an XA transaction failed.
pub struct XaError {
    inner: Box<Failure>,
}

struct Failure {
    code: XaErrorCode,
    unknown: bool,
    xid: Option<XaTransactionId>,
    broker: Option<BrokerAddr>,
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl XaError {
    pub(crate) fn new(code: XaErrorCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            inner: Box::new(Failure { code, unknown: false, xid: None, broker: None, text, source: None }),
        }
    }

    /// The error of a step that ended so (rule X-17).
    pub(crate) fn step(step: StepError, id: &TransactionId, broker: &BrokerAddr) -> Self {
        let is_not_started = step.is_not_started();
        let this = match step {
            StepError::Refused(status, text) => {
                let answer = BooleanCommand::new(status, text.into(), Opaque::NONE);
                let (code, text) = match metaq_protocol::XaError::from_response(&answer) {
                    Some(error) => (XaErrorCode(error.code), error.message),
                    None => (XaErrorCode::RMERR, answer.text().into_owned()),
                };
                // Of a message the broker says so without a code.
                let code = if is_not_started { XaErrorCode::NOTA } else { code };
                let text = if text.is_empty() { format!("the broker answered {status}") } else { text };
                let mut this = Self::new(code, text);
                // In the broker's words something behind it can't be reached, which may be halfway.
                this.inner.unknown = code == XaErrorCode::RMFAIL;
                this
            }
            StepError::Odd(text) => Self {
                inner: Box::new(Failure { unknown: true, ..*Self::new(XaErrorCode::RMERR, text).inner }),
            },
            StepError::NoAnswer(error) => Self::no_answer(error),
            StepError::NoRuntime => Self::new(XaErrorCode::RMFAIL, NO_RUNTIME),
        };
        this.of(id, broker)
    }

    fn no_answer(error: TransportError) -> Self {
        let written = error.progress() == Progress::Written;
        let text = match (error.kind(), written) {
            (TransportErrorKind::TimedOut, true) => "no answer came in time",
            (TransportErrorKind::Lost, true) => "the connection was lost before the answer came",
            (_, true) => "the connection was closed before the answer came",
            (TransportErrorKind::TimedOut | TransportErrorKind::Full, false) => {
                "it could not be written in time"
            }
            (TransportErrorKind::Closed, false) => "the producer was closed",
            (_, false) => "the broker can't be reached",
        };
        let mut this = Self::new(XaErrorCode::RMFAIL, text);
        this.inner.unknown = written;
        this.with_source(error)
    }

    pub(crate) fn of(mut self, id: &TransactionId, broker: &BrokerAddr) -> Self {
        if let TransactionId::Xa(xid) = id {
            self.inner.xid = Some(xid.clone());
        }
        self.inner.broker = Some(broker.clone());
        self
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.inner.source = Some(Box::new(source));
        self
    }

    /// The same error, of a step that may have been carried out.
    pub(crate) fn into_unknown(mut self) -> Self {
        self.inner.unknown = true;
        self
    }

    /// The same error of a commit. A broker that fails while it stores the messages may have stored a part of
    /// them, and one that doesn't know the transaction may have committed it, asked by any resource of any
    /// program, rolled it back, or forgotten it.
    pub(crate) fn of_commit(mut self) -> Self {
        let failure = &mut self.inner;
        let reason = match failure.code {
            // It was not asked, or was not in the state for it.
            XaErrorCode::PROTO | XaErrorCode::INVAL | XaErrorCode::RMFAIL => return self,
            code if code.is_heuristic() => return self,
            code if code.is_rollback() => "; for all that a part may be stored",
            XaErrorCode::NOTA => {
                "; it was committed or rolled back before, or the broker forgot it at a restart"
            }
            // A failure of the broker, or a code that says nothing about the messages.
            _ => "",
        };
        failure.unknown = true;
        if !reason.is_empty() {
            // The broker's text may be a sentence.
            failure.text.truncate(failure.text.trim_end_matches('.').len());
            failure.text.push_str(reason);
        }
        self
    }

    /// The reason of the failure.
    #[must_use]
    pub fn code(&self) -> XaErrorCode {
        self.inner.code
    }

    /// Whether the step may have been carried out, wholly or, in the case of a commit, in part: it was sent
    /// and no answer showed the outcome, or the broker failed while it stored the messages, or it does not
    /// know the transaction that it is to commit.
    ///
    /// As long as [`recover`](crate::xa::XaProducer::recover) lists the transaction, it is neither committed
    /// nor rolled back, and the step can be repeated. One that isn't listed may be committed, rolled back, or
    /// forgotten by a restart of the broker: then nothing is stored of it, although it was prepared. Keep the
    /// decision, and look whether its messages are stored.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.inner.unknown
    }

    /// The transaction.
    #[must_use]
    pub fn xid(&self) -> Option<&XaTransactionId> {
        self.inner.xid.as_ref()
    }

    /// The broker that was asked.
    #[must_use]
    pub fn broker(&self) -> Option<&BrokerAddr> {
        self.inner.broker.as_ref()
    }
}

impl fmt::Display for XaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { code, unknown, xid, broker, text, .. } = &*self.inner;
        if let Some(xid) = xid {
            write!(f, "XA transaction {}", xid.as_str())?;
        } else {
            f.write_str("XA")?;
        }
        if let Some(broker) = broker {
            write!(f, " on broker {broker}")?;
        }
        write!(f, ": {code}: {text}")?;
        if *unknown { f.write_str("; the step may have been carried out") } else { Ok(()) }
    }
}

impl fmt::Debug for XaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XaError")
            .field("code", &self.inner.code)
            .field("unknown", &self.inner.unknown)
            .field("text", &self.to_string())
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for XaError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use metaq_protocol::Status;

    use super::*;

    #[test]
    fn answers_and_their_absence_have_their_codes() {
        let broker = BrokerAddr::new("h", 1).unwrap();
        let id = TransactionId::xa(1, b"g", b"b", "uq").unwrap();
        let refused = |text: &str| {
            let step = StepError::Refused(Status::INTERNAL_SERVER_ERROR, text.to_owned());
            XaError::step(step, &id, &broker)
        };
        let coded = refused("XAException:code=-6,msg=Cannot call prepare now.");
        assert_eq!((coded.code(), coded.is_unknown()), (XaErrorCode::PROTO, false), "X-17, B-22");
        assert_eq!(
            coded.to_string(),
            "XA transaction XID:1:67:62:uq on broker meta://h:1: XAER_PROTO (-6): Cannot call prepare now."
        );
        let of_a_message = refused("XA transaction 'XID:1:67:62:uq' has not been started.");
        assert_eq!(of_a_message.code(), XaErrorCode::NOTA, "protocol §3.7");
        assert_eq!(refused("disk full").code(), XaErrorCode::RMERR, "X-17");
        assert!(refused("disk full").of_commit().is_unknown());
        let in_part = refused("XAException:code=104,msg=STORE COMMIT FAILED.").of_commit();
        assert!(in_part.code().is_rollback() && in_part.is_unknown(), "{in_part}");
        let forgotten = of_a_message.of_commit();
        assert!(forgotten.is_unknown(), "it may be committed or forgotten");
        assert!(forgotten.to_string().contains("has not been started; it was committed or"), "{forgotten}");
        assert!(!refused("XAException:code=-6,msg=not prepared").of_commit().is_unknown());
        for code in [-8, -7, -3, 0, 42] {
            let odd = refused(&format!("XAException:code={code},msg=?")).of_commit();
            assert!(odd.is_unknown(), "nobody knows what it means for a commit: {odd}");
        }
        let heuristic = refused("XAException:code=7,msg=it has been heuristically committed.").code();
        assert!(heuristic.is_heuristic() && !heuristic.is_rollback(), "B-22");
        assert!(XaErrorCode::RBOTHER.is_rollback());
        assert_eq!(XaErrorCode(42).to_string(), "42");
        assert_eq!(format!("{:?}", XaErrorCode::NOTA), "XaErrorCode(XAER_NOTA (-4))");
        let lost = TransportError::new(TransportErrorKind::Lost, broker.clone());
        for (progress, unknown) in [(Progress::Written, true), (Progress::NotWritten, false)] {
            let error =
                XaError::step(StepError::NoAnswer(lost.clone().with_progress(progress)), &id, &broker);
            assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::RMFAIL, unknown), "X-17, K-48");
        }
    }
}
