//! One established connection: reads answers, writes requests, keeps time.

use std::{
    future::Future,
    io::IoSlice,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use metaq_protocol::{Decoder, Opaque};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    Progress, TransportErrorKind,
    ended::Ended,
    error::LossReason,
    link::{Closing, Link, Shared},
    outbox::Outbox,
    slots::{Delivered, Reply},
};

const READ_BUFFER: usize = 64 * 1024;

/// How many slices one vectored write takes at most.
const MAX_SLICES: usize = 64;

/// Less than this in the outbox is left to grow for one round of the scheduler: a woken task would
/// otherwise write every few requests by themselves.
const SMALL_WRITE: usize = 16 * 1024;

/// After so many rounds in which nothing was added, small writes are no longer left to grow.
const FUTILE_ROUNDS: u32 = 4;

/// Every so many small writes it is tried again.
const TRY_AGAIN: u32 = 64;

/// So many answers are delivered in one go; senders get at the lock in between.
const ANSWERS_AT_ONCE: usize = 64;

/// How long there may be nothing to do when nothing asks for less.
const FAR: Duration = Duration::from_secs(3600);

/// When a silent broker is asked for a sign of life, and how long it has for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a new connection may take to answer its first request.
    pub(crate) greeting: Duration,
    pub(crate) stall_after: Duration,
    pub(crate) heartbeat_after: Duration,
    pub(crate) heartbeat_timeout: Duration,
}

/// Drives one established connection to its end. All its work is in [`poll`](Self::poll), which never blocks.
pub(crate) struct Session<'a, S> {
    link: &'a Link,
    stream: S,
    decoder: Decoder,
    read_buffer: BytesMut,
    /// Answers that were decoded and not yet delivered.
    decoded: Vec<(Opaque, Reply)>,
    writing: Outbox,
    must_flush: bool,
    ended: Ended,
    timer: Pin<Box<Sleep>>,
    patience: Patience,
    condition: Condition,
    last_read: Instant,
    /// Since when the broker owes an answer without having sent a byte.
    owed_since: Option<Instant>,
    /// When the heartbeat was sent that nothing was read since, and how long the broker has to answer it.
    probed: Option<(Instant, Duration)>,
    growth: Growth,
    counts: Counts,
}

/// What is known of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// It has not answered anything yet.
    Unproven,
    Ready,
    Stalled,
}

/// Whether a small write is left to grow.
#[derive(Debug, Default)]
struct Growth {
    /// What the outbox held when this round was given to senders.
    given_at: Option<usize>,
    futile: u32,
    small_writes: u32,
}

/// Counted here, and added to the connection's counts when its task goes idle.
#[derive(Debug, Default)]
struct Counts {
    answered: u64,
    ignored: u64,
    writes: u64,
    written: u64,
    reads: u64,
    read: u64,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    pub(crate) fn new(link: &'a Link, stream: S, patience: Patience) -> Self {
        let now = Instant::now();
        link.queue_heartbeat(now + FAR);
        Self {
            link,
            stream,
            decoder: Decoder::new(),
            read_buffer: BytesMut::with_capacity(READ_BUFFER),
            decoded: Vec::with_capacity(ANSWERS_AT_ONCE),
            writing: Outbox::default(),
            must_flush: false,
            ended: Ended::default(),
            timer: Box::pin(sleep_until(now + FAR)),
            patience,
            condition: Condition::Unproven,
            last_read: now,
            owed_since: None,
            probed: Some((now, patience.greeting)),
            growth: Growth::default(),
            counts: Counts::default(),
        }
    }

    /// The number of the first frame of which the broker can't have seen a byte.
    pub(crate) fn first_unwritten(&self) -> u64 {
        let queued = || self.link.shared.lock().outbox.first_unwritten();
        self.writing.first_unwritten().or_else(queued).unwrap_or(u64::MAX)
    }

    /// Whether the broker has answered anything on this connection.
    pub(crate) fn is_proven(&self) -> bool {
        self.condition != Condition::Unproven
    }

