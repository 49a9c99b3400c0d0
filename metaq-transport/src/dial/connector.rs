//! The attempts of one connection: when they are made, and which of them succeeds.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Dialer,
    attempt::{Attempt, EstablishedStream},
    history::DialHistory,
};
use crate::{ConnectionConfig, TransportError, connection::ConnectionShared, deadline, panics::log};

/// The time after which a second attempt is made beside one that is not answered, and after which that second
/// one is given up.
///
/// A distant broker gets more: see [`FASTEST_FACTOR`].
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The same as a multiple of the time that the fastest successful attempt took, where that is longer.
const FASTEST_FACTOR: u32 = 3;

/// `stall_after` divided by this passes between a stall and the first attempt to replace the stream.
///
/// A broker that is only slow answers the heartbeat within that time.
const REPLACEMENT_DELAY_DIVISOR: u32 = 20;

/// `stall_after` divided by this is the grace of a silent stream, at most [`MAX_GRACE`]: the time within
/// which it may still be answered after a new one was.
const GRACE_DIVISOR: u32 = 4;

/// The longest grace of a silent stream.
const MAX_GRACE: Duration = Duration::from_millis(250);

/// Makes the attempts of one connection: at most two while there is no stream, and one beside a stream that
/// is silent.
pub(crate) struct Connector<'a, D: Dialer> {
    shared: &'a Arc<ConnectionShared>,
    dialer: &'a D,
    config: &'a ConnectionConfig,
    history: &'a mut DialHistory,
    /// The attempts that are not answered yet, oldest first.
    attempts: Vec<Attempt<'a, D::Stream>>,
    /// The attempt that the broker has answered, until its stream is used.
    established: Option<Attempt<'a, D::Stream>>,
    /// The time before which no attempt is made.
    not_before: Instant,
    /// The time since which the stream that is to be replaced is silent, if there is one.
    stalled: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<'a, D: Dialer> Connector<'a, D> {
    pub(crate) fn new(
        shared: &'a Arc<ConnectionShared>,
        dialer: &'a D,
        config: &'a ConnectionConfig,
        history: &'a mut DialHistory,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            dialer,
            config,
            history,
            attempts: Vec::new(),
            established: None,
            not_before: now,
            stalled: None,
            timer: Box::pin(sleep_until(now)),
        }
    }

    pub(crate) fn history(&mut self) -> &mut DialHistory {
        self.history
    }

    /// Delays the next attempt, unless it is delayed already.
    pub(crate) fn back_off(&mut self) {
        let now = Instant::now();
        if self.not_before <= now {
            self.not_before = deadline::after(now, self.history.next_delay());
        }
    }

    /// Returns the first stream on which the broker answers. The connection must have no other.
    pub(crate) async fn connect(&mut self) -> EstablishedStream<D::Stream> {
        self.stalled = None;
        loop {
            let established = match self.established.take() {
                Some(established) => established,
                None => std::future::poll_fn(|cx| self.poll_attempts(cx)).await,
            };
            let took =
                established.answered_at().map(|at| at.saturating_duration_since(established.started()));
            let Some(established) = established.into_established() else { continue };
            self.cancel_all();
            let fastest = &mut self.history.fastest;
            *fastest = took.into_iter().chain(*fastest).min();
            self.history.backoff.reset();
            self.history.logged_unreachable = false;
            return established;
        }
    }

    /// Makes attempts beside a stream that is silent since `stalled` and accepted bytes last at `last_write`.
    ///
    /// Ready when the stream is to be replaced: the broker has answered on a new one, and has had time to
    /// answer on this one.
    pub(crate) fn poll_replacement(
        &mut self,
        cx: &mut Context<'_>,
        (stalled, last_write): (Instant, Instant),
    ) -> Poll<()> {
        if self.stalled != Some(stalled) {
            self.cancel_all();
            self.stalled = Some(stalled);
            let replacement_delay = (self.config.stall_after / REPLACEMENT_DELAY_DIVISOR).min(ATTEMPT_DELAY);
            self.not_before = deadline::after(stalled, replacement_delay);
        }
        loop {
            if let Some(mut established) = self.established.take() {
                match established.poll(cx, self.shared) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        self.back_off();
                        continue;
                    }
                    Poll::Pending => {
                        let replace_at = self.replace_at(&established, last_write);
                        self.established = Some(established);
                        return self.poll_timer(cx, replace_at);
                    }
                }
                self.established = Some(established);
                continue;
            }
            match self.poll_attempts(cx) {
                Poll::Ready(established) => self.established = Some(established),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Returns the time at which `established` replaces the silent stream.
    fn replace_at(&self, established: &Attempt<'a, D::Stream>, last_write: Instant) -> Instant {
        let answered_at = established.answered_at().unwrap_or_else(Instant::now);
        let took = answered_at.saturating_duration_since(established.started());
        let grace = (self.config.stall_after / GRACE_DIVISOR).min(MAX_GRACE).max(2 * took);
        let grace = grace
            .saturating_mul(1 << self.history.futile_replacements.min(20))
            .min(self.config.heartbeat_timeout);
        deadline::after(answered_at.max(last_write), grace)
    }

    /// Returns whether a new stream can be used at once.
    pub(crate) fn has_replacement(&self) -> bool {
        self.established.is_some()
    }

    /// Gives up the attempts to replace a stream: the broker answers on it again.
    pub(crate) fn cancel_replacement(&mut self) {
        if self.stalled.take().is_some() {
            self.cancel_all();
            self.history.backoff.reset();
        }
    }

    /// Gives up all attempts.
    pub(crate) fn cancel_all(&mut self) {
        self.attempts.clear();
        self.established = None;
    }

    /// Drives the attempts, and makes new ones; ready with the first one that the broker answers.
    fn poll_attempts(&mut self, cx: &mut Context<'_>) -> Poll<Attempt<'a, D::Stream>> {
        let is_replacing = self.stalled.is_some();
        let attempt_delay = self.attempt_delay();
        let max_attempts = if is_replacing { 1 } else { 2 };
        loop {
            let now = Instant::now();
            let mut next = deadline::after(now, deadline::FAR);
            let mut index = 0;
            while let Some(attempt) = self.attempts.get_mut(index) {
                let is_first = index == 0 && !is_replacing;
                let limit = if is_first { self.config.connect_timeout } else { attempt_delay };
                let end = deadline::after(attempt.started(), limit);
                let error = match attempt.poll(cx, self.shared) {
                    Poll::Ready(Ok(())) => return Poll::Ready(self.attempts.remove(index)),
                    Poll::Ready(Err(error)) => Some(error),
                    // The end of an attempt beside another one says nothing about the broker.
                    Poll::Pending if end <= now => {
                        is_first.then(|| attempt.timeout_error(limit, self.shared))
                    }
                    Poll::Pending => {
                        next = next.min(end);
                        index += 1;
                        continue;
                    }
                };
                drop(self.attempts.remove(index));
                self.back_off();
                if let Some(error) = error.filter(|_| !is_replacing) {
                    self.attempt_failed(&error);
                }
            }
            if self.attempts.len() < max_attempts {
                let newest =
                    self.attempts.last().map(|attempt| deadline::after(attempt.started(), attempt_delay));
                let at = newest.map_or(self.not_before, |newest| newest.max(self.not_before));
                if at <= now {
                    self.attempts.push(Attempt::new(self.dialer, &self.shared.broker));
                    continue;
                }
                next = next.min(at);
            }
            if self.poll_timer(cx, next).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Returns the time after which another attempt is made beside one that is not answered.
    fn attempt_delay(&self) -> Duration {
        let fastest = self.history.fastest.unwrap_or_default();
        ATTEMPT_DELAY.max(fastest.saturating_mul(FASTEST_FACTOR)).min(self.config.connect_timeout)
    }

    fn attempt_failed(&mut self, error: &TransportError) {
        self.shared.set_connecting(error);
        if !mem::replace(&mut self.history.logged_unreachable, true) {
            let error = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            log!(warn, broker = %self.shared.broker, %error, "broker is unreachable; trying on");
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.timer.deadline() != at || self.timer.is_elapsed() {
            self.timer.as_mut().reset(deadline::for_timer(at));
        }
        self.timer.as_mut().poll(cx)
    }
}
