//! One established connection: reads answers, writes requests, keeps time.

use std::{
    future::Future,
    io::IoSlice,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use metaq_protocol::Decoder;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    Progress, TransportErrorKind,
    error::LossReason,
    link::{Closing, Ended, Link},
    outbox::Outbox,
    slots::Delivered,
};

const READ_BUFFER: usize = 64 * 1024;

/// How many slices one vectored write takes at most.
const MAX_SLICES: usize = 64;

/// Less than this in the outbox is left to grow for one round of the scheduler: a woken task would
/// otherwise write every few requests by themselves.
const SMALL_WRITE: usize = 16 * 1024;

/// How long there may be nothing to do when nothing asks for less.
const FAR: Duration = Duration::from_secs(3600);

/// When a silent broker is asked for a sign of life, and how long it has for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) after: Duration,
    pub(crate) timeout: Duration,
}

/// Drives one established connection to its end. All its work is in [`poll`](Self::poll), which never blocks.
pub(crate) struct Session<'a, S> {
    link: &'a Link,
    stream: S,
    decoder: Decoder,
    read_buffer: BytesMut,
    writing: Outbox,
    ended: Ended,
    timer: Pin<Box<Sleep>>,
    heartbeat: Heartbeat,
    last_read: Instant,
    /// When the heartbeat was sent that nothing was read since.
    probed: Option<Instant>,
    /// Whether this round was already given to senders to add to a small write.
    yielded: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    pub(crate) fn new(link: &'a Link, stream: S, heartbeat: Heartbeat) -> Self {
        let now = Instant::now();
        Self {
            link,
            stream,
            decoder: Decoder::new(),
            read_buffer: BytesMut::with_capacity(READ_BUFFER),
            writing: Outbox::default(),
            ended: Ended::default(),
            timer: Box::pin(sleep_until(now + FAR)),
            heartbeat,
            last_read: now,
            probed: None,
            yielded: false,
        }
    }

    /// The number of the first frame of which the broker can't have seen a byte.
    pub(crate) fn first_unwritten(&self) -> u64 {
        let queued = || self.link.shared.lock().outbox.first_unwritten();
        self.writing.first_unwritten().or_else(queued).unwrap_or(u64::MAX)
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
            if self.writing.is_empty() && self.must_yield(cx) {
                return Poll::Pending;
            }
            let now = Instant::now();
            let mut shared = self.link.shared.lock();
            if self.writing.is_empty() && !shared.outbox.is_empty() {
                continue;
            }
            let closing = shared.closing();
            let deadline = shared.earliest_deadline;
            shared.idle_task = Some(cx.waker().clone());
            drop(shared);
            match closing {
                Some(Closing::Now) => return self.poll_shutdown(cx),
                Some(Closing::At(end)) if end <= now => return self.poll_shutdown(cx),
                _ => {}
            }
            let silence = match self.probed {
                Some(probed) => probed + self.heartbeat.timeout,
                None => self.last_read + self.heartbeat.after,
            };
            let end = match closing {
                Some(Closing::At(end)) => end,
                _ => now + FAR,
            };
            let next = silence.min(end).min(deadline.unwrap_or(end));
            if self.timer.deadline() != next {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.keep_time(Instant::now())?;
        }
    }

    /// Lets senders that are about to run add to a small write, once. True when this round is theirs.
    fn must_yield(&mut self, cx: &mut Context<'_>) -> bool {
        let waiting = self.link.shared.lock().outbox.inline_len();
        if waiting == 0 || waiting >= SMALL_WRITE || self.yielded {
            return false;
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        true
    }

    /// Reads once and delivers all answers that are complete.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
        self.read_buffer.reserve(READ_BUFFER / 2);
        let read = pin!(self.stream.read_buf(&mut self.read_buffer)).poll(cx);
        match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => Err(LossReason::ClosedByBroker),
            Poll::Ready(Ok(_)) => {
                self.last_read = Instant::now();
                self.probed = None;
                self.deliver().map(Poll::Ready)
            }
            Poll::Ready(Err(error)) => Err(LossReason::Read(error)),
        }
    }

    fn deliver(&mut self) -> Result<(), LossReason> {
        let mut used = 0;
        let outcome = {
            let mut shared = self.link.shared.lock();
            loop {
                match self.decoder.decode_response_in_place(&self.read_buffer[used..]) {
                    Ok(Some((response, length))) => {
                        used += length;
                        match shared.slots.deliver(response.opaque, || response.to_response()) {
                            Delivered::Answered { bytes, waker } => self.ended.add(bytes, waker),
                            Delivered::Late | Delivered::Unknown => {
                                tracing::debug!(broker = %self.link.broker, opaque = response.opaque.0, "ignored an answer that nobody awaits");
                            }
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(LossReason::Garbage(error)),
                }
            }
        };
        self.read_buffer.advance(used);
        self.link.settle(&mut self.ended);
        outcome
    }

    /// Writes once, if anything waits and it isn't left to grow.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
        if self.writing.is_empty() {
            let mut shared = self.link.shared.lock();
            if shared.outbox.is_empty() || (!self.yielded && shared.outbox.inline_len() < SMALL_WRITE) {
                return Ok(Poll::Pending);
            }
            std::mem::swap(&mut self.writing, &mut shared.outbox);
            self.yielded = false;
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let used = self.writing.fill_slices(&mut slices);
        match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used]) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => Err(LossReason::Write(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                self.writing.advance(written);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) => Err(LossReason::Write(error)),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
        // Whether the broker hears of it in good order changes nothing: no answer is awaited any more.
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| Ok(()))
    }

    /// Ends what is overdue, and asks a silent broker for a sign of life.
    fn keep_time(&mut self, now: Instant) -> Result<(), LossReason> {
        let first_unwritten = self.first_unwritten();
        let mut unanswered = false;
        {
            let shared = &mut *self.link.shared.lock();
            if shared.earliest_deadline.is_some_and(|earliest| earliest <= now) {
                self.writing.remove_unwritten(|slot| shared.slots.is_overdue(slot, now));
                shared.outbox.remove_unwritten(|slot| shared.slots.is_overdue(slot, now));
                let error = |progress| self.link.error(TransportErrorKind::TimedOut).with_progress(progress);
                shared.slots.expire(now, first_unwritten, error, |progress, bytes, waker| {
                    unanswered |= progress == Progress::Written;
                    self.ended.add(bytes, waker);
                });
                shared.earliest_deadline = shared.slots.earliest_deadline();
            }
        }
        self.link.settle(&mut self.ended);
        match self.probed {
            Some(probed) if now >= probed + self.heartbeat.timeout => {
                Err(LossReason::Silent(now - self.last_read))
            }
            Some(_) => Ok(()),
            None => {
                if unanswered || now >= self.last_read + self.heartbeat.after {
                    self.probed = Some(now);
                    self.link.queue_heartbeat(now + FAR);
                }
                Ok(())
            }
        }
    }
}
