//! The work on one established stream.
//!
//! A [`Driver`] reads responses and writes requests (`io`), and checks deadlines and the broker's silence
//! (`heartbeat`). `write_coalescing` decides when small writes are delayed. `shutdown` has the last steps on
//! a stream that is lost or closed. A driver lives as long as its stream; what lives longer is in
//! `connection`, and what decides about the next stream is in `dial` and `supervisor`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use metaq_protocol::{Decoder, Opaque};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop::has_budget_remaining,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    TransportError,
    connection::{CloseTime, CompactResponse, ConnectionShared, Deferred, LockedState, Outbox},
    deadline,
    dial::attempt::EstablishedStream,
    error::LossReason,
    panics::catch,
};

mod heartbeat;
mod io;
mod shutdown;
mod write_coalescing;

use shutdown::{LAST_READS, Shutdown};
use write_coalescing::WriteCoalescing;

/// The capacity of the read buffer, in bytes.
const READ_BUFFER: usize = 64 * 1024;

/// The number of responses that are delivered under one lock. Senders can take the lock between two batches.
const RESPONSES_PER_BATCH: usize = 64;

/// The number of rounds of reading and writing in one poll before timeouts are checked.
const ROUNDS: u32 = 128;

/// The longest sleep of the driver.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The durations after which a silent broker gets a heartbeat, and after which it counts as stalled or lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) stall_after: Duration,
    pub(crate) heartbeat_after: Duration,
    pub(crate) heartbeat_timeout: Duration,
}

/// Drives one stream, on which the broker has answered, until it is lost or closed.
///
/// All its work is done in [`poll`](Self::poll), which never blocks. When it is dropped, it hands over the
/// outbox that it was writing, so that it is known what was written.
pub(crate) struct Driver<'a, S> {
    shared: &'a Arc<ConnectionShared>,
    stream: S,
    decoder: Decoder,
    read_buffer: BytesMut,
    /// Responses that were decoded and not yet delivered.
    decoded: Vec<(Opaque, CompactResponse)>,
    writing: Outbox,
    /// A lower bound of the deadlines of the requests in `writing`.
    writing_deadline: Option<Instant>,
    /// Set while `writing` is here, and not in the shared state.
    has_writing: bool,
    /// Set while `writing` is in the shared state, and has to be taken back.
    handed_over: bool,
    /// Set while the stream writes. If that panics, all of `writing` may have been written.
    is_in_write: bool,
    must_flush: bool,
    deferred: Deferred,
    timer: Pin<Box<Sleep>>,
    timeouts: Timeouts,
    liveness: Liveness,
    last_read: Instant,
    /// The time at which the stream accepted bytes last while the broker was silent.
    last_write: Instant,
    /// The time since which responses are outstanding and no byte was read.
    owed_since: Option<Instant>,
    /// The time of the unanswered heartbeat, and the time that the broker has to answer it.
    probed: Option<(Instant, Duration)>,
    coalescing: WriteCoalescing,
    counts: DriverCounts,
    shutdown: Option<Shutdown>,
}

/// The broker's condition, as far as its responses show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    Responsive,
    /// Silent for too long, since this time.
    Stalled(Instant),
}

/// Counts that are added to the connection's when its task becomes idle.
#[derive(Debug, Default)]
struct DriverCounts {
    answered: u64,
    ignored: u64,
    writes: u64,
    written: u64,
    reads: u64,
    read: u64,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Driver<'a, S> {
    pub(crate) fn new(
        shared: &'a Arc<ConnectionShared>,
        established: EstablishedStream<S>,
        timeouts: Timeouts,
    ) -> Self {
        let now = Instant::now();
        let later = deadline::after(now, LONGEST_SLEEP);
        let mut read_buffer = BytesMut::with_capacity(READ_BUFFER);
        read_buffer.extend_from_slice(&established.unread);
        Self {
            shared,
            stream: established.stream,
            decoder: Decoder::new(),
            read_buffer,
            decoded: Vec::with_capacity(RESPONSES_PER_BATCH),
            writing: Outbox::default(),
            writing_deadline: None,
            has_writing: false,
            handed_over: false,
            is_in_write: false,
            must_flush: false,
            deferred: Deferred::default(),
            timer: Box::pin(sleep_until(later)),
            timeouts,
            liveness: Liveness::Responsive,
            last_read: now,
            last_write: now,
            owed_since: None,
            probed: None,
            coalescing: WriteCoalescing::default(),
            counts: DriverCounts::default(),
            shutdown: None,
        }
    }

