//! The result line of each message, and the progress.
//!
//! `unwritten` counts the results that could not be written.

mod unwritten;

use std::{io, time::Instant};

use metaq_producer::{Outcome, Partition, SendError, SendReceipt, transaction::TransactionReceipt};
use serde::Serialize;

pub(crate) use self::unwritten::Unwritten;
use crate::{
    exit_status::FailureCounts,
    output::Output,
    progress::{PROGRESS_INTERVAL, ProgressLine},
    stderr::describe,
};

/// The JSON line of a stored message.
#[derive(Serialize)]
struct StoredLine {
    line: u64,
    partition: String,
    offset: i64,
    id: String,
}

/// The JSON line of a message that was not acknowledged.
#[derive(Serialize)]
struct FailedLine<'a> {
    line: u64,
    error: Failure<'a>,
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: &'a str,
    outcome: &'a str,
    message: &'a str,
}

/// The result of a transaction.
#[derive(Debug, Default)]
pub(crate) struct TransactionResult {
    pub(crate) transaction: Option<String>,
    pub(crate) outcome: &'static str,
    pub(crate) messages: u64,
    /// The kind and the text of the error.
    pub(crate) error: Option<(&'static str, String)>,
}

impl TransactionResult {
    /// Formats the result for stderr.
    pub(crate) fn describe(&self) -> String {
        let transaction = self.transaction.as_deref().unwrap_or("without a name");
        let messages = count_messages(self.messages);
        let became = match self.outcome {
            "committed" => "was committed",
            "rolled-back" => "was rolled back",
            _ => "may or may not be committed",
        };
        let error = self.error.as_ref().map(|(_, error)| format!(": {error}")).unwrap_or_default();
        format!("transaction {transaction} {became} ({messages}){error}")
    }
}

/// Formats a number of messages.
pub(crate) fn count_messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// Formats a send error and its causes in one line. Replaces the text form of [`Partition::ANY`], `-1--1`, by
/// words.
pub(crate) fn describe_send_error(error: &SendError) -> String {
    let text = describe(error);
    match error.partition() {
        Some(Partition::ANY) => text.replacen(&format!("partition {}", Partition::ANY), "any partition", 1),
        _ => text,
    }
}

/// The JSON line of a transaction's result.
#[derive(Serialize)]
struct TransactionLine<'a> {
    transaction: Option<&'a str>,
    outcome: &'a str,
    messages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Reason<'a>>,
}

#[derive(Serialize)]
struct Reason<'a> {
    kind: &'a str,
    message: &'a str,
}

/// Prints one line to stdout for each message, and the progress to stderr if that is a terminal.
#[derive(Debug)]
pub(crate) struct Report {
    output: Output,
    unwritten: Unwritten,
    acknowledged: u64,
    failed: FailureCounts,
    progress: Option<ProgressLine>,
    /// The time of the last update of the progress.
    shown: Instant,
}

impl Report {
    /// # Errors
    /// When no file descriptor or no thread is available.
    pub(crate) fn new() -> io::Result<Self> {
        let (output, unwritten) = (Output::stdout()?, Unwritten::default());
        let progress = ProgressLine::new(None, "{msg}");
        Ok(Self {
            output,
            unwritten,
            acknowledged: 0,
            failed: FailureCounts::default(),
            progress,
            shown: Instant::now(),
        })
    }

    /// The output that lines are written to.
    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Returns the messages that were not acknowledged so far.
    pub(crate) fn failures(&self) -> FailureCounts {
        self.failed
    }

    pub(crate) fn message(&mut self, line: u64, result: &Result<SendReceipt, SendError>) {
        match result {
            Ok(receipt) => self.stored(line, receipt),
            Err(error) => {
                self.failed(line, error.kind().as_str(), error.outcome(), &describe_send_error(error))
            }
        }
    }

