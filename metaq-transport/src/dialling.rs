//! The attempts to connect: one at a time, and a second one beside what is silent.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    ConnectionConfig, Dialer, TransportError,
    attempt::{Attempt, Proven},
    backoff::Backoff,
    contain::log,
    deadline,
    shared::ConnectionShared,
};

/// An attempt that isn't answered has the field to itself for so long; then another is made beside it. One that was made
/// beside another is given up after as much.
const UNANSWERED: Duration = Duration::from_millis(250);

/// The same in terms of the fastest attempt that succeeded, so that a distant broker is given the time that it takes.
const TIMES_THE_FASTEST: u32 = 3;

/// A broker that is silent is dialled after this part of the time after which it counts as silent: one that is only slow
/// answers the heartbeat first.
const HEAD_START: u32 = 20;

/// A connection that is silent has this part of that time, but no more than [`MAX_GRACE`], to answer once a new one was
/// answered.
const GRACE: u32 = 4;
const MAX_GRACE: Duration = Duration::from_millis(250);

/// The memory that is kept from one connection to the next.
pub(crate) struct Memory {
    backoff: Backoff,
    /// The fastest attempt that succeeded.
    fastest: Option<Duration>,
    /// That the broker can't be reached was logged.
    said_unreachable: bool,
    /// The number of connections in a row that were replaced, on which nothing but heartbeats was answered.
    futile: u32,
}

impl Memory {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        Self {
            backoff: Backoff::new(config.initial_backoff, config.max_backoff),
            fastest: None,
            said_unreachable: false,
            futile: 0,
        }
    }

    /// The pause before the next attempt.
    pub(crate) fn next_pause(&mut self) -> Duration {
        self.backoff.next_pause()
    }

    /// A connection was replaced, on which requests were answered or not.
    pub(crate) fn replaced(&mut self, any_answered: bool) {
        self.futile = if any_answered { 0 } else { self.futile.saturating_add(1) };
    }
}