    /// Returns the time since which the connection is stalled, and the time at which the stream accepted
    /// bytes last since then.
    pub(crate) fn stalled(&self) -> Option<(Instant, Instant)> {
        match self.liveness {
            Liveness::Responsive => None,
            Liveness::Stalled(since) => Some((since, self.last_write.max(since))),
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// Returns the time for which nothing was read.
    pub(crate) fn silent_for(&self) -> Duration {
        self.last_read.elapsed()
    }

    /// Gives up the stream: the next [`poll`](Self::poll) reads what has arrived and fails with `reason`.
    pub(crate) fn give_up(&mut self, reason: LossReason) {
        if self.shutdown.is_none() {
            self.shutdown =
                Some(Shutdown::Lost { error: self.shared.loss_error(reason), reads_left: LAST_READS });
        }
    }

    /// Ready when the connection was closed as requested, or the stream is lost. Outstanding requests are
    /// left to the caller.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.handed_over {
            self.take_writing_back();
        }
        let mut polled = Poll::Pending;
        if self.shutdown.is_none() {
            match self.poll_open(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(end)) => self.shutdown = Some(end),
                Poll::Ready(Err(reason)) => {
                    let reads_left = if reason.is_end_of_input() { 0 } else { LAST_READS };
                    let error = self.shared.loss_error(reason);
                    // Accepts no more requests, which would not be written.
                    self.shared.set_connecting(&error);
                    self.shutdown = Some(Shutdown::Lost { error, reads_left });
                }
            }
        }
        if self.shutdown.is_some() {
            polled = self.poll_shutdown(cx);
        }
        if self.has_writing {
            self.hand_over_writing();
        }
        polled
    }

    /// Reads, writes and checks timeouts until there is nothing to do, or the stream is lost or to be shut
    /// down.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<Shutdown, LossReason>> {
        for _ in 0..ROUNDS {
            let read = self.poll_read(cx)?;
            let written = self.poll_write(cx)?;
            if read.is_ready() || written.is_ready() {
                continue;
            }
            let mut locked = self.shared.inner.lock();
            if self.writing.is_empty() {
                if !locked.outbox.is_empty() {
                    if !locked.has_first_batch() && self.coalescing.delay(locked.outbox.inline_len()) {
                        locked.driver_writes = false;
                        self.has_writing = false;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    continue;
                }
                locked.driver_writes = false;
                self.has_writing = false;
            }
            let has_waiters = locked.limit.has_waiters();
            if has_waiters {
                // Hands on the capacity that reserved puts have released.
                locked.finish(&mut self.deferred);
            }
            let close_time = locked.close_time();
            let deadline = locked.slots.next_deadline();
            let owes = !locked.limit.is_idle() || self.probed.is_some();
            if !locked.idle_task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                locked.idle_task = Some(cx.waker().clone());
            }
            self.counts.add_to(&mut locked);
            drop(locked);
            if has_waiters {
                self.run_deferred()?;
            }
            let now = Instant::now();
            if let Some(end) = Shutdown::due(close_time, now) {
                return Poll::Ready(Ok(end));
            }
            if !has_budget_remaining() {
                // Out of budget, streams pretend to have nothing until the task is polled again.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !owes {
                self.owed_since = None;
            } else if self.owed_since.is_none() {
                self.owed_since = Some(now);
            }
            let end = match close_time {
                Some(CloseTime::At(end)) => end,
                _ => deadline::after(now, LONGEST_SLEEP),
            };
            let next = self.next_timeout().min(end).min(deadline.unwrap_or(end));
            if self.poll_timer(cx, now, next).is_pending() {
                return Poll::Pending;
            }
            self.check_timeouts(Instant::now())?;
        }
        self.check_timeouts(Instant::now())?;
        // A connection is also closed while its broker keeps sending.
        let close_time = self.shared.inner.lock().close_time();
        if let Some(end) = Shutdown::due(close_time, Instant::now()) {
            return Poll::Ready(Ok(end));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready at `next`, or before it.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant, next: Instant) -> Poll<()> {
        let next = next.min(deadline::after(now, LONGEST_SLEEP));
        // A timer that is early is reset when it fires, which is rarer than resetting it in every round.
        if self.timer.deadline() > next || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
        self.timer.as_mut().poll(cx)
    }

    /// Puts `writing` into the shared state, for as long as the task doesn't run.
    fn hand_over_writing(&mut self) {
        let mut locked = self.shared.inner.lock();
        self.handed_over = !self.writing.is_empty();
        self.has_writing = false;
        locked.driver_writes = false;
        locked.writing = std::mem::take(&mut self.writing);
    }

    /// Takes `writing` back out of the shared state.
    fn take_writing_back(&mut self) {
        let mut locked = self.shared.inner.lock();
        self.writing = std::mem::take(&mut locked.writing);
        self.handed_over = false;
        self.has_writing = !self.writing.is_empty();
        locked.driver_writes = self.has_writing;
    }

    /// Runs what was deferred. A panic in it ends the connection, because the user code may have left
    /// anything undone.
    #[inline]
    fn run_deferred(&mut self) -> Result<(), LossReason> {
        self.deferred.run(self.shared);
        match self.deferred.take_panicked() {
            None => Ok(()),
            Some(panicked) => Err(LossReason::Panicked(panicked)),
        }
    }
}

impl<S> Drop for Driver<'_, S> {
    fn drop(&mut self) {
        let mut bodies = Vec::new();
        if self.is_in_write {
            self.writing.assume_written(|body| bodies.push(body));
        }
        let task = {
            let mut locked = self.shared.inner.lock();
            self.counts.add_to(&mut locked);
            if !self.handed_over {
                locked.writing = std::mem::take(&mut self.writing);
            }
            locked.driver_writes = false;
            locked.idle_task.take()
        };
        drop(task);
        // A second panic during an unwind would abort the process.
        for body in bodies {
            drop(catch(|| drop(body)));
        }
    }
}

impl DriverCounts {
    /// Adds these counts to the connection's, and resets them.
    fn add_to(&mut self, locked: &mut LockedState) {
        let counts = std::mem::take(self);
        let stats = &mut locked.stats;
        stats.answered += counts.answered;
        stats.ignored_responses += counts.ignored;
        stats.writes += counts.writes;
        stats.bytes_written += counts.written;
        stats.reads += counts.reads;
        stats.bytes_read += counts.read;
    }
}
