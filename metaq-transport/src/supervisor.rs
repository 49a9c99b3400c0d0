//! The task of a connection: dials, keeps a connection alive, dials again, whatever panics.

use std::{io, sync::Arc};

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    ConnectionConfig, Dialer, TransportErrorKind,
    backoff::Backoff,
    contain::{Contained, log},
    deadline,
    error::LossReason,
    link::Link,
    session::{Patience, Session},
};

/// Marks the connection closed however its task ends, also when its runtime is shut down under it.
pub(crate) struct CloseAtEnd {
    link: Arc<Link>,
    /// Why it is closed, if nobody asked for it.
    reason: Option<LossReason>,
}

impl CloseAtEnd {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, reason: Some(LossReason::RuntimeEnded) }
    }
}

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        let outstanding = self.link.shared.lock().limit.in_flight().0;
        let reason = self.reason.take();
        let is_cut_off = reason.is_some() && outstanding > 0;
        self.link.set_closed(reason);
        if is_cut_off {
            log!(
                warn,
                broker = %self.link.broker,
                outstanding,
                "the tokio runtime ended while requests had no answer yet; what was written is unknown, the rest isn't stored"
            );
        }
    }
}

/// What is kept from one attempt to the next.
struct Attempts {
    backoff: Backoff,
    said_unreachable: bool,
}

/// The task of one connection, until it is closed.
pub(crate) async fn supervise<D: Dialer>(mut at_end: CloseAtEnd, dialer: Arc<D>, config: ConnectionConfig) {
    let link = Arc::clone(&at_end.link);
    let backoff = Backoff::new(config.first_pause, config.longest_pause);
    let mut attempts = Attempts { backoff, said_unreachable: false };
    loop {
        match Contained::new(keep_connected(&link, &*dialer, &config, &mut attempts)).await {
            Ok(()) => break,
            Err(panicked) => {
                let error = link.loss(LossReason::Panicked(panicked));
                link.lost(&error);
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                log!(error, broker = %link.broker, reason = %cause, "connection lost");
            }
        }
        if pause(&link, &mut attempts).await {
            break;
        }
    }
    at_end.reason = None;
}

/// Waits for a while before the next attempt. True when the connection is to be closed instead.
async fn pause(link: &Link, attempts: &mut Attempts) -> bool {
    if link.is_closing() {
        return true;
    }
    let end = deadline::from_now(attempts.backoff.next_pause());
    tokio::select! {
        biased;
        () = link.close_requested.notified() => true,
        () = sleep_until(end) => false,
    }
}

/// Dials until it succeeds, serves the connection until it is lost, and again.
async fn keep_connected<D: Dialer>(
    link: &Arc<Link>,
    dialer: &D,
    config: &ConnectionConfig,
    attempts: &mut Attempts,
) {
    loop {
        let started = Instant::now();
        let limit = config.connect_timeout;
        let dialled = tokio::select! {
            biased;
            () = link.close_requested.notified() => return,
            dialled = timeout_at(deadline::after(started, limit), dialer.dial(&link.broker)) => dialled,
        };
        let too_late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
        match dialled.map_err(too_late).flatten() {
            Ok(stream) => {
                let patience = Patience {
                    greeting: limit.saturating_sub(started.elapsed()),
                    stall_after: config.stall_after,
                    heartbeat_after: config.heartbeat_after,
                    heartbeat_timeout: config.heartbeat_timeout,
                };
                let mut session = Session::new(link, stream, patience);
                let end = session.run().await;
                let proven = session.is_proven();
                drop(session);
                if proven {
                    attempts.backoff.reset();
                    attempts.said_unreachable = false;
                }
                let Err(error) = end else {
                    log!(info, broker = %link.broker, "disconnected as asked");
                    return;
                };
                link.lost(&error);
                let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                if proven {
                    log!(warn, broker = %link.broker, %reason, "connection lost");
                } else if !std::mem::replace(&mut attempts.said_unreachable, true) {
                    log!(warn, broker = %link.broker, %reason, "broker doesn't answer; trying on");
                }
            }
            Err(error) => {
                let first = !std::mem::replace(&mut attempts.said_unreachable, true);
                let error = link.error(TransportErrorKind::NotConnected).with_cause(error);
                link.set_connecting(&error);
                if first {
                    let error =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    log!(warn, broker = %link.broker, %error, "broker is unreachable; trying on");
                }
            }
        }
        if pause(link, attempts).await {
            return;
        }
    }
}