    /// Runs until the connection was closed as asked, or is lost.
    pub(crate) async fn run(&mut self) -> Result<(), LossReason> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
        loop {
            let read = self.poll_read(cx)?;
            let written = self.poll_write(cx)?;
            if read.is_ready() || written.is_ready() {
                continue;
            }
            let mut shared = self.link.shared.lock();
            if self.writing.is_empty() && !shared.outbox.is_empty() {
                if !shared.has_first_write() && self.growth.wait(shared.outbox.inline_len()) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            let closing = shared.closing();
            let deadline = shared.earliest_deadline;
            let owes = !shared.room.is_empty();
            shared.idle_task = Some(cx.waker().clone());
            self.counts.add_to(&mut shared);
            drop(shared);
            let now = Instant::now();
            match closing {
                Some(Closing::Now) => return self.poll_shutdown(cx),
                Some(Closing::At(end)) if end <= now => return self.poll_shutdown(cx),
                _ => {}
            }
            if !owes {
                self.owed_since = None;
            } else if self.owed_since.is_none() {
                self.owed_since = Some(now);
            }
            let end = match closing {
                Some(Closing::At(end)) => end,
                _ => now + FAR,
            };
            let next = self.next_silence().min(end).min(deadline.unwrap_or(end));
            // A timer that is early is set again when it goes off: that is rarer than setting it at every turn.
            if self.timer.deadline() > next || self.timer.is_elapsed() {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.keep_time(Instant::now())?;
        }
    }

    /// When the broker's silence has to be looked at next.
    fn next_silence(&self) -> Instant {
        let probe = match self.probed {
            Some((probed, limit)) => probed + limit,
            None => self.last_read + self.patience.heartbeat_after,
        };
        match self.owed_since {
            Some(since) if self.condition == Condition::Ready => probe.min(since + self.patience.stall_after),
            _ => probe,
        }
    }

    /// Reads once and delivers all answers that are complete.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
        self.read_buffer.reserve(READ_BUFFER / 2);
        let read = pin!(self.stream.read_buf(&mut self.read_buffer)).poll(cx);
        match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => Err(LossReason::ClosedByBroker),
            Poll::Ready(Ok(read)) => {
                self.counts.reads += 1;
                self.counts.read += read as u64;
                self.last_read = Instant::now();
                self.owed_since = None;
                self.deliver().map(Poll::Ready)
            }
            Poll::Ready(Err(error)) => Err(LossReason::Read(error)),
        }
    }

    /// Hands every answer that is whole to its request, and sees that the broker is alive.
    fn deliver(&mut self) -> Result<(), LossReason> {
        let mut used = 0;
        let mut any = false;
        let outcome = loop {
            let outcome = self.decode(&mut used);
            let full = self.decoded.len() == ANSWERS_AT_ONCE;
            if !self.decoded.is_empty() {
                any = true;
                let Shared { slots, room, .. } = &mut *self.link.shared.lock();
                for (opaque, reply) in self.decoded.drain(..) {
                    let ended = |ending| self.ended.add(room, ending);
                    match slots.deliver(opaque, reply, self.last_read, ended) {
                        Delivered::Answered => self.counts.answered += 1,
                        Delivered::Late | Delivered::Unknown => self.counts.ignored += 1,
                    }
                }
            }
            self.link.settle(&mut self.ended);
            if !(full && outcome.is_ok()) {
                break outcome;
            }
        };
        self.read_buffer.advance(used);
        if any {
            self.probed = None;
            if self.condition != Condition::Ready {
                let was_stalled = self.condition == Condition::Stalled;
                self.condition = Condition::Ready;
                if self.link.set_ready() && was_stalled {
                    tracing::info!(broker = %self.link.broker, "broker answers again");
                }
            }
        }
        outcome
    }

    /// Decodes as many answers as are delivered in one go, from byte `used` on.
    fn decode(&mut self, used: &mut usize) -> Result<(), LossReason> {
        while self.decoded.len() < ANSWERS_AT_ONCE {
            let rest = &self.read_buffer[*used..];
            if let Some((opaque, stored, length)) = self.decoder.decode_stored_in_place(rest) {
                *used += length;
                self.decoded.push((opaque, Reply::Stored(stored)));
                continue;
            }
            match self.decoder.decode_response_in_place(rest) {
                Ok(Some((response, length))) => {
                    *used += length;
                    self.decoded.push((response.opaque, Reply::read(&response)));
                }
                Ok(None) => break,
                Err(error) => return Err(LossReason::Garbage(error)),
            }
        }
        Ok(())
    }

    /// Writes once, if anything waits and it isn't left to grow.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
        if self.writing.is_empty() {
            let mut shared = self.link.shared.lock();
            let may_wait = !shared.has_first_write() && self.growth.may_wait(shared.outbox.inline_len());
            if may_wait || shared.outbox.is_empty() {
                drop(shared);
                return self.poll_flush(cx);
            }
            std::mem::swap(&mut self.writing, &mut shared.outbox);
            self.growth.written(self.writing.inline_len());
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let used = self.writing.fill_slices(&mut slices);
        match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used]) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => Err(LossReason::Write(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                self.must_flush = true;
                self.counts.writes += 1;
                self.counts.written += written as u64;
                self.writing.advance(written);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) => Err(LossReason::Write(error)),
        }
    }

    /// Lets out what the stream itself may hold back.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
        if self.must_flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.must_flush = false,
                Poll::Ready(Err(error)) => return Err(LossReason::Write(error)),
            }
        }
        Ok(Poll::Pending)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
        // Whether the broker hears of it in good order changes nothing: no answer is awaited any more.
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| Ok(()))
    }

    /// Ends what is overdue, stops sending to a silent broker, and asks it for a sign of life.
    fn keep_time(&mut self, now: Instant) -> Result<(), LossReason> {
        let first_unwritten = self.first_unwritten();
        let mut unanswered = false;
        {
            let shared = &mut *self.link.shared.lock();
            if shared.earliest_deadline.is_some_and(|earliest| earliest <= now) {
                self.writing.remove_unwritten(|slot| shared.slots.is_overdue(slot, now));
                shared.outbox.remove_unwritten(|slot| shared.slots.is_overdue(slot, now));
                let error = |progress| self.link.error(TransportErrorKind::TimedOut).with_progress(progress);
                let Shared { slots, room, .. } = shared;
                slots.expire(now, first_unwritten, error, |progress, ending| {
                    unanswered |= progress == Progress::Written;
                    self.ended.add(room, ending);
                });
                shared.earliest_deadline = shared.slots.earliest_deadline();
            }
        }
        self.link.settle(&mut self.ended);
        let stalled = self.owed_since.is_some_and(|since| now >= since + self.patience.stall_after);
        if stalled && self.condition == Condition::Ready {
            self.condition = Condition::Stalled;
            tracing::warn!(
                broker = %self.link.broker,
                silent_for = ?self.patience.stall_after,
                "broker is silent and owes answers; nothing more is sent to it for now"
            );
            let first_unwritten = self.first_unwritten();
            self.writing.remove_unwritten(|_| true);
            self.link.set_stalled(first_unwritten);
        }
        match self.probed {
            Some((probed, limit)) if now >= probed + limit => Err(match self.condition {
                Condition::Unproven => LossReason::NoGreeting(limit),
                _ => LossReason::Silent(now - self.last_read),
            }),
            Some(_) => Ok(()),
            None => {
                let idle = now >= self.last_read + self.patience.heartbeat_after;
                if unanswered || stalled || idle {
                    self.probed = Some((now, self.patience.heartbeat_timeout));
                    self.link.queue_heartbeat(now + FAR);
                }
                Ok(())
            }
        }
    }
}

