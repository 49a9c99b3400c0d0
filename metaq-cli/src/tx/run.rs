//! One run of `metaq tx`: sends the lines, commits or rolls back, and reports the result.

use std::{io, sync::Arc, vec};

use futures_util::FutureExt as _;
use metaq_producer::{
    Message, Outcome,
    transaction::{Transaction, TransactionError, TransactionErrorKind, TransactionOutcome},
};

use super::Args;
use crate::{
    exit_status::{self, EXIT_DONE, EXIT_LOCAL_IO, EXIT_REFUSED, EXIT_UNKNOWN},
    input::{Line, Lines, MAX_LINE},
    output::Output,
    report::{Report, TransactionResult, WriteFailure},
    shutdown::{PendingResults, Shutdown, finish},
    stderr::{describe, print_error, print_message},
};

/// One run of the command.
pub(super) struct Run {
    args: Args,
    report: Report,
    /// The number of lines that were sent, or reported as not sent.
    line: u64,
    /// The number of lines that were read and will not be sent.
    unsent: u64,
    /// The result of the transaction, until it is reported.
    result: Option<TransactionResult>,
}

/// The reason to send no more lines.
enum StopReason {
    EndOfInput,
    Signal,
    InputFailed(io::Error),
    OutputFailed,
    /// A line can't be sent; the text says which and why.
    Refused(String),
    /// The transaction has already failed.
    Over(TransactionError),
}

impl Run {
    pub(super) fn new(args: Args, report: Report) -> Self {
        Self { args, report, line: 0, unsent: 0, result: None }
    }

    /// Sends all lines and then commits or rolls back, as the options ask; rolls back if that is not
    /// possible. Returns the exit status.
    pub(super) async fn run(
        mut self,
        mut transaction: Transaction,
        lines: Lines,
        shutdown: &mut Shutdown,
    ) -> u8 {
        let stop = self.send(&mut transaction, lines, shutdown).await;
        let (result, is_as_asked) = self.end(transaction, &stop, shutdown).await;
        let text = result.describe();
        let is_unknown = result.outcome == "unknown";
        self.result = Some(result);
        shutdown.extend_deadline_for_writing();
        finish(&mut self, shutdown).await;
        self.report.progress(0, true);
        let failure = self.report.take_failure();
        if let Some(WriteFailure { error, unwritten, .. }) = &failure {
            let (lines, unwritten) = (self.line, unwritten.describe("accepted by the broker"));
            print_message(&format!(
                "the results can't be written: {}; {text}; {lines} lines were read from the input; {unwritten}",
                describe(error)
            ));
        }
        if let Some(status) = shutdown.status() {
            return status;
        }
        match (failure, stop) {
            (Some(WriteFailure { error, .. }), _) => exit_status::of_output_error(&error),
            (None, _) if is_unknown => EXIT_UNKNOWN,
            (None, StopReason::InputFailed(_)) => EXIT_LOCAL_IO,
            (None, _) if is_as_asked => EXIT_DONE,
            // Nothing is stored: what failed is a message, or the broker refused the transaction.
            (None, _) => match self.report.failures().exit_status() {
                EXIT_DONE => EXIT_REFUSED,
                status => status,
            },
        }
    }

    /// Commits or rolls back. Returns the result, and whether it is the one that the options ask for.
    async fn end(
        &self,
        transaction: Transaction,
        stop: &StopReason,
        shutdown: &mut Shutdown,
    ) -> (TransactionResult, bool) {
        let mut result = TransactionResult {
            transaction: transaction.id().map(str::to_owned),
            messages: transaction.messages(),
            ..TransactionResult::default()
        };
        let commits = self.args.commit && matches!(stop, StopReason::EndOfInput);
        let completion = match stop {
            StopReason::Over(_) => Some(Ok(())),
            _ if commits => {
                let committed = shutdown.unless_forced(transaction.commit()).await;
                committed.map(|committed| committed.map(|receipt| result.messages = receipt.messages))
            }
            _ => shutdown.unless_forced(transaction.rollback()).await,
        };
        result.outcome = match &completion {
            Some(Ok(())) if commits => "committed",
            Some(Err(error)) if error.outcome() == TransactionOutcome::Unknown => "unknown",
            None if commits => "unknown",
            // Nothing of a transaction is stored that was not to be committed.
            _ => "rolled-back",
        };
        result.error = match stop {
            StopReason::Over(error) => Some((error.kind().as_str(), describe(error))),
            StopReason::Refused(text) => Some(("refused", text.clone())),
            StopReason::InputFailed(error) => Some(("input", format!("the input can't be read: {error}"))),
            StopReason::OutputFailed => Some(("output", "the results can't be written".to_owned())),
            StopReason::Signal => Some(("stopped", "a signal stopped the program".to_owned())),
            StopReason::EndOfInput => match &completion {
                Some(completion) => {
                    completion.as_ref().err().map(|error| (error.kind().as_str(), describe(error)))
                }
                None => Some((
                    "stopped",
                    "a second signal stopped the program before the broker confirmed it".to_owned(),
                )),
            },
        };
        let is_as_asked = match &completion {
            Some(Ok(())) => {
                if commits {
                    self.args.commit
                } else {
                    self.args.rollback
                }
            }
            // The broker has not confirmed it, even where no other outcome is possible.
            _ => false,
        };
        (result, is_as_asked)
    }

