//! The course of an XA transaction at a resource.

use super::XaErrorCode;

/// How [`XaResource::start`](super::XaResource::start) takes up a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XaStart {
    /// It begins: `TMNOFLAGS`.
    New,
    /// It began through another resource at the same broker: `TMJOIN`. The broker isn't asked; if it doesn't know it, the
    /// first message is refused with [`NOTA`](XaErrorCode::NOTA).
    Join,
    /// It was suspended by this resource: `TMRESUME`.
    Resume,
}

/// How [`XaResource::end`](super::XaResource::end) leaves a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XaEnd {
    /// All messages were sent: `TMSUCCESS`.
    Success,
    /// It has failed, and can only be rolled back: `TMFAIL`. This resource sees to it; the broker isn't told before.
    Fail,
    /// There may be more messages: `TMSUSPEND`.
    Suspend,
}

/// How a broker votes when it is asked to [prepare](super::XaResource::prepare).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a third vote would break every caller's logic")]
pub enum XaVote {
    /// It is prepared, outlives crashes of the broker, and has to be committed or rolled back: `XA_OK`.
    Prepared,
    /// Nothing was sent in it, and it is over: `XA_RDONLY`.
    ReadOnly,
}

/// What is known of a transaction that goes through a resource.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// It began here, and not by joining it.
    pub(super) begun: bool,
    pub(super) suspended: bool,
    /// Why it can only be rolled back.
    pub(super) spoilt: Option<(XaErrorCode, String)>,
}

impl Known {
    pub(super) fn spoil(&mut self, code: XaErrorCode, text: &str) {
        self.spoilt.get_or_insert_with(|| (code, text.to_owned()));
    }
}