impl Growth {
    /// Whether so few bytes may be left to grow; [`wait`](Self::wait) decides.
    fn may_wait(&self, waiting: usize) -> bool {
        self.given_at.is_none() && self.is_worthwhile(waiting)
    }

    fn is_worthwhile(&self, waiting: usize) -> bool {
        waiting < SMALL_WRITE && (self.futile < FUTILE_ROUNDS || self.small_writes.is_multiple_of(TRY_AGAIN))
    }

    /// Gives this round to senders that are about to run, once. True when it is theirs.
    fn wait(&mut self, waiting: usize) -> bool {
        let wait = self.may_wait(waiting);
        if wait {
            self.given_at = Some(waiting);
        }
        wait
    }

    /// So many bytes are about to be written.
    fn written(&mut self, waiting: usize) {
        if waiting < SMALL_WRITE {
            self.small_writes = self.small_writes.wrapping_add(1);
        }
        if let Some(given_at) = self.given_at.take() {
            self.futile = if waiting > given_at { 0 } else { self.futile.saturating_add(1) };
        }
    }
}

impl Counts {
    /// Adds what was counted to the counts that others see.
    fn add_to(&mut self, shared: &mut Shared) {
        let counts = std::mem::take(self);
        let stats = &mut shared.stats;
        stats.answered += counts.answered;
        stats.ignored_answers += counts.ignored;
        stats.writes += counts.writes;
        stats.bytes_written += counts.written;
        stats.reads += counts.reads;
        stats.bytes_read += counts.read;
    }
}
