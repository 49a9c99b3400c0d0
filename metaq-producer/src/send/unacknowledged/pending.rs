//! A message between its acceptance and its outcome.

use std::time::Duration;

use metaq_protocol::Partition;
use tokio::time::Instant;

use crate::{
    Message,
    error::FailedAttempt,
    send::{permits::Share, span::SendSpan, wait_limits::WaitPermit},
};

/// A message, and all that sending it needs.
///
/// The order of the fields is fixed. Behind the padding at the end of an `Instant` the message would be
/// copied together with that padding, four bytes off, and loads that span two stores wait for both: 2 % of a
/// message's CPU.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PendingMessage {
    pub(crate) message: Message,
    /// The state that most messages don't have.
    pub(crate) rare: Option<Box<RareState>>,
    pub(crate) share: Share,
    /// The number of attempts that failed.
    pub(crate) attempts_before: u32,
    /// The time that it may take in all.
    pub(crate) timeout: Millis,
    pub(crate) started: Instant,
}

/// A message on its way to a connection.
///
/// It stays here until it is where it is kept: moved from hand to hand, it would take as long as to encode
/// it.
#[derive(Debug)]
pub(crate) struct Submission {
    /// None once it was taken.
    pub(crate) pending: Option<PendingMessage>,
    /// Set when the connection's write buffer is full enough that the caller should yield.
    pub(crate) should_yield: bool,
    /// Has it wait if it has to. Given up as soon as the message is where it is kept.
    pub(crate) permit: Option<WaitPermit>,
}

impl Submission {
    #[inline(always)]
    pub(crate) fn new(pending: PendingMessage, permit: Option<WaitPermit>) -> Self {
        Self { pending: Some(pending), should_yield: false, permit }
    }
}

/// A duration in four bytes, rounded up. What is longer than seven weeks is that long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Millis(u32);

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        let millis = u64::from(duration.subsec_nanos().div_ceil(1_000_000));
        Self(
            u32::try_from(duration.as_secs().saturating_mul(1000).saturating_add(millis)).unwrap_or(u32::MAX),
        )
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Self::from_millis(millis.0.into())
    }
}

#[derive(Debug, Default)]
pub(crate) struct RareState {
    pub(crate) failed: Vec<FailedAttempt>,
    /// The partition that it goes to, once that is decided for good.
    pub(crate) partition: Option<Partition>,
    /// Whether it has the turn there.
    pub(crate) has_turn: bool,
    /// Whether the broker has refused it there, so that another partition is better if the selector agrees.
    pub(crate) was_refused: bool,
    /// While it waits.
    pub(crate) permit: Option<WaitPermit>,
    /// The time at which it was handed to a connection, if the selector wants outcomes.
    pub(super) submitted_at: Option<Instant>,
    /// Its span, with the option `span_per_send`.
    pub(crate) span: Option<Box<SendSpan>>,
}

impl RareState {
    /// Whether an attempt that failed may have stored the message.
    pub(super) fn may_be_stored(&self) -> bool {
        self.failed.iter().any(FailedAttempt::may_be_stored)
    }
}

impl PendingMessage {
    /// Gives the message the span that it has already, or a new one.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin_span(&mut self, span: Option<Box<SendSpan>>) {
        if let Some(span) = span.or_else(|| SendSpan::begin(self.message.topic())) {
            self.rare().span = Some(span);
        }
    }

    /// The time at which it times out.
    #[inline(always)]
    pub(crate) fn deadline(&self) -> Instant {
        self.started + Duration::from(self.timeout)
    }

    pub(crate) fn take_span(&mut self) -> Option<Box<SendSpan>> {
        self.rare.as_mut()?.span.take()
    }

    pub(crate) fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// The partition that it goes to, once that is decided for good.
    pub(crate) fn partition(&self) -> Option<Partition> {
        self.rare.as_ref()?.partition
    }

    /// The partition in which it has the turn.
    pub(crate) fn turn(&self) -> Option<Partition> {
        self.rare.as_ref().filter(|rare| rare.has_turn)?.partition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_never_cut_short() {
        for (duration, millis) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_micros(1_500), 2),
            (Duration::from_secs(3), 3_000),
            (Duration::MAX, u64::from(u32::MAX)),
        ] {
            assert_eq!(Duration::from(Millis::from(duration)), Duration::from_millis(millis));
        }
    }
}
