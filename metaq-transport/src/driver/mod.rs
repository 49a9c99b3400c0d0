//! One established connection: reads answers, writes requests, keeps time.

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
    attempt::Proven,
    contain::contain,
    deadline,
    deferred::Deferred,
    error::LossReason,
    outbox::Outbox,
    phase::CloseTime,
    shared::{ConnectionShared, LockedState},
    slots::CompactResponse,
};

mod heartbeat;
mod io;
mod write_coalescing;

use write_coalescing::WriteCoalescing;

const READ_BUFFER: usize = 64 * 1024;

/// The number of answers that are delivered in one go; senders get at the lock in between.
const RESPONSES_PER_BATCH: usize = 64;

/// So often it is read and written in one go before it is looked at the time.
const ROUNDS: u32 = 128;

/// So often it is read at most from a connection that is lost already.
const LAST_READS: u32 = 1024;

/// The longest sleep when nothing asks for less.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The time that saying goodbye may take.
const GRACEFUL_SHUTDOWN: Duration = Duration::from_secs(1);

/// The times of heartbeats: when a silent broker is asked, and how long it has to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) stall_after: Duration,
    pub(crate) heartbeat_after: Duration,
    pub(crate) heartbeat_timeout: Duration,
}

/// Drives one established connection, on which the broker has answered, to its end. All its work is in [`poll`](Self::poll),
/// which never blocks.
///
/// When it is dropped, whatever the reason, it gives back what it was writing, so that what was written is known.
pub(crate) struct Driver<'a, S> {
    shared: &'a Arc<ConnectionShared>,
    stream: S,
    decoder: Decoder,
    read_buffer: BytesMut,
    /// Answers that were decoded and not yet delivered.
    decoded: Vec<(Opaque, CompactResponse)>,
    writing: Outbox,
    /// No deadline of what is in `writing` is before this.
    writing_deadline: Option<Instant>,
    /// The outbox is here, and not with the link.
    has_writing: bool,
    /// The outbox is with the link, and has to be taken back.
    handed_over: bool,
    /// The stream is asked to write; if that panics, nobody knows what it has written.
    is_in_write: bool,
    must_flush: bool,
    deferred: Deferred,
    timer: Pin<Box<Sleep>>,
    timeouts: Timeouts,
    liveness: Liveness,
    last_read: Instant,
    /// The time at which the stream took bytes last while the broker was silent.
    last_write: Instant,
    /// Since when the broker owes an answer without having sent a byte.
    owed_since: Option<Instant>,
    /// The time of the heartbeat since which nothing was read, and the time that the broker has to answer it.
    probed: Option<(Instant, Duration)>,
    coalescing: WriteCoalescing,
    counts: DriverCounts,
    shutdown: Option<Shutdown>,
}

/// The knowledge of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    Responsive,
    /// Since then.
    Stalled(Instant),
}

/// The way in which the session is about to end.
#[derive(Debug)]
enum Shutdown {
    /// The connection is lost. What has arrived is still read.
    Lost { error: TransportError, reads: u32 },
    /// Nothing is outstanding; the stream is shut down, but not beyond this.
    Graceful(Instant),
}

impl Shutdown {
    /// The way to end now, if it is time to.
    fn due(close_time: Option<CloseTime>, now: Instant) -> Option<Self> {
        match close_time {
            Some(CloseTime::Now(end)) => {
                Some(Self::Graceful(end.min(deadline::after(now, GRACEFUL_SHUTDOWN))))
            }
            Some(CloseTime::At(end)) if end <= now => Some(Self::Graceful(now)),
            _ => None,
        }
    }
}

