//! The end of a program that may have been told to stop: what is left to report gets as much time as signals leave.

use std::{io, time::Duration};

use metaq_producer::Producer;
use tokio::time::timeout;

use crate::{EXIT_BROKEN_PIPE, EXIT_FAILED, output::Output, signals::Stopping};

/// How long connections may take to close at the end; every message has its outcome by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long results may take to be written after the second signal.
const WRITE_AFTER_SECOND: Duration = Duration::from_secs(1);

/// The same when the deadline of the first one has passed, counted from when the program gets to it, on however busy a machine.
const WRITE_AFTER_DEADLINE: Duration = Duration::from_millis(650);

/// What a program owes: results that have not come yet, or are not written yet.
pub(crate) trait Account {
    /// Reports everything that is left, as there is room for it, and waits until it is written. Once writing has failed this
    /// waits for results only.
    ///
    /// # Cancel safety
    /// When the future is dropped, the next call continues.
    fn complete(&mut self) -> impl Future<Output = ()>;

    /// Makes results of all that has none yet. `is_urgent` says that the program was told twice to stop.
    fn stop_waiting(&mut self, is_urgent: bool);

    /// Where results go.
    fn output(&mut self) -> &mut Output;
}

/// Completes an account: without a time limit until a signal comes, by the deadline that the first one sets, or until the second
/// one. Then results have a last, short time to be written before that is given up.
pub(crate) async fn finish(account: &mut impl Account, stopping: &mut Stopping) {
    if stopping.in_time(account.complete()).await.is_some() {
        return;
    }
    account.stop_waiting(stopping.is_urgent());
    let last = if stopping.is_urgent() { WRITE_AFTER_SECOND } else { WRITE_AFTER_DEADLINE };
    if timeout(last, account.complete()).await.is_ok() {
        return;
    }
    let reason = "they were not read before the program had to end";
    account.output().give_up(io::Error::new(io::ErrorKind::TimedOut, reason));
    account.complete().await;
}

/// Closes the producer when everything is accounted for, so that a signal ends this as well. Returns the exit status, which is
/// `status` if no signal comes.
pub(crate) async fn close(producer: &Producer, stopping: &mut Stopping, status: u8) -> u8 {
    if stopping.is_urgent() {
        return status;
    }
    let timeout = stopping.left_of(CLOSE_TIMEOUT);
    tokio::select! {
        biased;
        _ = producer.close(timeout) => status,
        status = stopping.signal() => status,
    }
}

/// The exit status for results that could not be written.
pub(crate) fn status_of(failure: &io::Error) -> u8 {
    if failure.kind() == io::ErrorKind::BrokenPipe { EXIT_BROKEN_PIPE } else { EXIT_FAILED }
}