    /// Sends line after line until the end of the input, a signal, or a failure.
    async fn send(
        &mut self,
        transaction: &mut Transaction,
        mut lines: Lines,
        shutdown: &mut Shutdown,
    ) -> StopReason {
        let mut batch = Vec::new().into_iter();
        let stop = self.send_lines(transaction, &mut lines, &mut batch, shutdown).await;
        if !matches!(stop, StopReason::EndOfInput) {
            // These lines were read and will not be sent, but are reported, too.
            let rest = lines.take_rest();
            self.unsent += batch.len() as u64 + rest.lines.len() as u64;
            if let Some(error) = rest.error {
                print_error("the input can't be read", &error);
            }
            if rest.is_incomplete {
                print_message(
                    "a read of the input is still in progress; lines that it may take are not reported",
                );
            }
        }
        stop
    }

    async fn send_lines(
        &mut self,
        transaction: &mut Transaction,
        lines: &mut Lines,
        batch: &mut vec::IntoIter<Line>,
        shutdown: &mut Shutdown,
    ) -> StopReason {
        loop {
            self.report.flush();
            let next = loop {
                tokio::select! {
                    biased;
                    _ = shutdown.signal() => return StopReason::Signal,
                    () = self.report.changed() => if self.report.has_failed() { return StopReason::OutputFailed },
                    next = lines.next() => break next,
                }
            };
            *batch = match next {
                Some(Ok(next)) => next.into_iter(),
                Some(Err(error)) => return StopReason::InputFailed(error),
                None => return self.wait_for_results(shutdown).await,
            };
            for line in batch.by_ref() {
                if let Some(stop) = self.wait_for_capacity(shutdown).await {
                    // The line is neither sent nor reported yet.
                    self.unsent += 1;
                    return stop;
                }
                self.line += 1;
                if let Some(stop) = self.send_line(transaction, line, shutdown).await {
                    return stop;
                }
                self.report.progress(0, false);
            }
        }
    }

    /// Before a commit, waits until all results are written: a transaction whose results can't be written is
    /// rolled back.
    async fn wait_for_results(&mut self, shutdown: &mut Shutdown) -> StopReason {
        if self.args.commit {
            tokio::select! {
                biased;
                _ = shutdown.signal() => return StopReason::Signal,
                () = self.report.written() => if self.report.has_failed() { return StopReason::OutputFailed },
            }
        }
        StopReason::EndOfInput
    }

    async fn wait_for_capacity(&mut self, shutdown: &mut Shutdown) -> Option<StopReason> {
        while !self.report.has_capacity() {
            tokio::select! {
                biased;
                _ = shutdown.signal() => return Some(StopReason::Signal),
                () = self.report.changed() => {}
            }
        }
        self.report.has_failed().then_some(StopReason::OutputFailed)
    }

    async fn send_line(
        &mut self,
        transaction: &mut Transaction,
        line: Line,
        shutdown: &mut Shutdown,
    ) -> Option<StopReason> {
        let message = match self.message(line) {
            Ok(message) => message,
            Err(text) => return Some(StopReason::Refused(text)),
        };
        let mut sending = std::pin::pin!(transaction.send(message));
        let sent = match (&mut sending).now_or_never() {
            Some(sent) => sent,
            None => {
                // Results of earlier lines are written while this line is waited for.
                self.report.flush();
                tokio::select! {
                    biased;
                    sent = sending => sent,
                    _ = shutdown.signal() => {
                        let text = "the program was stopped before the broker accepted this line";
                        self.report.failed(self.line, "stopped", Outcome::Rejected, text);
                        return Some(StopReason::Signal);
                    }
                }
            }
        };
        match sent {
            Ok(receipt) => self.report.accepted(self.line, &receipt),
            Err(error) => {
                let outcome = outcome_of(error.kind());
                self.report.failed(self.line, error.kind().as_str(), outcome, &describe(&error));
                return Some(match error.outcome() {
                    TransactionOutcome::Open => {
                        StopReason::Refused(format!("line {} was not accepted", self.line))
                    }
                    _ => StopReason::Over(error),
                });
            }
        }
        None
    }

    /// Converts a line to a message, or reports the line and returns the reason to stop.
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

impl PendingResults for Run {
    async fn complete(&mut self) {
        loop {
            while self.report.has_capacity() && self.unsent > 0 {
                self.unsent -= 1;
                self.line += 1;
                let text = "the transaction had ended before this line was sent";
                self.report.failed(self.line, "stopped", Outcome::NotSent, text);
            }
            if self.unsent == 0 {
                break;
            }
            self.report.changed().await;
        }
        if let Some(result) = self.result.take() {
            self.report.transaction(&result);
        }
        self.report.written().await;
    }

    fn stop_waiting(&mut self, _: bool) {}

    fn output(&mut self) -> &mut Output {
        self.report.output()
    }
}

/// Maps the error of a line to the outcome that `metaq produce` would report. In each case the line is not
/// stored.
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
