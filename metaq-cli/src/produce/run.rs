//! One run of `metaq produce`: sends lines and reports their outcomes.

use std::{
    collections::VecDeque,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metaq_producer::{Outcome, Producer, SendError, SendHandle, SendReceipt};
use tokio::task::yield_now;

use super::{compose::Composer, pace::Pace, rejects::Rejects};
use crate::{
    exit_status::{self, EXIT_LOCAL_IO},
    input::{Line, Lines},
    output::Output,
    report::Report,
    shutdown::{PendingResults, Shutdown, finish},
    stderr::{describe, print_error, print_message},
};

/// Limit on the memory of messages in flight. A single larger line is sent alone.
const MAX_BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;

/// Approximate memory of a message in flight besides its line.
const MESSAGE_SIZE: usize = 1024;

/// The number of lines that are sent before the connections are served, by the same thread: the time of the
/// first must not run out while the last are offered.
const MAX_TURN: usize = 256;

/// A message whose outcome is not known yet; its output is the outcome.
struct Sending {
    line: u64,
    size: usize,
    /// The line, if it is to be kept until then.
    kept: Option<Line>,
    progress: Progress,
}

enum Progress {
    /// The producer has not accepted it yet.
    Offered(BoxFuture<'static, Result<SendHandle, SendError>>),
    Accepted(SendHandle),
}

/// The outcome of the message of one line.
struct Completed {
    line: u64,
    size: usize,
    kept: Option<Line>,
    result: Result<SendReceipt, SendError>,
}

impl Future for Sending {
    type Output = Completed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed> {
        let result = loop {
            match &mut self.progress {
                Progress::Offered(accepted) => match ready!(accepted.as_mut().poll(context)) {
                    Ok(handle) => self.progress = Progress::Accepted(handle),
                    Err(error) => break Err(error),
                },
                Progress::Accepted(handle) => break ready!(handle.poll_unpin(context)),
            }
        };
        let (line, size, kept) = (self.line, self.size, self.kept.take());
        Poll::Ready(Completed { line, size, kept, result })
    }
}

/// One run of the command.
pub(super) struct Run {
    producer: Producer,
    composer: Composer,
    /// Limit on the number of messages in flight.
    in_flight: usize,
    pace: Option<Pace>,
    /// The number of lines that may still be sent.
    left: u64,
    stops_on_error: bool,
    rejects: Option<Rejects>,
    report: Report,
    sent: FuturesUnordered<Sending>,
    /// The memory of the messages in `sent`.
    bytes: usize,
    /// The number of lines that were sent, or reported as not sent.
    line: u64,
    /// Lines that were read and will not be sent.
    unsent: VecDeque<Line>,
    /// The kind and the text of their error.
    unsent_because: (&'static str, &'static str),
    /// Lines that were sent and whose outcome is no longer waited for.
    unknown: VecDeque<(u64, Option<Line>)>,
    /// The text of their error.
    unknown_because: &'static str,
    input_failed: bool,
}

/// The reason to send no more lines for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A limit is reached, or no line is there.
    Limited,
    /// It is too early for the next line.
    Early,
    /// The connections have to be served.
    Over,
}

/// The reason to read no more lines.
enum StopReason {
    EndOfInput,
    Signal,
    InputFailed(io::Error),
    OutputFailed,
    MessageFailed,
}

impl Run {
    pub(super) fn new(producer: Producer, composer: Composer, report: Report) -> Self {
        Self {
            producer,
            composer,
            in_flight: 1,
            pace: None,
            left: u64::MAX,
            stops_on_error: false,
            rejects: None,
            report,
            sent: FuturesUnordered::new(),
            bytes: 0,
            line: 0,
            unsent: VecDeque::new(),
            unsent_because: ("", ""),
            unknown: VecDeque::new(),
            unknown_because: "",
            input_failed: false,
        }
    }

    pub(super) fn in_flight(self, in_flight: usize) -> Self {
        Self { in_flight, ..self }
    }

    pub(super) fn pace(self, pace: Option<Pace>) -> Self {
        Self { pace, ..self }
    }

    /// Limits the number of lines to send.
    pub(super) fn count(self, count: Option<u64>) -> Self {
        Self { left: count.unwrap_or(u64::MAX), ..self }
    }

    pub(super) fn stops_on_error(self, stops_on_error: bool) -> Self {
        Self { stops_on_error, ..self }
    }

    pub(super) fn rejects(self, rejects: Option<Rejects>) -> Self {
        Self { rejects, ..self }
    }

    /// Sends and reports all lines, or those that were read before the run had to stop. Returns the exit
    /// status.
    pub(super) async fn run(mut self, lines: Lines, shutdown: &mut Shutdown, shows_summary: bool) -> u8 {
        self.read(lines, shutdown).await;
        finish(&mut self, shutdown).await;
        self.report.progress(0, true);
        if shows_summary && !self.report.has_failed() {
            self.report.summary();
            shutdown.extend_deadline_for_writing();
            finish(&mut self, shutdown).await;
        }
        let rejected = self.rejects.take().and_then(Rejects::finish);
        if let Some(text) = &rejected {
            print_message(text);
        }
        let failure = self.report.take_failure();
        if let Some((error, unwritten)) = &failure {
            let (lines, unwritten) = (self.line, unwritten.describe("stored"));
            print_message(&format!(
                "the results can't be written: {}; {lines} lines were read from the input; {unwritten}",
                describe(error)
            ));
        }
        if let Some(status) = shutdown.status() {
            return status;
        }
        match failure {
            Some((error, _)) => exit_status::of_output_error(&error),
            None if self.input_failed || rejected.is_some() => EXIT_LOCAL_IO,
            None => self.report.failures().exit_status(),
        }
    }

    /// Reads and sends until the end of the input, a signal, or a failure.
    async fn read(&mut self, mut lines: Lines, shutdown: &mut Shutdown) {
        let mut waiting = Vec::new().into_iter();
        let stop = loop {
            self.report_completed();
            if self.must_stop() {
                break StopReason::MessageFailed;
            }
            // Nothing completes between here and the wait below. So that wait always has something to wait
            // for: a limit of messages in flight is reached, or all lines read are sent, or results have no
            // capacity, or it is too early for the next line, or the turn is over.
            let turn = self.send_waiting(&mut waiting);
            if self.must_stop() {
                break StopReason::MessageFailed;
            }
            if self.left == 0 {
                break StopReason::EndOfInput;
            }
            self.report.flush();
            let has_capacity = self.report.has_capacity();
            let more = waiting.len() == 0;
            tokio::select! {
                biased;
                _ = shutdown.signal() => break StopReason::Signal,
                () = self.report.changed() => if self.report.has_failed() { break StopReason::OutputFailed },
                Some(completed) = self.sent.next(), if has_capacity => self.completed(completed),
                batch = lines.next(), if has_capacity && more => match batch {
                    Some(Ok(batch)) => waiting = batch.into_iter(),
                    Some(Err(error)) => break StopReason::InputFailed(error),
                    None => break StopReason::EndOfInput,
                },
                () = ready(self.pace.as_ref()), if turn == Turn::Early => {}
                () = yield_now(), if turn == Turn::Over => {}
            }
        };
        self.unsent_because = match stop {
            StopReason::EndOfInput => return,
            StopReason::Signal => ("stopped", "the program was stopped before this line was sent"),
            StopReason::OutputFailed => {
                ("stopped", "the results could not be written before this line was sent")
            }
            StopReason::MessageFailed => ("stopped", "a message before this line was not acknowledged"),
            StopReason::InputFailed(error) => {
                self.input_error(&error);
                ("input", "the input could not be read to the end of this line")
            }
        };
        // These lines were read and will not be sent, but are reported, too.
        let rest = lines.take_rest();
        self.unsent = waiting.chain(rest.lines).collect();
        if let Some(error) = rest.error {
            self.input_error(&error);
        }
        if rest.is_incomplete {
            print_message(
                "a read of the input is still in progress; lines that it may take are not reported",
            );
        }
    }

    /// Returns whether a message was not acknowledged, and none is to be sent after that.
    fn must_stop(&self) -> bool {
        self.stops_on_error && self.report.failures().sum() > 0
    }

    /// Sends lines as the limits allow. Returns why it stopped.
    fn send_waiting(&mut self, waiting: &mut vec::IntoIter<Line>) -> Turn {
        let mut sent = 0;
        while self.sent.len() < self.in_flight
            && self.bytes < MAX_BYTES_IN_FLIGHT
            && self.left > 0
            && !self.must_stop()
            && self.report.has_capacity()
            && waiting.len() > 0
        {
            if sent == MAX_TURN {
                return Turn::Over;
            }
            if self.pace.as_mut().is_some_and(|pace| !pace.try_next()) {
                return Turn::Early;
            }
            sent += 1;
            if let Some(line) = waiting.next() {
                self.send(line);
            }
        }
        Turn::Limited
    }

    /// Prints the error immediately, because a signal may still replace the exit status.
    fn input_error(&mut self, error: &io::Error) {
        print_error("the input can't be read", error);
        self.input_failed = true;
    }

    fn send(&mut self, line: Line) {
        self.line += 1;
        self.left -= 1;
        let number = self.line;
        let message = match self.composer.message(number, &line) {
            Ok(message) => message,
            Err((kind, text)) => {
                self.report.failed(number, kind, Outcome::NotSent, &text);
                return self.reject(Some(line));
            }
        };
        if let Line::Whole(line) = &line {
            self.report.tee(line);
        }
        let size = message.payload().len() + MESSAGE_SIZE;
        let producer = self.producer.clone();
        let progress = Progress::Offered(async move { producer.enqueue(message).await }.boxed());
        let kept = self.rejects.is_some().then_some(line);
        let mut sending = Sending { line: number, size, kept, progress };
        // The first poll starts the message's timeout now, not when outcomes are next waited for.
        self.bytes += size;
        match (&mut sending).now_or_never() {
            Some(completed) => self.completed(completed),
            None => self.sent.push(sending),
        }
    }

    /// Keeps a line that was not acknowledged.
    fn reject(&mut self, line: Option<Line>) {
        if let (Some(rejects), Some(line)) = (&mut self.rejects, line) {
            rejects.add(&line);
        }
    }

    /// Reports the outcome of a message that was in flight.
    fn completed(&mut self, completed: Completed) {
        self.bytes -= completed.size;
        self.report.message(completed.line, &completed.result);
        if completed.result.is_err() {
            self.reject(completed.kept);
        }
    }

    /// Reports completed messages as the output has capacity.
    fn report_completed(&mut self) {
        while self.report.has_capacity()
            && let Some(Some(completed)) = self.sent.next().now_or_never()
        {
            self.completed(completed);
        }
        self.report.progress(self.sent.len(), false);
    }
}

impl PendingResults for Run {
    async fn complete(&mut self) {
        loop {
            self.report_completed();
            while self.report.has_capacity()
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
            self.report.flush();
            if !self.report.has_capacity() {
                self.report.changed().await;
            } else if let Some(completed) = self.sent.next().await {
                self.completed(completed);
            } else {
                break;
            }
        }
        self.report.written().await;
    }

    fn stop_waiting(&mut self, is_forced: bool) {
        while let Some(Some(completed)) = self.sent.next().now_or_never() {
            self.completed(completed);
        }
        self.unknown_because = if is_forced {
            "a second signal stopped the program before the outcome of this message was known"
        } else {
            "the program was stopped, and its time limit expired before the outcome of this message was known"
        };
        let sent = mem::take(&mut self.sent);
        self.unknown.extend(sent.into_iter().map(|sending| (sending.line, sending.kept)));
        self.unknown.make_contiguous().sort_unstable_by_key(|(number, _)| *number);
    }

    fn output(&mut self) -> &mut Output {
        self.report.output()
    }

    fn give_up(&mut self, reason: io::Error) {
        self.report.give_up(&reason);
    }
}

/// Waits until it is time for the next message.
async fn ready(pace: Option<&Pace>) {
    if let Some(pace) = pace {
        pace.ready().await;
    }
}
