//! Sending the lines of one transaction, ending it, and reporting that.

use std::{io, sync::Arc, vec};

use futures_util::FutureExt as _;
use metaq_producer::{
    Message, Outcome,
    transaction::{Transaction, TransactionError, TransactionErrorKind, TransactionOutcome},
};

use super::Args;
use crate::{
    EXIT_DONE, EXIT_FAILED,
    ending::{Account, finish, status_of},
    lines::{Line, Lines, MAX_LINE},
    output::Output,
    report::{Report, TransactionEnd},
    signals::Stopping,
    stderr::{complain, describe, say},
};

/// One run of the command.
pub(super) struct Run {
    args: Args,
    report: Report,
    /// How many lines were sent, or reported as not sent.
    line: u64,
    /// How many lines were read that are not going to be sent.
    unsent: u64,
    /// How the transaction ended, until it is reported.
    end: Option<TransactionEnd>,
}

/// Why no more lines are sent.
enum Stop {
    EndOfInput,
    Signal,
    InputFailed(io::Error),
    OutputFailed,
    /// A line can't be sent.
    Refused(String),
    /// The transaction is over.
    Over(TransactionError),
}

impl Run {
    pub(super) fn new(args: Args, report: Report) -> Self {
        Self { args, report, line: 0, unsent: 0, end: None }
    }

    /// Sends all lines and ends the transaction as asked, or rolls it back. Returns the exit status.
    pub(super) async fn run(
        mut self,
        mut transaction: Transaction,
        lines: Lines,
        stopping: &mut Stopping,
    ) -> u8 {
        let stop = self.send(&mut transaction, lines, stopping).await;
        let (end, is_as_asked) = self.end(transaction, &stop, stopping).await;
        let text = end.describe();
        self.end = Some(end);
        stopping.leave_time_to_write();
        finish(&mut self, stopping).await;
        self.report.progress(0, true);
        let failure = self.report.take_failure();
        if let Some((error, unwritten)) = &failure {
            let (lines, unwritten) = (self.line, unwritten.describe("taken by the broker"));
            say(&format!(
                "the results can't be written: {}; {text}; {lines} lines were taken from the input; {unwritten}",
                describe(error)
            ));
        }
        if let Some(status) = stopping.status() {
            return status;
        }
        match (failure, stop) {
            (Some((error, _)), _) => status_of(&error),
            (None, Stop::InputFailed(_)) => EXIT_FAILED,
            (None, _) if is_as_asked => EXIT_DONE,
            (None, _) => EXIT_FAILED,
        }
    }

    /// Commits or rolls back. Returns what there is to report about it, and whether it is as asked.
    async fn end(
        &self,
        transaction: Transaction,
        stop: &Stop,
        stopping: &mut Stopping,
    ) -> (TransactionEnd, bool) {
        let mut end = TransactionEnd {
            transaction: transaction.id().map(str::to_owned),
            messages: transaction.messages(),
            ..TransactionEnd::default()
        };
        let commits = self.args.commit && matches!(stop, Stop::EndOfInput);
        let ended = match stop {
            Stop::Over(_) => Some(Ok(())),
            _ if commits => {
                let committed = stopping.unless_urgent(transaction.commit()).await;
                committed.map(|committed| committed.map(|receipt| end.messages = receipt.messages))
            }
            _ => stopping.unless_urgent(transaction.rollback()).await,
        };
        end.outcome = match &ended {
            Some(Ok(())) if commits => "committed",
            Some(Err(error)) if error.outcome() == TransactionOutcome::Unknown => "unknown",
            None => "unknown",
            _ => "rolled-back",
        };
        end.error = match stop {
            Stop::Over(error) => Some((error.kind().as_str(), describe(error))),
            Stop::Refused(text) => Some(("refused", text.clone())),
            Stop::InputFailed(error) => Some(("input", format!("the input can't be read: {error}"))),
            Stop::OutputFailed => Some(("output", "the results can't be written".to_owned())),
            Stop::Signal => Some(("stopped", "the program was told to stop".to_owned())),
            Stop::EndOfInput => match &ended {
                Some(ended) => ended.as_ref().err().map(|error| (error.kind().as_str(), describe(error))),
                None => Some((
                    "stopped",
                    "the program was told twice to stop before the outcome was known".to_owned(),
                )),
            },
        };
        let is_as_asked = match &ended {
            Some(Ok(())) => {
                if commits {
                    self.args.commit
                } else {
                    self.args.rollback
                }
            }
            // Not confirmed, even if it can't be otherwise.
            _ => false,
        };
        (end, is_as_asked)
    }

    /// Sends line after line until there is a reason to stop.
    async fn send(
        &mut self,
        transaction: &mut Transaction,
        mut lines: Lines,
        stopping: &mut Stopping,
    ) -> Stop {
        let mut batch = Vec::new().into_iter();
        let stop = self.send_lines(transaction, &mut lines, &mut batch, stopping).await;
        if !matches!(stop, Stop::EndOfInput) {
            // Read, but not to be sent any more: these too are accounted for.
            let rest = lines.take_rest();
            self.unsent += batch.len() as u64 + rest.lines;
            if let Some(error) = rest.error {
                complain("the input can't be read", &error);
            }
            if rest.is_incomplete {
                say("a read of the input is still under way, and what it may take is not reported");
            }
        }
        stop
    }

