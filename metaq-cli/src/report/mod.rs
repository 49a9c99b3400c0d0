//! The result line of each message, the progress, and the summary.
//!
//! `lines` has the forms of lines, `unwritten` counts the results that could not be written.

mod lines;
mod unwritten;

use std::{
    fs::File,
    future::pending,
    io::{self, IsTerminal as _},
    ops::RangeInclusive,
    time::Instant,
};

use metaq_producer::{Outcome, Partition, SendError, SendReceipt, transaction::TransactionReceipt};
use metaq_spool::SpoolId;
use tokio::time::sleep;

use self::unwritten::SPOOLED;
pub(crate) use self::unwritten::Unwritten;
use crate::{
    display::{self, OutputForm},
    exit_status::FailureCounts,
    input::Framing,
    output::Output,
    progress::{PROGRESS_INTERVAL, ProgressLine},
    stderr::{describe, print_message},
};

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

/// The failure of an output.
#[derive(Debug)]
pub(crate) struct WriteFailure {
    /// What could not be written.
    pub(crate) what: &'static str,
    pub(crate) error: io::Error,
    /// The results that were not written.
    pub(crate) unwritten: Unwritten,
}

/// What became of a spooled message.
#[derive(Debug)]
pub(crate) enum Replayed {
    Stored(SpoolId, SendReceipt),
    /// With the reason.
    SetAside(SpoolId, String),
}

/// Where results are written.
#[derive(Debug)]
pub(crate) enum Destination {
    Stdout,
    File(File),
}

/// Prints one line for each message, and the progress to stderr if that is a terminal.
#[derive(Debug)]
pub(crate) struct Report {
    form: OutputForm,
    output: Output,
    /// The framing of the messages that are written to stdout.
    tee: Option<Framing>,
    /// The output of these messages, if it is not that of the results.
    tee_output: Option<Output>,
    /// The number of messages that were not written to stdout, as they would be read as others.
    not_teed: u64,
    unwritten: Unwritten,
    acknowledged: u64,
    spooled: u64,
    replayed: u64,
    failed: FailureCounts,
    progress: Option<ProgressLine>,
    started: Instant,
    /// The time of the last update of the progress.
    shown: Instant,
}

impl Report {
    /// `tee` is the framing in which messages are written to stdout.
    ///
    /// # Errors
    /// When no file descriptor or no thread is available.
    pub(crate) fn new(form: OutputForm, destination: Destination, tee: Option<Framing>) -> io::Result<Self> {
        let is_file = matches!(destination, Destination::File(_));
        let output = match destination {
            Destination::Stdout => Output::stdout()?,
            Destination::File(file) => Output::new(file)?,
        };
        let tee_output = if tee.is_some() && is_file { Some(Output::stdout()?) } else { None };
        // On a terminal that shows lines of results, the progress would be among them.
        let has_lines = tee.is_some() || (form != OutputForm::Human && !is_file);
        let has_progress = !(display::is_quiet() || has_lines && io::stdout().is_terminal());
        let progress = if has_progress { ProgressLine::new(None, "{msg}") } else { None };
        let now = Instant::now();
        Ok(Self {
            form,
            output,
            tee,
            tee_output,
            not_teed: 0,
            unwritten: Unwritten::default(),
            acknowledged: 0,
            spooled: 0,
            replayed: 0,
            failed: FailureCounts::default(),
            progress,
            started: now,
            shown: now,
        })
    }

    /// Shows no progress: the terminal shows what is typed.
    pub(crate) fn without_progress(self) -> Self {
        Self { progress: None, ..self }
    }

    /// The output that lines are written to.
    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Stops writing for `reason`.
    pub(crate) fn give_up(&mut self, reason: &io::Error) {
        for output in self.tee_output.iter_mut().chain([&mut self.output]) {
            output.give_up(io::Error::new(reason.kind(), reason.to_string()));
        }
    }

    /// Returns whether each message gets a line. People get a summary only.
    pub(crate) fn has_lines(&self) -> bool {
        self.form != OutputForm::Human
    }

    /// Returns the messages that were not acknowledged so far.
    pub(crate) fn failures(&self) -> FailureCounts {
        self.failed
    }

    /// Returns whether messages are written to stdout.
    pub(crate) fn has_tee(&self) -> bool {
        self.tee.is_some()
    }

    /// Writes a message to stdout that is being sent, if that is asked for.
    pub(crate) fn tee(&mut self, message: &[u8]) {
        if let Some(framing) = &self.tee {
            let output = self.tee_output.as_mut().unwrap_or(&mut self.output);
            if !output.has_failed() && !framing.write(message, output.text()) {
                self.not_teed += 1;
            }
        }
    }

