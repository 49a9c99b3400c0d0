//! The task of a connection: dials, keeps a connection alive, replaces it when it is silent, dials again, whatever panics.

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
    contain::{Contained, contain, log},
    deadline,
    dialling::{Dialling, Memory},
    driver::{Driver, Timeouts},
    error::LossReason,
    shared::ConnectionShared,
};

/// Marks the connection closed however its task ends, also when its runtime is shut down under it.
pub(crate) struct CloseGuard {
    shared: Arc<ConnectionShared>,
    /// The reason why it is closed, if nobody asked for it.
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

/// The task of one connection, until it is closed.
pub(crate) async fn supervise<D: Dialer>(
    mut close_guard: CloseGuard,
    dialer: Arc<D>,
    config: ConnectionConfig,
) {
    let shared = Arc::clone(&close_guard.shared);
    let mut memory = Memory::new(&config);
    loop {
        match Contained::new(keep_connected(&shared, &*dialer, &config, &mut memory)).await {
            Ok(()) => break,
            Err(panicked) => {
                let error = shared.loss_error(LossReason::Panicked(panicked));
                shared.set_lost(&error);
                log!(error, broker = %shared.broker, reason = %cause(&error), "connection lost");
            }
        }
        if pause(&shared, &mut memory).await {
            break;
        }
    }
    close_guard.reason = None;
}

/// Waits for a while before the next attempt. True when the connection is to be closed instead.
async fn pause(shared: &ConnectionShared, memory: &mut Memory) -> bool {
    if shared.is_closing() {
        return true;
    }
    let end = deadline::from_now(memory.next_pause());
    tokio::select! {
        biased;
        () = shared.close_requested.notified() => true,
        () = sleep_until(end) => false,
    }
}

/// Dials until the broker answers, serves the connection until it is lost or replaced, and again.
async fn keep_connected<D: Dialer>(
    shared: &Arc<ConnectionShared>,
    dialer: &D,
    config: &ConnectionConfig,
    memory: &mut Memory,
) {
    let timeouts = Timeouts {
        stall_after: config.stall_after,
        heartbeat_after: config.heartbeat_after,
        heartbeat_timeout: config.heartbeat_timeout,
    };
    let mut dialling = Dialling::new(shared, dialer, config, memory);
    loop {
        let proven = tokio::select! {
            biased;
            () = shared.close_requested.notified() => return,
            proven = dialling.first_to_prove() => proven,
        };
        if !shared.set_established(&proven.counts) {
            return;
        }
        let responses_before = answers(shared);
        let mut driver = Driver::new(shared, proven, timeouts);
        let end = poll_fn(|cx| poll_serving(cx, shared, &mut driver, &mut dialling)).await;
        if end.is_err() {
            drop(contain(|| dialer.abort(driver.stream())));
        }
        drop(driver);
        let Err(Loss { error, is_replaced }) = end else {
            log!(info, broker = %shared.broker, "disconnected as asked");
            return;
        };
        shared.set_lost(&error);
        log!(warn, broker = %shared.broker, reason = %cause(&error), "connection lost");
        dialling.memory().replaced(!is_replaced || answers(shared) > responses_before);
        if shared.is_closing() {
            return;
        }
        if is_replaced {
            // Whoever follows the states sees that this one was lost.
            tokio::task::yield_now().await;
        } else {
            dialling.pause();
        }
    }
}

/// The reason why a connection is served no more.
struct Loss {
    error: TransportError,
    /// There is another one already.
    is_replaced: bool,
}

/// Serves the connection, and makes attempts beside it for as long as it is silent.
fn poll_serving<D: Dialer>(
    cx: &mut Context<'_>,
    shared: &ConnectionShared,
    driver: &mut Driver<'_, D::Stream>,
    dialling: &mut Dialling<'_, D>,
) -> Poll<Result<(), Loss>>
where
    D::Stream: AsyncRead + AsyncWrite + Unpin,
{
    let is_replaced = dialling.has_proven();
    if let Poll::Ready(end) = poll_driver(cx, shared, driver) {
        return Poll::Ready(end.map_err(|error| Loss { error, is_replaced }));
    }
    let Some(stalled) = driver.stalled() else {
        dialling.stand_down();
        return Poll::Pending;
    };
    if shared.is_closing() {
        dialling.stand_down();
        return Poll::Pending;
    }
    if dialling.poll_beside(cx, stalled).is_pending() {
        return Poll::Pending;
    }
    if !has_budget_remaining() {
        // An answer may be here that could not be read.
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    driver.give_up(LossReason::Replaced(driver.silent_for()));
    poll_driver(cx, shared, driver).map(|end| end.map_err(|error| Loss { error, is_replaced: true }))
}

/// Serves the connection. One that panics is lost, which costs neither the attempts beside it nor, if dropping its stream
/// panics as well, the process.
fn poll_driver<S: AsyncRead + AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    shared: &ConnectionShared,
    driver: &mut Driver<'_, S>,
) -> Poll<Result<(), TransportError>> {
    contain(|| driver.poll(cx))
        .unwrap_or_else(|panicked| Poll::Ready(Err(shared.loss_error(LossReason::Panicked(panicked)))))
}

/// The number of answers that have come to requests, also to those that had been given up.
fn answers(shared: &ConnectionShared) -> u64 {
    let stats = shared.stats();
    stats.answered + stats.ignored_responses
}

fn cause(error: &TransportError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}