    async fn send_lines(
        &mut self,
        transaction: &mut Transaction,
        lines: &mut Lines,
        batch: &mut vec::IntoIter<Line>,
        stopping: &mut Stopping,
    ) -> Stop {
        loop {
            self.report.flush();
            let next = loop {
                tokio::select! {
                    biased;
                    _ = stopping.signal() => return Stop::Signal,
                    () = self.report.changed() => if self.report.has_failed() { return Stop::OutputFailed },
                    next = lines.next() => break next,
                }
            };
            *batch = match next {
                Some(Ok(next)) => next.into_iter(),
                Some(Err(error)) => return Stop::InputFailed(error),
                None => return self.before_the_end(stopping).await,
            };
            for line in batch.by_ref() {
                if let Some(stop) = self.wait_for_room(stopping).await {
                    // It is neither sent nor reported yet.
                    self.unsent += 1;
                    return stop;
                }
                self.line += 1;
                if let Some(stop) = self.send_line(transaction, line, stopping).await {
                    return stop;
                }
                self.report.progress(0, false);
            }
        }
    }

    /// Nothing is committed whose messages could not be reported.
    async fn before_the_end(&mut self, stopping: &mut Stopping) -> Stop {
        if self.args.commit {
            tokio::select! {
                biased;
                _ = stopping.signal() => return Stop::Signal,
                () = self.report.written() => if self.report.has_failed() { return Stop::OutputFailed },
            }
        }
        Stop::EndOfInput
    }

    async fn wait_for_room(&mut self, stopping: &mut Stopping) -> Option<Stop> {
        while !self.report.has_room() {
            tokio::select! {
                biased;
                _ = stopping.signal() => return Some(Stop::Signal),
                () = self.report.changed() => {}
            }
        }
        self.report.has_failed().then_some(Stop::OutputFailed)
    }

    async fn send_line(
        &mut self,
        transaction: &mut Transaction,
        line: Line,
        stopping: &mut Stopping,
    ) -> Option<Stop> {
        let message = match self.message(line) {
            Ok(message) => message,
            Err(text) => return Some(Stop::Refused(text)),
        };
        let mut sending = std::pin::pin!(transaction.send(message));
        let sent = match (&mut sending).now_or_never() {
            Some(sent) => sent,
            None => {
                // Whoever waits for the results before has them while this one takes its time.
                self.report.flush();
                tokio::select! {
                    biased;
                    sent = sending => sent,
                    _ = stopping.signal() => {
                        let text = "the program was told to stop before the broker had taken this line";
                        self.report.failed(self.line, "stopped", Outcome::Rejected, text);
                        return Some(Stop::Signal);
                    }
                }
            }
        };
        match sent {
            Ok(receipt) => self.report.taken(self.line, &receipt),
            Err(error) => {
                let outcome = outcome_of(error.kind());
                self.report.failed(self.line, error.kind().as_str(), outcome, &describe(&error));
                return Some(match error.outcome() {
                    TransactionOutcome::Open => Stop::Refused(format!("line {} was not taken", self.line)),
                    _ => Stop::Over(error),
                });
            }
        }
        None
    }

    /// The message of a line; in its place what to say when it can't be one.
    fn message(&mut self, line: Line) -> Result<Message, String> {
        let Line::Whole(payload) = line else {
            let text = format!("the line is longer than {MAX_LINE} bytes, which no consumer could fetch");
            self.report.failed(self.line, "too-large", Outcome::NotSent, &text);
            return Err(format!("line {} is too long", self.line));
        };
        let topic = &self.args.topics[((self.line - 1) % self.args.topics.len() as u64) as usize];
        let message = Message::new(topic.clone(), payload);
        Ok(match &self.args.attribute {
            Some(attribute) => message.with_attribute(Arc::clone(attribute)),
            None => message,
        })
    }
}

impl Account for Run {
    async fn complete(&mut self) {
        loop {
            while self.report.has_room() && self.unsent > 0 {
                self.unsent -= 1;
                self.line += 1;
                let text = "the transaction was ended before this line was sent";
                self.report.failed(self.line, "stopped", Outcome::NotSent, text);
            }
            if self.unsent == 0 {
                break;
            }
            self.report.changed().await;
        }
        if let Some(end) = self.end.take() {
            self.report.transaction(&end);
        }
        self.report.written().await;
    }

    fn stop_waiting(&mut self, _: bool) {}

    fn output(&mut self) -> &mut Output {
        self.report.output()
    }
}

/// What a failed line is called by the words of `metaq produce`. It is not stored in any case.
fn outcome_of(kind: TransactionErrorKind) -> Outcome {
    match kind {
        TransactionErrorKind::NotPublished
        | TransactionErrorKind::TooLarge
        | TransactionErrorKind::Interceptor
        | TransactionErrorKind::NoPartition
        | TransactionErrorKind::NotConnected
        | TransactionErrorKind::NoRuntime
        | TransactionErrorKind::NoEntropy => Outcome::NotSent,
        _ => Outcome::Rejected,
    }
}
