//! The course of an XA transaction at a resource.

use std::time::Duration;

use tokio::time::Instant;

use super::XaErrorCode;
use crate::deadline;

/// The ways in which [`XaResource::start`](super::XaResource::start) takes up a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XaStart {
    /// It begins: `TMNOFLAGS`. The broker must not hold a prepared one of the same name.
    New,
    /// It began through another resource at the same broker: `TMJOIN`. The broker isn't asked; if it doesn't
    /// know it, the first message is refused with [`NOTA`](XaErrorCode::NOTA).
    Join,
    /// It was suspended by this resource: `TMRESUME`.
    Resume,
}

/// The ways in which [`XaResource::end`](super::XaResource::end) leaves a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XaEnd {
    /// All messages were sent: `TMSUCCESS`.
    Success,
    /// It has failed, and can only be rolled back: `TMFAIL`. This resource rolls it back; the broker isn't
    /// notified before.
    Fail,
    /// There may be more messages: `TMSUSPEND`.
    Suspend,
}

/// The vote of a broker that is asked to [prepare](super::XaResource::prepare).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a third vote would break every caller's logic")]
pub enum XaVote {
    /// It is prepared, is on the broker's disk, and must be committed or rolled back, the sooner the better:
    /// `XA_OK`. A restart of the broker can forget it, see [`XaResource::commit`](super::XaResource::commit).
    Prepared,
    /// Nothing was sent in it, and it is over: `XA_RDONLY`.
    ReadOnly,
}

/// The state of a transaction that goes through a resource.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// It began here, and not by joining it.
    pub(super) begun: bool,
    pub(super) suspended: bool,
    /// The reason why it can only be rolled back.
    pub(super) rollback_only: Option<(XaErrorCode, String)>,
    /// The time by which the broker has certainly rolled it back, unless it is prepared. None is never.
    pub(super) expires_at: Option<Instant>,
}

/// The longest delay with which a broker rolls back: it looks twice a second.
const EXPIRY_SLACK: Duration = Duration::from_secs(5);

impl Known {
    /// A transaction that begins now at a broker, with this timeout.
    pub(super) fn begun(timeout: Option<Duration>) -> Self {
        let expires_at = timeout.map(|timeout| deadline::at(deadline::after(timeout), EXPIRY_SLACK));
        Self { begun: true, expires_at, ..Self::default() }
    }

    pub(super) fn spoil(&mut self, code: XaErrorCode, text: &str) {
        self.rollback_only.get_or_insert_with(|| (code, text.to_owned()));
    }

    /// Whether nothing that is known matters any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}
