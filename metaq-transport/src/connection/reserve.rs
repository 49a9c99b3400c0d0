//! Reserving capacity, and waiting for it: by a listener, or by a future.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use metaq_protocol::Command;
use tokio::time::Instant;

use super::{
    Capacity, CapacityWait, CompletionToken, ConnectionShared, PendingResponse, Reservation,
    in_flight_limit::CapacityNotify,
};
use crate::{TransportError, TransportErrorKind, runtime};

impl ConnectionShared {
    /// Reserves capacity, or queues the listener for it.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        bytes: usize,
        notify: CompletionToken<'_>,
    ) -> Result<Capacity, TransportError> {
        let reserved = self.reserve_or_wait(bytes, || CapacityNotify::Completions {
            completions: Arc::clone(notify.completions),
            token: notify.token,
        })?;
        Ok(match reserved {
            Reserved::Now(bytes) => Capacity::Reserved(Reservation::on_connection(Arc::clone(self), bytes)),
            Reserved::Later(waiter) => {
                self.ensure_watchdog();
                Capacity::Waiting(CapacityWait::on_connection(Arc::clone(self), waiter))
            }
        })
    }

    fn reserve_or_wait(
        &self,
        bytes: usize,
        notify: impl FnOnce() -> CapacityNotify,
    ) -> Result<Reserved, TransportError> {
        let mut locked = self.inner.lock();
        if let Some(kind) = locked.refusal() {
            drop(locked);
            return Err(self.refusal_error(kind));
        }
        let left = locked.slots.left();
        Ok(match locked.limit.reserve(bytes, left) {
            Some(bytes) => Reserved::Now(bytes),
            None => Reserved::Later(locked.limit.wait(bytes, notify())),
        })
    }

    /// Gives back a reservation.
    pub(crate) fn release(self: &Arc<Self>, bytes: u32) {
        self.change(|locked, _| locked.limit.unreserve(bytes));
    }

    /// Removes a waiter from the queue.
    pub(crate) fn leave(self: &Arc<Self>, waiter: u64) {
        self.change(|locked, deferred| deferred.drop_waiter(locked.limit.leave(waiter)));
    }

    /// Submits a request as soon as there is capacity.
    pub(crate) async fn submit_when_free(
        self: &Arc<Self>,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        match self.reserve_or_wait(command.encoded_len(), || CapacityNotify::Future(None))? {
            Reserved::Now(bytes) => self.submit_reserved(command, deadline, bytes),
            Reserved::Later(number) => {
                let waiter = WaitingFuture { shared: self, number };
                let Some(timer) = runtime::sleep_until(deadline) else {
                    return Err(self.error(TransportErrorKind::NoRuntime));
                };
                let mut timer = pin!(timer);
                let granted = poll_fn(|cx| match waiter.poll(cx) {
                    Poll::Ready(result) => Poll::Ready(Some(result)),
                    Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
                });
                match granted.await {
                    Some(Ok(bytes)) => self.submit_reserved(command, deadline, bytes),
                    Some(Err(kind)) => Err(self.refusal_error(kind)),
                    None => Err(self.error(TransportErrorKind::TimedOut)),
                }
            }
        }
    }
}

enum Reserved {
    /// The number of bytes that are reserved.
    Now(u32),
    /// The number of the waiter.
    Later(u64),
}

/// A future's place in the queue, which it gives up when it is dropped.
struct WaitingFuture<'a> {
    shared: &'a Arc<ConnectionShared>,
    number: u64,
}

impl WaitingFuture<'_> {
    fn poll(&self, cx: &Context<'_>) -> Poll<Result<u32, TransportErrorKind>> {
        let (number, waker) = (self.number, cx.waker());
        let (result, is_known) = {
            let mut locked = self.shared.inner.lock();
            (locked.limit.result(number), locked.limit.is_woken_by(number, waker))
        };
        match result {
            Some(result) => return Poll::Ready(result),
            None if is_known => return Poll::Pending,
            None => {}
        }
        // Wakers are cloned and dropped without the lock, because that runs user code.
        let waker = waker.clone();
        let result = self.shared.change(|locked, deferred| {
            let result = locked.limit.result(number);
            let unused = if result.is_none() { locked.limit.set_waker(number, waker) } else { Some(waker) };
            deferred.drop_waker(unused);
            result
        });
        result.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for WaitingFuture<'_> {
    fn drop(&mut self) {
        self.shared.leave(self.number);
    }
}
