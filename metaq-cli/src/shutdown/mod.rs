//! The end of a program that a signal may have asked to stop: pending results get the time that signals
//! leave.

mod signals;
mod state;

use std::{io, thread, time::Duration};

use metaq_producer::Producer;
use tokio::{sync::oneshot, time::timeout};

pub(crate) use self::{signals::StopSignals, state::Shutdown};
use crate::output::Output;

/// Limit on closing connections at the end; every message has its outcome by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Limit on writing results after the second signal.
const WRITE_AFTER_SECOND: Duration = Duration::from_secs(1);

/// Limit on writing results after the deadline of the first signal. Counted from the moment at which the
/// program gets to it, so that a busy machine doesn't shorten it.
const WRITE_AFTER_DEADLINE: Duration = Duration::from_millis(650);

/// Results that have not arrived yet, or have not been written yet.
pub(crate) trait PendingResults {
    /// Reports every pending result as the output has capacity, and waits until all are written. After
    /// writing has failed, waits for results only.
    ///
    /// # Cancel safety
    /// When the future is dropped, the next call continues where it stopped.
    fn complete(&mut self) -> impl Future<Output = ()>;

    /// Replaces outstanding results by "unknown" or "not sent". `is_forced` is true after a second signal.
    fn stop_waiting(&mut self, is_forced: bool);

    /// The destination of results.
    fn output(&mut self) -> &mut Output;

    /// Stops writing for `reason`. A write that is blocked is abandoned.
    fn give_up(&mut self, reason: io::Error) {
        self.output().give_up(reason);
    }
}

/// Completes pending results: without a time limit until a signal arrives, then until the deadline that the
/// first signal sets, or until the second signal. After that, results get a last, short time to be written.
pub(crate) async fn finish(pending: &mut impl PendingResults, shutdown: &mut Shutdown) {
    if shutdown.before_deadline(pending.complete()).await.is_some() {
        return;
    }
    pending.stop_waiting(shutdown.is_forced());
    let last = if shutdown.is_forced() { WRITE_AFTER_SECOND } else { WRITE_AFTER_DEADLINE };
    if timeout(last, pending.complete()).await.is_ok() {
        return;
    }
    let reason = "they were not read before the program had to end";
    pending.give_up(io::Error::new(io::ErrorKind::TimedOut, reason));
    pending.complete().await;
}

/// Does work that may block, such as opening a named pipe, which waits for the other end. It is done by a
/// thread of its own, so that signals are handled meanwhile.
///
/// # Errors
/// Those of `work`, or when no thread is available.
///
/// # Cancel safety
/// The work goes on when the future is dropped; a program that ends abandons it.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, done) = oneshot::channel();
    // The receiver may be gone.
    thread::Builder::new().name("file".to_owned()).spawn(move || drop(sender.send(work())))?;
    done.await.unwrap_or_else(|_| Err(io::Error::other("the thread that does it has failed")))
}

/// Closes the producer after all results are reported; a signal interrupts it. Returns the exit status, which
/// is `status` if no signal arrives.
pub(crate) async fn close(producer: &Producer, shutdown: &mut Shutdown, status: u8) -> u8 {
    if shutdown.is_forced() {
        return status;
    }
    let timeout = shutdown.remaining_of(CLOSE_TIMEOUT);
    tokio::select! {
        biased;
        _ = producer.close(timeout) => status,
        status = shutdown.signal() => status,
    }
}