    fn stored(&mut self, line: u64, receipt: &SendReceipt) {
        self.acknowledged += 1;
        if self.has_failed() {
            return self.unwritten.add(line, None);
        }
        self.write(&StoredLine {
            line,
            partition: receipt.partition.to_string(),
            offset: receipt.offset,
            id: receipt.message_id.to_string(),
        });
    }

    /// Reports a message of a transaction that the broker accepted. The broker doesn't report its offset.
    pub(crate) fn accepted(&mut self, line: u64, receipt: &TransactionReceipt) {
        self.acknowledged += 1;
        if self.has_failed() {
            return self.unwritten.add(line, None);
        }
        self.write(&StoredLine {
            line,
            partition: receipt.partition.to_string(),
            offset: -1,
            id: receipt.message_id.to_string(),
        });
    }

    pub(crate) fn transaction(&mut self, result: &TransactionResult) {
        let error = result.error.as_ref().map(|(kind, message)| Reason { kind, message });
        let (transaction, outcome) = (result.transaction.as_deref(), result.outcome);
        self.write(&TransactionLine { transaction, outcome, messages: result.messages, error });
    }

    pub(crate) fn failed(&mut self, line: u64, kind: &str, outcome: Outcome, message: &str) {
        self.failed.add(outcome);
        if self.has_failed() {
            return self.unwritten.add(line, Some(outcome.as_str()));
        }
        self.write(&FailedLine { line, error: Failure { kind, outcome: outcome.as_str(), message } });
    }

    fn write(&mut self, line: &impl Serialize) {
        let text = self.output.text();
        // Numbers and texts always serialize, and writing to memory can't fail.
        let _ = serde_json::to_writer(&mut *text, line);
        text.push(b'\n');
    }

    /// Returns whether more should be reported before [`changed`](Self::changed) completes. After writing has
    /// failed this is always true: results that can't be written are only counted.
    pub(crate) fn has_capacity(&mut self) -> bool {
        self.output.has_capacity() || self.count_unwritten()
    }

    /// Returns whether writing has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.output.has_failed()
    }

    /// Waits until there may be capacity again, or writing has failed. May return early.
    pub(crate) async fn changed(&mut self) {
        self.output.changed().await;
    }

    /// Hands all reported lines to the thread that writes.
    pub(crate) fn flush(&mut self) {
        self.output.flush();
    }

    /// Waits until all lines are written, or writing has failed.
    pub(crate) async fn written(&mut self) {
        self.output.written().await;
    }

    /// Counts the results that were not written. Returns whether writing has failed.
    fn count_unwritten(&mut self) -> bool {
        if self.has_failed() {
            self.unwritten.count(&self.output.take_unwritten());
        }
        self.has_failed()
    }

    /// Takes the error that ended writing, and the results that could not be written.
    pub(crate) fn take_failure(&mut self) -> Option<(io::Error, Unwritten)> {
        self.count_unwritten();
        let unwritten = std::mem::take(&mut self.unwritten);
        let failure = self.output.take_failure();
        // Writing may complete just when it is given up.
        let is_failure = |error: &io::Error| error.kind() != io::ErrorKind::TimedOut || !unwritten.is_empty();
        failure.filter(is_failure).map(|error| (error, unwritten))
    }

    /// Prints the progress, at most every [`PROGRESS_INTERVAL`], or for the last time.
    pub(crate) fn progress(&mut self, in_flight: usize, last: bool) {
        let Some(line) = &self.progress else { return };
        let (acknowledged, failed) = (self.acknowledged, self.failed.sum());
        let text = || format!("{acknowledged} acknowledged, {failed} failed, {in_flight} in flight");
        if last {
            let text = text();
            if let Some(line) = self.progress.take() {
                line.finish(text);
            }
        } else if self.shown.elapsed() >= PROGRESS_INTERVAL {
            line.show(|bar| bar.set_message(text()));
            self.shown = Instant::now();
        }
    }
}
