//! What is left when no more lines are read: messages in flight, and lines that were read and not sent.

use std::{io, mem, pin::pin};

use futures_util::{FutureExt as _, future::OptionFuture};
use metaq_producer::Outcome;

use super::{AFTER_A_FAILURE, MAX_BYTES_IN_FLIGHT, Run, changed, next_replayed};
use crate::{output::Output, shutdown::PendingResults, spooling::keep_written};

/// The number of lines that are handed to the spool at a time after a signal, if no more may be in flight.
const MAX_SPOOLED_AT_ONCE: usize = 1024;

impl Run {
    /// Hands lines that were read before a signal to the spool. No broker gets them, whatever the limit is.
    fn spool_rest(&mut self) {
        while self.sent.len() < self.in_flight.max(MAX_SPOOLED_AT_ONCE)
            && self.bytes < MAX_BYTES_IN_FLIGHT
            && !self.must_stop()
            && self.may_send()
            && let Some(line) = self.to_spool.pop_front()
        {
            self.send(line);
        }
        if self.must_stop() && !self.to_spool.is_empty() {
            self.keep_from_being_sent();
            self.unsent_because = AFTER_A_FAILURE;
        }
    }

    /// Has lines that were to be spooled be reported as not sent.
    fn keep_from_being_sent(&mut self) {
        let rest = mem::take(&mut self.to_spool);
        self.unsent = rest.into_iter().chain(mem::take(&mut self.unsent)).collect();
    }

    /// Reports all lines that will not be sent as one, in the form for people: there may be very many.
    fn report_unsent_to_people(&mut self) {
        if !self.report.has_lines() && !self.unsent.is_empty() {
            let (_, text) = self.unsent_because;
            let lines = self.line + 1..=self.line + self.unsent.len() as u64;
            self.line = *lines.end();
            self.report.failed_lines(lines, Outcome::NotSent, text);
            for line in mem::take(&mut self.unsent) {
                self.reject(Some(line));
            }
        }
    }
}

impl PendingResults for Run {
    async fn complete(&mut self) {
        let producer = self.spool.as_ref().map(|spool| spool.open.producer.clone());
        let mut writing = pin!(OptionFuture::from(producer.map(keep_written)));
        loop {
            self.report_completed().await;
            self.spool_rest();
            if self.to_spool.is_empty() {
                self.report_unsent_to_people();
            }
            while self.to_spool.is_empty()
                && self.report.has_capacity()
                && let Some(line) = self.unsent.pop_front()
            {
                self.line += 1;
                let (kind, text) = self.unsent_because;
                self.report.failed(self.line, kind, Outcome::NotSent, text);
                self.reject(Some(line));
            }
            while self.report.has_capacity()
                && let Some((number, line)) = self.unknown.pop_front()
            {
                self.report.failed(number, "stopped", Outcome::Unknown, self.unknown_because);
                self.reject(line);
            }
            self.flush();
            if !self.report.has_capacity() {
                self.report.capacity().await;
            } else if self.sent.len() > 0 {
                tokio::select! {
                    biased;
                    Some(completed) = self.sent.next() => self.completed(completed),
                    replayed = next_replayed(&mut self.spool) => self.report.replayed(&replayed),
                    // It never ends.
                    Some(()) = &mut writing => {}
                }
            } else if self.to_spool.is_empty() {
                break;
            } else {
                // The outputs have no capacity for the lines that are to be spooled.
                tokio::select! {
                    () = changed(self.rejects.as_mut()) => {}
                    () = self.report.tee_capacity() => {}
                }
            }
        }
        match &mut self.rejects {
            None => self.report.written().await,
            Some(rejects) => drop(tokio::join!(self.report.written(), rejects.written())),
        }
    }

    fn stop_waiting(&mut self, is_forced: bool) {
        while let Some(Some(completed)) = self.sent.next().now_or_never() {
            self.completed(completed);
        }
        // These are not sent any more.
        self.keep_from_being_sent();
        self.unknown_because = if is_forced {
            "a second signal stopped the program before the outcome of this message was known"
        } else {
            "the program was stopped, and its time limit expired before the outcome of this message was known"
        };
        self.unknown.extend(self.sent.take_all().into_iter().map(|sent| (sent.line, sent.kept)));
        self.unknown.make_contiguous().sort_unstable_by_key(|(number, _)| *number);
    }

    fn output(&mut self) -> &mut Output {
        self.report.output()
    }

    fn give_up(&mut self, reason: io::Error) {
        self.report.give_up(&reason);
        if let Some(rejects) = &mut self.rejects {
            rejects.give_up(reason);
        }
    }
}