/// The attempts of one connection: at most two while there is none, and one beside a connection that is silent.
pub(crate) struct Dialling<'a, D: Dialer> {
    shared: &'a Arc<ConnectionShared>,
    dialer: &'a D,
    config: &'a ConnectionConfig,
    memory: &'a mut Memory,
    /// The oldest is first.
    attempts: Vec<Attempt<'a, D::Stream>>,
    /// The attempt that the broker has answered, until it is used.
    proven: Option<Attempt<'a, D::Stream>>,
    /// No attempt is made before this.
    not_before: Instant,
    /// The silence that attempts are made beside, by its beginning.
    stalled: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<'a, D: Dialer> Dialling<'a, D> {
    pub(crate) fn new(
        shared: &'a Arc<ConnectionShared>,
        dialer: &'a D,
        config: &'a ConnectionConfig,
        memory: &'a mut Memory,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            dialer,
            config,
            memory,
            attempts: Vec::new(),
            proven: None,
            not_before: now,
            stalled: None,
            timer: Box::pin(sleep_until(now)),
        }
    }

    pub(crate) fn memory(&mut self) -> &mut Memory {
        self.memory
    }

    /// Has the next attempt wait for a while, unless it does already.
    pub(crate) fn pause(&mut self) {
        let now = Instant::now();
        if self.not_before <= now {
            self.not_before = deadline::after(now, self.memory.next_pause());
        }
    }

    /// The first connection on which the broker answers. There must be no other.
    pub(crate) async fn first_to_prove(&mut self) -> Proven<D::Stream> {
        self.stalled = None;
        loop {
            let proven = match self.proven.take() {
                Some(proven) => proven,
                None => std::future::poll_fn(|cx| self.poll_attempts(cx)).await,
            };
            let took = proven.proven_at().map(|at| at.saturating_duration_since(proven.started()));
            let Some(proven) = proven.into_proven() else { continue };
            self.give_up_all();
            let fastest = &mut self.memory.fastest;
            *fastest = took.into_iter().chain(*fastest).min();
            self.memory.backoff.reset();
            self.memory.said_unreachable = false;
            return proven;
        }
    }

    /// Makes attempts beside a connection that is silent since `stalled` and took bytes last at `last_write`. Ready when it is
    /// to be replaced: the broker has answered on a new one, and has had time to answer on this one, too.
    pub(crate) fn poll_beside(
        &mut self,
        cx: &mut Context<'_>,
        (stalled, last_write): (Instant, Instant),
    ) -> Poll<()> {
        if self.stalled != Some(stalled) {
            self.give_up_all();
            self.stalled = Some(stalled);
            let head_start = (self.config.stall_after / HEAD_START).min(UNANSWERED);
            self.not_before = deadline::after(stalled, head_start);
        }
        loop {
            if let Some(mut proven) = self.proven.take() {
                match proven.poll(cx, self.shared) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        self.pause();
                        continue;
                    }
                    Poll::Pending => {
                        let replace_at = self.replace_at(&proven, last_write);
                        self.proven = Some(proven);
                        return self.poll_timer(cx, replace_at);
                    }
                }
                self.proven = Some(proven);
                continue;
            }
            match self.poll_attempts(cx) {
                Poll::Ready(proven) => self.proven = Some(proven),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The time at which the silent connection is to be replaced by this one.
    fn replace_at(&self, proven: &Attempt<'a, D::Stream>, last_write: Instant) -> Instant {
        let proven_at = proven.proven_at().unwrap_or_else(Instant::now);
        let took = proven_at.saturating_duration_since(proven.started());
        let grace = (self.config.stall_after / GRACE).min(MAX_GRACE).max(2 * took);
        let grace = grace.saturating_mul(1 << self.memory.futile.min(20)).min(self.config.heartbeat_timeout);
        deadline::after(proven_at.max(last_write), grace)
    }

    /// Whether there is a new connection that can be used at once.
    pub(crate) fn has_proven(&self) -> bool {
        self.proven.is_some()
    }

    /// The connection answers again.
    pub(crate) fn stand_down(&mut self) {
        if self.stalled.take().is_some() {
            self.give_up_all();
            self.memory.backoff.reset();
        }
    }

    /// Gives up all attempts.
    pub(crate) fn give_up_all(&mut self) {
        self.attempts.clear();
        self.proven = None;
    }

    /// Ready with the first attempt that the broker answers.
    fn poll_attempts(&mut self, cx: &mut Context<'_>) -> Poll<Attempt<'a, D::Stream>> {
        let is_beside = self.stalled.is_some();
        let unanswered = self.unanswered();
        let most = if is_beside { 1 } else { 2 };
        loop {
            let now = Instant::now();
            let mut next = deadline::after(now, deadline::FAR);
            let mut number = 0;
            while let Some(attempt) = self.attempts.get_mut(number) {
                let is_first = number == 0 && !is_beside;
                let limit = if is_first { self.config.connect_timeout } else { unanswered };
                let end = deadline::after(attempt.started(), limit);
                let error = match attempt.poll(cx, self.shared) {
                    Poll::Ready(Ok(())) => return Poll::Ready(self.attempts.remove(number)),
                    Poll::Ready(Err(error)) => Some(error),
                    // One that was made beside another says nothing of the broker when it is given up.
                    Poll::Pending if end <= now => is_first.then(|| attempt.too_late(limit, self.shared)),
                    Poll::Pending => {
                        next = next.min(end);
                        number += 1;
                        continue;
                    }
                };
                drop(self.attempts.remove(number));
                self.pause();
                if let Some(error) = error.filter(|_| !is_beside) {
                    self.failed(&error);
                }
            }
            if self.attempts.len() < most {
                let newest =
                    self.attempts.last().map(|attempt| deadline::after(attempt.started(), unanswered));
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

    /// The time that an attempt may be unanswered before another is made.
    fn unanswered(&self) -> Duration {
        let fastest = self.memory.fastest.unwrap_or_default();
        UNANSWERED.max(fastest.saturating_mul(TIMES_THE_FASTEST)).min(self.config.connect_timeout)
    }

    fn failed(&mut self, error: &TransportError) {
        self.shared.set_connecting(error);
        if !mem::replace(&mut self.memory.said_unreachable, true) {
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