    /// Returns the number of messages that were not written to stdout, as they would be read as others.
    pub(crate) fn not_teed(&self) -> u64 {
        self.not_teed
    }

    /// Reports a message that a broker has stored.
    pub(crate) fn acknowledged(&mut self, line: u64, receipt: &SendReceipt) {
        self.stored(line, receipt.partition, receipt.offset, receipt.message_id);
    }

    /// Reports a message that is in the spool.
    pub(crate) fn spooled(&mut self, line: u64, id: SpoolId) {
        self.spooled += 1;
        if self.output.has_failed() {
            return self.unwritten.add(line, Some(SPOOLED));
        }
        lines::spooled(self.output.text(), self.form, line, id);
    }

    /// Reports what became of a message of the spool.
    pub(crate) fn replayed(&mut self, replayed: &Replayed) {
        self.replayed += u64::from(matches!(replayed, Replayed::Stored(..)));
        if self.output.has_failed() {
            return self.unwritten.add_replayed();
        }
        if let (OutputForm::Human, Replayed::SetAside(id, reason)) = (self.form, replayed) {
            print_message(&format!("the spooled message {id} was set aside: {reason}"));
        }
        lines::replayed(self.output.text(), self.form, replayed);
    }

    fn stored(&mut self, line: u64, partition: Partition, offset: i64, id: i64) {
        self.acknowledged += 1;
        if self.output.has_failed() {
            return self.unwritten.add(line, None);
        }
        lines::stored(self.output.text(), self.form, line, partition, offset, id);
    }

    /// Reports a message of a transaction that the broker accepted. The broker doesn't report its offset.
    pub(crate) fn accepted(&mut self, line: u64, receipt: &TransactionReceipt) {
        self.stored(line, receipt.partition, -1, receipt.message_id);
    }

    pub(crate) fn transaction(&mut self, result: &TransactionResult) {
        lines::transaction(self.output.text(), self.form, result);
    }

    pub(crate) fn failed(&mut self, line: u64, kind: &str, outcome: Outcome, message: &str) {
        self.failed.add(outcome);
        if self.output.has_failed() {
            return self.unwritten.add(line, Some(outcome.as_str()));
        }
        if self.form == OutputForm::Human {
            return print_message(&format!("line {line} ({}): {message}", outcome.as_str()));
        }
        lines::failed(self.output.text(), self.form, line, (kind, outcome.as_str(), message));
    }

    /// Reports lines that failed for the same reason, to people. `text` is that of one of them.
    pub(crate) fn failed_lines(&mut self, lines: RangeInclusive<u64>, outcome: Outcome, text: &str) {
        let (first, last) = (*lines.start(), *lines.end());
        for line in lines {
            self.failed.add(outcome);
            if self.output.has_failed() {
                self.unwritten.add(line, Some(outcome.as_str()));
            }
        }
        if !self.output.has_failed() {
            let outcome = outcome.as_str();
            let text = if first == last {
                format!("line {first} ({outcome}): {text}")
            } else {
                let text = text.replace("this line was", "these lines were");
                format!("lines {first} to {last} ({outcome}): {text}")
            };
            print_message(&text);
        }
    }

    /// Formats the account of all messages for people.
    pub(crate) fn account(&self, has_spool: bool) -> String {
        let FailureCounts { not_sent, rejected, unknown } = self.failed;
        let (acknowledged, seconds) = (self.acknowledged, self.started.elapsed().as_secs_f64());
        let failed = if self.failed.sum() == 0 {
            String::new()
        } else {
            format!(", {rejected} rejected, {unknown} unknown, {not_sent} not sent")
        };
        let rate = acknowledged as f64 / seconds.max(1e-9);
        let digits = usize::from(rate < 10.0 && acknowledged > 0);
        let all = count_messages(acknowledged + self.spooled + self.failed.sum());
        let spooled = if has_spool { format!(", {} spooled", self.spooled) } else { String::new() };
        format!(
            "{all}: {acknowledged} acknowledged{spooled}{failed} in {seconds:.2} s ({rate:.digits$} a second)"
        )
    }

    /// Appends the account of all messages for people. `spool` is that of the spool, if there is one.
    pub(crate) fn summary(&mut self, spool: Option<&str>) {
        self.note(&self.account(spool.is_some()));
        spool.into_iter().for_each(|account| self.note(account));
    }

    /// Appends a line for people.
    pub(crate) fn note(&mut self, text: &str) {
        if self.tee.is_some() {
            // Stdout has messages.
            print_message(text);
        } else {
            self.output.text().extend_from_slice(format!("{text}\n").as_bytes());
        }
    }

