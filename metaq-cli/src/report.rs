//! What is printed for each message, and the progress.

use std::{
    io::{self, IsTerminal as _, StdoutLock, Write},
    time::{Duration, Instant},
};

use metaq_producer::{Outcome, SendError, SendReceipt, TransactionReceipt};
use serde::Serialize;

use crate::describe;

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

/// Writes one line for each message to stdout, and the progress to stderr if that is a terminal.
#[derive(Debug)]
pub(crate) struct Report {
    output: io::BufWriter<StdoutLock<'static>>,
    acknowledged: u64,
    failed: u64,
    progress: Option<Instant>,
}

const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

impl Report {
    pub(crate) fn new() -> Self {
        let output = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
        let progress = io::stderr().is_terminal().then(Instant::now);
        Self { output, acknowledged: 0, failed: 0, progress }
    }

    /// Whether every message so far was acknowledged.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0
    }

    pub(crate) fn message(&mut self, line: u64, result: &Result<SendReceipt, SendError>) -> io::Result<()> {
        match result {
            Ok(receipt) => self.stored(line, receipt),
            Err(error) => self.failed(line, error.kind().as_str(), error.outcome(), &describe(error)),
        }
    }

    fn stored(&mut self, line: u64, receipt: &SendReceipt) -> io::Result<()> {
        self.acknowledged += 1;
        self.write(&Stored {
            line,
            partition: receipt.partition.to_string(),
            offset: receipt.offset,
            id: receipt.message_id.to_string(),
        })
    }

    /// A message of a transaction was taken. Its offset is not told.
    pub(crate) fn taken(&mut self, line: u64, receipt: &TransactionReceipt) -> io::Result<()> {
        self.acknowledged += 1;
        self.write(&Stored {
            line,
            partition: receipt.partition.to_string(),
            offset: -1,
            id: receipt.message_id.to_string(),
        })
    }

    pub(crate) fn transaction(&mut self, end: &TransactionEnd) -> io::Result<()> {
        let error = end.error.as_ref().map(|(kind, message)| Reason { kind, message });
        let (transaction, outcome) = (end.transaction.as_deref(), end.outcome);
        self.write(&Ended { transaction, outcome, messages: end.messages, error })
    }

    pub(crate) fn failed(
        &mut self,
        line: u64,
        kind: &str,
        outcome: Outcome,
        message: &str,
    ) -> io::Result<()> {
        self.failed += 1;
        self.write(&Failed { line, error: Failure { kind, outcome: outcome.as_str(), message } })
    }

    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, line)?;
        self.output.write_all(b"\n")
    }

    /// Lets everything out that was written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Shows the progress, not too often, or for the last time.
    pub(crate) fn progress(&mut self, in_flight: usize, last: bool) {
        let Some(shown) = &mut self.progress else { return };
        if last || shown.elapsed() >= PROGRESS_INTERVAL {
            *shown = Instant::now();
            let end = if last { "\n" } else { "" };
            let Self { acknowledged, failed, .. } = self;
            // A terminal that is gone can't be told about.
            let _ = write!(
                io::stderr(),
                "\r{acknowledged} acknowledged, {failed} failed, {in_flight} in flight\x1b[K{end}"
            );
        }
    }
}