/// Counted here, and added to the connection's counts when its task goes idle.
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
    pub(crate) fn new(shared: &'a Arc<ConnectionShared>, proven: Proven<S>, timeouts: Timeouts) -> Self {
        let now = Instant::now();
        let later = deadline::after(now, LONGEST_SLEEP);
        let mut read_buffer = BytesMut::with_capacity(READ_BUFFER);
        read_buffer.extend_from_slice(&proven.unread);
        Self {
            shared,
            stream: proven.stream,
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

    /// Since when the broker is silent for too long, and when the stream took bytes last since then.
    pub(crate) fn stalled(&self) -> Option<(Instant, Instant)> {
        match self.liveness {
            Liveness::Responsive => None,
            Liveness::Stalled(since) => Some((since, self.last_write.max(since))),
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// The time for which nothing was read.
    pub(crate) fn silent_for(&self) -> Duration {
        self.last_read.elapsed()
    }

    /// Has the next [`poll`](Self::poll) end with the loss of the connection for `reason`, after it has read what has arrived.
    pub(crate) fn give_up(&mut self, reason: LossReason) {
        if self.shutdown.is_none() {
            self.shutdown = Some(Shutdown::Lost { error: self.shared.loss_error(reason), reads: 0 });
        }
    }

    /// Ready when the connection was closed as asked, or is lost. What is outstanding then is left to the caller.
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
                    let reads = if reason.is_end_of_input() { LAST_READS } else { 0 };
                    let error = self.shared.loss_error(reason);
                    // From here on nothing is submitted that would not be written.
                    self.shared.set_connecting(&error);
                    self.shutdown = Some(Shutdown::Lost { error, reads });
                }
            }
        }
        if self.shutdown.is_some() {
            polled = self.poll_shutdown_steps(cx);
        }
        if self.has_writing {
            self.hand_over_writing();
        }
        polled
    }

    /// Reads, writes and keeps time until there is nothing to do, or no more to be done.
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
                    if !locked.has_first_batch() && self.coalescing.wait(locked.outbox.inline_len()) {
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
                // What a reserved put has released is handed on here.
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
                // Streams have nothing for this task until it was polled again, whatever has arrived.
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
        // A broker that always has something to say is closed, too.
        let close_time = self.shared.inner.lock().close_time();
        if let Some(end) = Shutdown::due(close_time, Instant::now()) {
            return Poll::Ready(Ok(end));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready at `next`, or somewhat before it.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant, next: Instant) -> Poll<()> {
        let next = next.min(deadline::after(now, LONGEST_SLEEP));
        // A timer that is early is set again when it goes off: that is rarer than setting it at every turn.
        if self.timer.deadline() > next || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
        self.timer.as_mut().poll(cx)
    }

    fn poll_shutdown_steps(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        loop {
            match &mut self.shutdown {
                Some(Shutdown::Lost { reads, .. }) if *reads < LAST_READS => {
                    *reads += 1;
                    match self.poll_last_read(cx) {
                        Ok(Poll::Ready(())) => continue,
                        Ok(Poll::Pending) if !has_budget_remaining() => {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        Ok(Poll::Pending) | Err(_) => {}
                    }
                }
                Some(Shutdown::Graceful(until)) => {
                    let until = *until;
                    // Whether the broker hears of it in good order changes nothing: no answer is awaited any more.
                    if Pin::new(&mut self.stream).poll_shutdown(cx).is_pending() {
                        let now = Instant::now();
                        if now < until {
                            if self.poll_timer(cx, now, until).is_pending() {
                                return Poll::Pending;
                            }
                            continue;
                        }
                    }
                }
                _ => {}
            }
            return Poll::Ready(match self.shutdown.take() {
                Some(Shutdown::Lost { error, .. }) => Err(error),
                _ => Ok(()),
            });
        }
    }

    /// Gives what is written to the link, for as long as the task doesn't run.
    fn hand_over_writing(&mut self) {
        let mut locked = self.shared.inner.lock();
        self.handed_over = !self.writing.is_empty();
        self.has_writing = false;
        locked.driver_writes = false;
        locked.writing = std::mem::take(&mut self.writing);
    }

    fn take_writing_back(&mut self) {
        let mut locked = self.shared.inner.lock();
        self.writing = std::mem::take(&mut locked.writing);
        self.handed_over = false;
        self.has_writing = !self.writing.is_empty();
        locked.driver_writes = self.has_writing;
    }

    /// Runs what was deferred. A panic in it ends the connection, because nobody knows what it left undone.
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
        // A panic beside the one that has brought us here would end the process.
        for body in bodies {
            drop(contain(|| drop(body)));
        }
    }
}

impl DriverCounts {
    /// Adds what was counted to the counts that others see.
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
