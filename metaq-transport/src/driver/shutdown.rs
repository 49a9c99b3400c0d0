//! The last steps on a stream: reading what has arrived on a lost one, and shutting down a closed one.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop::has_budget_remaining,
    time::Instant,
};

use super::Driver;
use crate::{TransportError, connection::CloseTime, deadline};

/// The largest number of reads from a stream that is lost already.
pub(super) const LAST_READS: u32 = 1024;

/// The longest duration of the shutdown of a stream.
const GRACEFUL_SHUTDOWN: Duration = Duration::from_secs(1);

/// The way in which a stream ends.
#[derive(Debug)]
pub(super) enum Shutdown {
    /// The stream is lost. What has arrived is still read.
    Lost { error: TransportError, reads_left: u32 },
    /// The connection is closed. The stream is shut down, at the latest by this time.
    Graceful(Instant),
}

impl Shutdown {
    /// Returns the shutdown that is due at `now`, if the connection is being closed.
    pub(super) fn due(close_time: Option<CloseTime>, now: Instant) -> Option<Self> {
        match close_time {
            Some(CloseTime::Now(end)) => {
                Some(Self::Graceful(end.min(deadline::after(now, GRACEFUL_SHUTDOWN))))
            }
            Some(CloseTime::At(end)) if end <= now => Some(Self::Graceful(now)),
            _ => None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<'_, S> {
    /// Ready when the last steps are done.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        loop {
            match &mut self.shutdown {
                Some(Shutdown::Lost { reads_left, .. }) if *reads_left > 0 => {
                    *reads_left -= 1;
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
                    // Its failure is ignored: no response is outstanding any more.
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
}
