//! What is printed for each message, and the progress.

mod unwritten;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use metaq_producer::{Outcome, SendError, SendReceipt, transaction::TransactionReceipt};
use serde::Serialize;

pub(crate) use self::unwritten::Unwritten;
use crate::{
    output::Output,
    stderr::{describe, show},
};

/// The JSON line of a message that was stored.
#[derive(Serialize)]
struct Stored {
    line: u64,
    partition: String,
    offset: i64,
    id: String,
}

/// The JSON line of one that was not acknowledged.
#[derive(Serialize)]
struct Failed<'a> {
    line: u64,
    error: Failure<'a>,
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: &'a str,
    outcome: &'a str,
    message: &'a str,
}

/// What became of a transaction.
#[derive(Debug, Default)]
pub(crate) struct TransactionEnd {
    pub(crate) transaction: Option<String>,
    pub(crate) outcome: &'static str,
    pub(crate) messages: u64,
    /// The kind and the text.
    pub(crate) error: Option<(&'static str, String)>,
}

impl TransactionEnd {
    /// The same for stderr.
    pub(crate) fn describe(&self) -> String {
        let transaction = self.transaction.as_deref().unwrap_or("without a name");
        let messages = match self.messages {
            1 => "1 message".to_owned(),
            messages => format!("{messages} messages"),
        };
        let became = match self.outcome {
            "committed" => "was committed",
            "rolled-back" => "was rolled back",
            _ => "may or may not be committed",
        };
        let error = self.error.as_ref().map(|(_, error)| format!(": {error}")).unwrap_or_default();
        format!("transaction {transaction} {became} ({messages}){error}")
    }
}

/// The JSON line of a transaction's end.
#[derive(Serialize)]
struct Ended<'a> {
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

/// Has one line written to stdout for each message, and shows the progress on stderr if that is a terminal.
#[derive(Debug)]
pub(crate) struct Report {
    output: Output,
    unwritten: Unwritten,
    acknowledged: u64,
    failed: u64,
    progress: Option<Instant>,
}

const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

impl Report {
    /// # Errors
    /// When no file descriptor or no thread is to be had.
    pub(crate) fn new() -> io::Result<Self> {
        let progress = io::stderr().is_terminal().then(Instant::now);
        let (output, unwritten) = (Output::stdout()?, Unwritten::default());
        Ok(Self { output, unwritten, acknowledged: 0, failed: 0, progress })
    }

    /// Where the lines go.
    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether every message so far was acknowledged.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0
    }

    pub(crate) fn message(&mut self, line: u64, result: &Result<SendReceipt, SendError>) {
        match result {
            Ok(receipt) => self.stored(line, receipt),
            Err(error) => self.failed(line, error.kind().as_str(), error.outcome(), &describe(error)),
        }
    }

    fn stored(&mut self, line: u64, receipt: &SendReceipt) {
        self.acknowledged += 1;
        if self.has_failed() {
            return self.unwritten.add(line, None);
        }
        self.write(&Stored {
            line,
            partition: receipt.partition.to_string(),
            offset: receipt.offset,
            id: receipt.message_id.to_string(),
        });
    }

    /// A message of a transaction was taken. Its offset is not told.
    pub(crate) fn taken(&mut self, line: u64, receipt: &TransactionReceipt) {
        self.acknowledged += 1;
        if self.has_failed() {
            return self.unwritten.add(line, None);
        }
        self.write(&Stored {
            line,
            partition: receipt.partition.to_string(),
            offset: -1,
            id: receipt.message_id.to_string(),
        });
    }

    pub(crate) fn transaction(&mut self, end: &TransactionEnd) {
        let error = end.error.as_ref().map(|(kind, message)| Reason { kind, message });
        let (transaction, outcome) = (end.transaction.as_deref(), end.outcome);
        self.write(&Ended { transaction, outcome, messages: end.messages, error });
    }

    pub(crate) fn failed(&mut self, line: u64, kind: &str, outcome: Outcome, message: &str) {
        self.failed += 1;
        if self.has_failed() {
            return self.unwritten.add(line, Some(outcome.as_str()));
        }
        self.write(&Failed { line, error: Failure { kind, outcome: outcome.as_str(), message } });
    }

    fn write(&mut self, line: &impl Serialize) {
        let text = self.output.text();
        // Numbers and texts are always JSON, and memory takes them.
        let _ = serde_json::to_writer(&mut *text, line);
        text.push(b'\n');
    }

    /// Returns whether more should be reported before [`changed`](Self::changed) completes. Once writing has failed there is
    /// always room: what can't be written is only counted.
    pub(crate) fn has_room(&mut self) -> bool {
        self.output.has_room() || self.count_unwritten()
    }

    /// Returns whether writing has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.output.has_failed()
    }

    /// Waits until there may be room again, or writing has failed. It may return earlier.
    pub(crate) async fn changed(&mut self) {
        self.output.changed().await;
    }

    /// Lets everything out that was reported.
    pub(crate) fn flush(&mut self) {
        self.output.flush();
    }

    /// Waits until everything is written, or writing has failed.
    pub(crate) async fn written(&mut self) {
        self.output.written().await;
    }

    /// Counts what was not written; false if writing has not failed.
    fn count_unwritten(&mut self) -> bool {
        if self.has_failed() {
            self.unwritten.count(&self.output.take_unwritten());
        }
        self.has_failed()
    }

    /// Takes why lines could not be written, and which.
    pub(crate) fn take_failure(&mut self) -> Option<(io::Error, Unwritten)> {
        self.count_unwritten();
        let unwritten = std::mem::take(&mut self.unwritten);
        let failure = self.output.take_failure();
        // Writing may come to its end just when it is given up.
        let is_failure = |error: &io::Error| error.kind() != io::ErrorKind::TimedOut || !unwritten.is_empty();
        failure.filter(is_failure).map(|error| (error, unwritten))
    }

    /// Shows the progress, not too often, or for the last time.
    pub(crate) fn progress(&mut self, in_flight: usize, last: bool) {
        let Some(shown) = &mut self.progress else { return };
        if last || shown.elapsed() >= PROGRESS_INTERVAL {
            *shown = Instant::now();
            let end = if last { "\n" } else { "" };
            let Self { acknowledged, failed, .. } = self;
            show(&format!(
                "\r{acknowledged} acknowledged, {failed} failed, {in_flight} in flight\x1b[K{end}"
            ));
        }
    }
}
