//! The task of a connection: dials, drives the stream, replaces it when it is silent, and dials again, also
//! after panics.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop::has_budget_remaining,
    time::sleep_until,
};

use crate::{
    ConnectionConfig, Dialer, TransportError,
    connection::ConnectionShared,
    deadline,
    dial::{connector::Connector, history::DialHistory},
    driver::{Driver, Timeouts},
    error::LossReason,
    panics::{CatchPanic, catch, log},
};

/// Marks the connection closed when its task ends in any way, also by the shutdown of its runtime.
pub(crate) struct CloseGuard {
    shared: Arc<ConnectionShared>,
    /// The reason why the connection is closed, unless that was requested.
    reason: Option<LossReason>,
}

impl CloseGuard {
    pub(crate) fn new(shared: Arc<ConnectionShared>) -> Self {
        Self { shared, reason: Some(LossReason::RuntimeEnded) }
    }
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        let outstanding = self.shared.inner.lock().limit.in_flight().0;
        let reason = self.reason.take();
        let is_cut_off = reason.is_some() && outstanding > 0;
        self.shared.set_closed(reason);
        if is_cut_off {
            log!(
                warn,
                broker = %self.shared.broker,
                outstanding,
                "the tokio runtime ended while requests had no answer yet; what was written is unknown, the rest isn't stored"
            );
        }
    }
}

/// Runs the task of one connection, until it is closed.
pub(crate) async fn supervise<D: Dialer>(
    mut close_guard: CloseGuard,
    dialer: Arc<D>,
    config: ConnectionConfig,
) {
    let shared = Arc::clone(&close_guard.shared);
    let mut history = DialHistory::new(&config);
    loop {
        match CatchPanic::new(keep_connected(&shared, &*dialer, &config, &mut history)).await {
            Ok(()) => break,
            Err(panicked) => {
                let error = shared.loss_error(LossReason::Panicked(panicked));
                shared.set_lost(&error);
                log!(error, broker = %shared.broker, reason = %cause(&error), "connection lost");
            }
        }
        if back_off(&shared, &mut history).await {
            break;
        }
    }
    close_guard.reason = None;
}

/// Waits for the backoff before the next attempt. Returns true if the connection is to be closed instead.
async fn back_off(shared: &ConnectionShared, history: &mut DialHistory) -> bool {
    if shared.is_closing() {
        return true;
    }
    let end = deadline::from_now(history.next_delay());
    tokio::select! {
        biased;
        () = shared.close_requested.notified() => true,
        () = sleep_until(end) => false,
    }
}

/// Dials until the broker answers, drives the stream until it is lost or replaced, and repeats.
async fn keep_connected<D: Dialer>(
    shared: &Arc<ConnectionShared>,
    dialer: &D,
    config: &ConnectionConfig,
    history: &mut DialHistory,
) {
    let timeouts = Timeouts {
        stall_after: config.stall_after,
        heartbeat_after: config.heartbeat_after,
        heartbeat_timeout: config.heartbeat_timeout,
    };
    let mut connector = Connector::new(shared, dialer, config, history);
    loop {
        let established = tokio::select! {
            biased;
            () = shared.close_requested.notified() => return,
            established = connector.connect() => established,
        };
        if !shared.set_established(&established.counts) {
            return;
        }
        let responses_before = response_count(shared);
        let mut driver = Driver::new(shared, established, timeouts);
        let end = poll_fn(|cx| poll_driver_and_replacement(cx, shared, &mut driver, &mut connector)).await;
        if end.is_err() {
            drop(catch(|| dialer.abort(driver.stream())));
        }
        drop(driver);
        let Err(Loss { error, is_replaced }) = end else {
            log!(info, broker = %shared.broker, "disconnected as asked");
            return;
        };
        shared.set_lost(&error);
        log!(warn, broker = %shared.broker, reason = %cause(&error), "connection lost");
        connector.history().record_replacement(!is_replaced || response_count(shared) > responses_before);
        if shared.is_closing() {
            return;
        }
        if is_replaced {
            // Lets watchers of the state see that the stream was lost.
            tokio::task::yield_now().await;
        } else {
            connector.back_off();
        }
    }
}

/// The loss of a stream.
struct Loss {
    error: TransportError,
    /// Set if a new stream replaces it at once.
    is_replaced: bool,
}

/// Drives the stream, and makes attempts to replace it while it is silent.
fn poll_driver_and_replacement<D: Dialer>(
    cx: &mut Context<'_>,
    shared: &ConnectionShared,
    driver: &mut Driver<'_, D::Stream>,
    connector: &mut Connector<'_, D>,
) -> Poll<Result<(), Loss>>
where
    D::Stream: AsyncRead + AsyncWrite + Unpin,
{
    let is_replaced = connector.has_replacement();
    if let Poll::Ready(end) = poll_driver(cx, shared, driver) {
        return Poll::Ready(end.map_err(|error| Loss { error, is_replaced }));
    }
    let Some(stalled) = driver.stalled() else {
        connector.cancel_replacement();
        return Poll::Pending;
    };
    if shared.is_closing() {
        connector.cancel_replacement();
        return Poll::Pending;
    }
    if connector.poll_replacement(cx, stalled).is_pending() {
        return Poll::Pending;
    }
    if !has_budget_remaining() {
        // A response may have arrived that could not be read.
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    driver.give_up(LossReason::Replaced(driver.silent_for()));
    poll_driver(cx, shared, driver).map(|end| end.map_err(|error| Loss { error, is_replaced: true }))
}

/// Drives the stream. A panic is its loss: that affects neither the attempts beside it nor, if the stream's
/// destructor panics as well, the process.
fn poll_driver<S: AsyncRead + AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    shared: &ConnectionShared,
    driver: &mut Driver<'_, S>,
) -> Poll<Result<(), TransportError>> {
    catch(|| driver.poll(cx))
        .unwrap_or_else(|panicked| Poll::Ready(Err(shared.loss_error(LossReason::Panicked(panicked)))))
}

/// Returns the number of responses to requests, including those that had been given up.
fn response_count(shared: &ConnectionShared) -> u64 {
    let stats = shared.stats();
    stats.answered + stats.ignored_responses
}

/// Returns the text of the error's cause, for logs.
fn cause(error: &TransportError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}
