//! The part of a run that a spool has: what is replayed, and the end.

use std::{path::PathBuf, pin::pin, time::Duration};

use futures_util::FutureExt as _;

use super::run::Run;
use crate::{
    display,
    report::count_messages,
    shutdown::{PendingResults as _, Shutdown},
    spooling::{Spool, describe_account, of_them},
    stderr::print_message,
};

/// The spool of a run.
pub(super) struct SpoolRun {
    pub(super) open: Spool,
    pub(super) folder: PathBuf,
    /// The time that the spool has at the end of the input to become empty.
    pub(super) drain: Duration,
    /// The time limit of a message.
    pub(super) timeout: Duration,
    /// The size of the largest message that is sent, and so spooled.
    pub(super) max_size: usize,
}

impl SpoolRun {
    /// Has messages be spooled from now on. Those on their way have their time to be acknowledged, and are
    /// spooled if they were not sent by then.
    pub(super) fn stop_sending(&self) {
        let (producer, timeout) = (self.open.producer.producer().clone(), self.timeout);
        let mut closing = Box::pin(async move { producer.close(timeout).await });
        // Begins now: what is offered from here on is refused by the producer.
        if (&mut closing).now_or_never().is_none() {
            tokio::spawn(closing);
        }
    }

    /// Formats the account of the spool for people.
    pub(super) fn account(&self) -> String {
        describe_account(&self.folder, &self.open.producer.stats())
    }

    /// Says on stderr that messages are left, or were dropped.
    pub(super) fn print_left(&self) {
        let stats = self.open.producer.stats();
        let left = stats.waiting + stats.held_aside;
        if (left > 0 || stats.dropped > 0) && !display::is_quiet() {
            let (folder, left) = (self.folder.display(), count_messages(left));
            let dropped = match stats.dropped {
                0 => String::new(),
                dropped => format!("; {dropped} were dropped"),
            };
            print_message(&format!("spool {folder} holds {left}{}{dropped}", of_them(stats.held_aside)));
        }
    }
}

impl Run {
    /// Waits for the outcomes of all lines until a signal. From then on, what was not sent is spooled.
    pub(super) async fn complete_or_stop(&mut self, shutdown: &mut Shutdown) {
        if self.spool.is_none() || shutdown.status().is_some() {
            return;
        }
        tokio::select! {
            biased;
            _ = shutdown.signal() => {}
            () = self.complete() => return,
        }
        if let Some(spool) = &self.spool {
            spool.stop_sending();
        }
    }

    /// Waits for the spool to become empty if the input has ended, and closes it. What is replayed meanwhile
    /// is reported. A signal ends the waiting, and a second one the closing.
    pub(super) async fn end_spool(&mut self, shutdown: &mut Shutdown) {
        let Some(spool) = &self.spool else { return };
        let (producer, drain, timeout) = (spool.open.producer.clone(), spool.drain, spool.timeout);
        if shutdown.status().is_none() && !drain.is_zero() && !self.report.has_failed() {
            self.report_until(producer.drain(drain), shutdown, true).await;
        }
        if !shutdown.is_forced() {
            let timeout = shutdown.remaining_of(timeout);
            self.report_until(producer.close(timeout), shutdown, false).await;
        }
        if let Some(spool) = &mut self.spool {
            spool.open.report(&mut self.report);
        }
    }

    /// Reports what is replayed until `end`, or until a signal: the first one, or else the second.
    async fn report_until<T>(&mut self, end: impl Future<Output = T>, shutdown: &mut Shutdown, first: bool) {
        let mut end = pin!(end);
        loop {
            if let Some(spool) = &mut self.spool {
                spool.open.report(&mut self.report);
            }
            self.report.progress(0, false);
            self.flush();
            let has_capacity = self.report.has_capacity();
            let Some(spool) = &mut self.spool else { return };
            tokio::select! {
                biased;
                _ = shutdown.signal() => if first || shutdown.is_forced() { return },
                () = self.report.capacity(), if !has_capacity => {}
                replayed = spool.open.next(), if has_capacity => self.report.replayed(&replayed),
                _ = &mut end => return,
            }
        }
    }
}