    /// Returns whether more results should be reported before [`capacity`](Self::capacity) completes. After
    /// writing them has failed this is always true: results that can't be written are only counted.
    pub(crate) fn has_capacity(&mut self) -> bool {
        self.output.has_capacity() || self.count_unwritten()
    }

    /// Returns whether more messages should be written to stdout. After that has failed this is always true:
    /// they are dropped.
    pub(crate) fn has_tee_capacity(&mut self) -> bool {
        self.tee_output.as_mut().is_none_or(|tee| tee.has_failed() || tee.has_capacity())
    }

    /// Waits until there may be capacity for messages on stdout again, or writing them has failed; forever
    /// after that. May return early.
    pub(crate) async fn tee_capacity(&mut self) {
        match &mut self.tee_output {
            Some(tee) if !tee.has_failed() => tee.changed().await,
            _ => pending().await,
        }
    }

    /// Waits until there may be capacity for results again, or writing them has failed. May return early.
    pub(crate) async fn capacity(&mut self) {
        self.output.changed().await;
    }

    /// Returns whether writing results, or messages to stdout, has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.output.has_failed() || self.tee_output.as_ref().is_some_and(Output::has_failed)
    }

    /// Waits until there may be capacity again for results or messages, or writing either has failed. May
    /// return early.
    pub(crate) async fn changed(&mut self) {
        if self.has_failed() {
            return;
        }
        match &mut self.tee_output {
            None => self.output.changed().await,
            Some(tee) => tokio::select! {
                () = self.output.changed() => {}
                () = tee.changed() => {}
            },
        }
    }

    /// Hands all reported lines to the thread that writes.
    pub(crate) fn flush(&mut self) {
        self.output.flush();
        if let Some(tee) = &mut self.tee_output {
            tee.flush();
        }
    }

    /// Waits until all lines are written, or writing has failed.
    pub(crate) async fn written(&mut self) {
        match &mut self.tee_output {
            None => self.output.written().await,
            Some(tee) => drop(tokio::join!(self.output.written(), tee.written())),
        }
    }

    /// Counts the results that were not written. Returns whether writing them has failed.
    fn count_unwritten(&mut self) -> bool {
        let has_failed = self.output.has_failed();
        if has_failed && self.form != OutputForm::Human {
            self.unwritten.count(&self.output.take_unwritten());
        }
        has_failed
    }

    /// Takes the failure that ended writing.
    pub(crate) fn take_failure(&mut self) -> Option<WriteFailure> {
        let is_human = self.form == OutputForm::Human;
        let has_rest = is_human && self.output.has_failed() && !self.output.take_unwritten().is_empty();
        self.count_unwritten();
        let unwritten = std::mem::take(&mut self.unwritten);
        let has_tee_rest = |tee: &mut Output| tee.has_failed() && !tee.take_unwritten().is_empty();
        let has_tee_rest = self.tee_output.as_mut().is_some_and(has_tee_rest);
        // Writing may complete just when it is given up.
        let is_failure = |error: &io::Error, has_rest| error.kind() != io::ErrorKind::TimedOut || has_rest;
        let of_tee = self.tee_output.as_mut().and_then(Output::take_failure);
        let of_tee = of_tee.filter(|error| is_failure(error, has_tee_rest));
        let of_results = self.output.take_failure();
        let of_results = of_results.filter(|error| is_failure(error, has_rest || !unwritten.is_empty()));
        let what = match (is_human, self.tee.is_some() && self.tee_output.is_none()) {
            _ if of_tee.is_some() => "the messages",
            (_, true) => "the messages",
            (true, false) => "the summary",
            (false, false) => "the results",
        };
        of_tee.or(of_results).map(|error| WriteFailure { what, error, unwritten })
    }

    /// Prints the progress, at most every [`PROGRESS_INTERVAL`], or for the last time.
    pub(crate) fn progress(&mut self, in_flight: usize, last: bool) {
        let Some(line) = &self.progress else { return };
        let (acknowledged, failed) = (self.acknowledged, self.failed.sum());
        let spooled = match (self.spooled, self.replayed) {
            (0, 0) => String::new(),
            (spooled, replayed) => format!("{spooled} spooled, {replayed} replayed, "),
        };
        let text = || format!("{acknowledged} acknowledged, {spooled}{failed} failed, {in_flight} in flight");
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

    /// Removes the progress from the terminal.
    pub(crate) fn clear_progress(&mut self) {
        self.progress = None;
    }

    /// Waits as [`changed`](Self::changed) does, or until it is time to show the progress again.
    pub(crate) async fn changed_or_due(&mut self) {
        let is_shown = self.progress.is_some();
        tokio::select! {
            biased;
            () = self.changed() => {}
            () = sleep(PROGRESS_INTERVAL), if is_shown => {}
        }
    }
}
