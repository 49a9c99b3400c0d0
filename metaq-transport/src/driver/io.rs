//! Reading responses and writing requests.

use std::{
    future::Future,
    io::IoSlice,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Buf as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::Instant,
};

use super::{Driver, Liveness, READ_BUFFER, RESPONSES_PER_BATCH};
use crate::{
    connection::{CompactResponse, Delivered, LockedState},
    error::LossReason,
    panics::log,
};

/// The largest number of slices of one vectored write.
const MAX_SLICES: usize = 64;

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<'_, S> {
    /// [`poll_read`](Self::poll_read), not inlined.
    #[cold]
    pub(super) fn poll_last_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
        self.poll_read(cx)
    }

    /// Reads once and delivers all complete responses.
    #[inline(always)]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
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

    /// Delivers all complete responses, and ends a stall.
    fn deliver(&mut self) -> Result<(), LossReason> {
        let mut used = 0;
        let mut any = false;
        let mut panicked = None;
        let outcome = loop {
            let outcome = self.decode(&mut used);
            let full = self.decoded.len() == RESPONSES_PER_BATCH;
            if !self.decoded.is_empty() {
                any = true;
                self.shared.with_lock(&mut self.deferred, |locked, deferred| {
                    let LockedState { slots, limit, .. } = locked;
                    for (opaque, response) in self.decoded.drain(..) {
                        let on_completed = |completion| deferred.add(limit, completion);
                        match slots.deliver(opaque, response, self.last_read, on_completed) {
                            Delivered::Answered => self.counts.answered += 1,
                            Delivered::Heartbeat => {}
                            Delivered::Unknown | Delivered::Late(None) => self.counts.ignored += 1,
                            Delivered::Late(Some(released)) => {
                                self.counts.ignored += 1;
                                deferred.add_released(released);
                            }
                        }
                    }
                });
                if let Err(reason) = self.run_deferred() {
                    panicked.get_or_insert(reason);
                }
            }
            if !(full && outcome.is_ok()) {
                break outcome;
            }
        };
        self.read_buffer.advance(used);
        if any && self.shutdown.is_none() {
            self.probed = None;
            if self.liveness != Liveness::Responsive {
                self.liveness = Liveness::Responsive;
                if self.shared.set_ready() {
                    log!(info, broker = %self.shared.broker, "broker answers again");
                }
            }
        }
        panicked.map_or(outcome, Err)
    }

    /// Decodes a batch of responses, from byte `used` on.
    fn decode(&mut self, used: &mut usize) -> Result<(), LossReason> {
        while self.decoded.len() < RESPONSES_PER_BATCH {
            let rest = &self.read_buffer[*used..];
            if let Some((opaque, stored, length)) = self.decoder.decode_stored_in_place(rest) {
                *used += length;
                self.decoded.push((opaque, CompactResponse::Stored(stored)));
                continue;
            }
            match self.decoder.decode_response_in_place(rest) {
                Ok(Some((response, length))) => {
                    *used += length;
                    self.decoded.push((response.opaque, CompactResponse::read(&response)));
                }
                Ok(None) => break,
                Err(error) => return Err(LossReason::Garbage(error)),
            }
        }
        Ok(())
    }

    /// Writes once, if anything waits that is not delayed. Overdue requests are not written.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LossReason> {
        if self.writing.is_empty() {
            let mut locked = self.shared.inner.lock();
            let may_delay =
                !locked.has_first_batch() && self.coalescing.may_delay(locked.outbox.inline_len());
            if may_delay || locked.outbox.is_empty() {
                drop(locked);
                return self.poll_flush(cx);
            }
            let deadline = locked.slots.next_deadline();
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                drop(locked);
                self.expire_overdue(Instant::now())?;
                return Ok(Poll::Ready(()));
            }
            std::mem::swap(&mut self.writing, &mut locked.outbox);
            locked.driver_writes = true;
            locked.deadline_window = None;
            drop(locked);
            self.has_writing = true;
            self.writing_deadline = deadline;
            self.coalescing.record_write(self.writing.inline_len());
        } else if self.writing_deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.expire_overdue(Instant::now())?;
            self.writing_deadline = self.shared.inner.lock().slots.next_deadline();
            return Ok(Poll::Ready(()));
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let used = self.writing.fill_slices(&mut slices);
        self.is_in_write = true;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used]);
        self.is_in_write = false;
        match written {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => Err(LossReason::Write(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                self.must_flush = true;
                self.counts.writes += 1;
                self.counts.written += written as u64;
                if self.liveness != Liveness::Responsive {
                    self.last_write = Instant::now();
                }
                self.writing.advance(written);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) => Err(LossReason::Write(error)),
        }
    }

    /// Flushes what the stream itself may have buffered.
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
}
