//! One run of `metaq produce`: sends lines and reports their outcomes.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metaq_producer::{Message, Outcome, Producer, SendError, SendReceipt, Topic};

use crate::{
    exit_status::{self, EXIT_LOCAL_IO},
    input::{Line, Lines, MAX_LINE},
    output::Output,
    report::Report,
    shutdown::{PendingResults, Shutdown, finish},
    stderr::{describe, print_error, print_message},
};

/// Limit on the memory of messages in flight. A single larger line is sent alone.
const MAX_BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;

/// Approximate memory of a message in flight besides its line.
const MESSAGE_SIZE: usize = 1024;

/// The outcome of the message of one line.
struct Completed {
    line: u64,
    size: usize,
    result: Result<SendReceipt, SendError>,
}

/// A message whose outcome is not known yet.
struct Sending {
    line: u64,
    size: usize,
    result: BoxFuture<'static, Result<SendReceipt, SendError>>,
}

impl Future for Sending {
    type Output = Completed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed> {
        let (line, size) = (self.line, self.size);
        self.result.as_mut().poll(context).map(|result| Completed { line, size, result })
    }
}

/// One run of the command.
pub(super) struct Run {
    producer: Producer,
    topics: Vec<Topic>,
    attribute: Option<Arc<str>>,
    /// Limit on the number of messages in flight.
    in_flight: usize,
    report: Report,
    sent: FuturesUnordered<Sending>,
    /// The memory of the messages in `sent`.
    bytes: usize,
    /// The number of lines that were sent, or reported as not sent.
    line: u64,
    /// The number of lines that were read and will not be sent.
    unsent: u64,
    /// The kind and the text of their error.
    unsent_because: (&'static str, &'static str),
    /// Lines that were sent and whose outcome is no longer waited for.
    unknown: VecDeque<u64>,
    /// The text of their error.
    unknown_because: &'static str,
    input_failed: bool,
}

/// The reason to read no more lines.
enum StopReason {
    EndOfInput,
    Signal,
    InputFailed(io::Error),
    OutputFailed,
}

impl Run {
    pub(super) fn new(
        producer: Producer,
        topics: Vec<Topic>,
        attribute: Option<Arc<str>>,
        in_flight: usize,
        report: Report,
    ) -> Self {
        Self {
            producer,
            topics,
            attribute,
            in_flight,
            report,
            sent: FuturesUnordered::new(),
            bytes: 0,
            line: 0,
            unsent: 0,
            unsent_because: ("", ""),
            unknown: VecDeque::new(),
            unknown_because: "",
            input_failed: false,
        }
    }

    /// Sends and reports all lines, or those that were read before the run had to stop. Returns the exit
    /// status.
    pub(super) async fn run(mut self, lines: Lines, shutdown: &mut Shutdown) -> u8 {
        self.read(lines, shutdown).await;
        finish(&mut self, shutdown).await;
        self.report.progress(0, true);
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
            None if self.input_failed => EXIT_LOCAL_IO,
            None => self.report.failures().exit_status(),
        }
    }

    /// Reads and sends until the end of the input, a signal, or a failure.
    async fn read(&mut self, mut lines: Lines, shutdown: &mut Shutdown) {
        let mut waiting = Vec::new().into_iter();
        let stop = loop {
            self.report_completed();
            // Nothing completes between here and the wait below. So that wait always has something to wait
            // for: a limit of messages in flight is reached, or all lines read are sent, or results have no
            // capacity.
            while self.sent.len() < self.in_flight
                && self.bytes < MAX_BYTES_IN_FLIGHT
                && self.report.has_capacity()
                && let Some(line) = waiting.next()
            {
                self.send(line);
            }
            self.report.flush();
            let has_capacity = self.report.has_capacity();
            let more = waiting.len() == 0;
            tokio::select! {
                biased;
                _ = shutdown.signal() => break StopReason::Signal,
                () = self.report.changed() => if self.report.has_failed() { break StopReason::OutputFailed },
                Some(completed) = self.sent.next(), if has_capacity => self.completed(&completed),
                batch = lines.next(), if has_capacity && more => match batch {
                    Some(Ok(batch)) => waiting = batch.into_iter(),
                    Some(Err(error)) => break StopReason::InputFailed(error),
                    None => break StopReason::EndOfInput,
                },
            }
        };
        self.unsent_because = match stop {
            StopReason::EndOfInput => return,
            StopReason::Signal => ("stopped", "the program was stopped before this line was sent"),
            StopReason::OutputFailed => {
                ("stopped", "the results could not be written before this line was sent")
            }
            StopReason::InputFailed(error) => {
                self.input_error(&error);
                ("input", "the input could not be read to the end of this line")
            }
        };
        // These lines were read and will not be sent, but are reported, too.
        let rest = lines.take_rest();
        self.unsent = waiting.len() as u64 + rest.lines;
        if let Some(error) = rest.error {
            self.input_error(&error);
        }
        if rest.is_incomplete {
            print_message(
                "a read of the input is still in progress; lines that it may take are not reported",
            );
        }
    }

    /// Prints the error immediately, because a signal may still replace the exit status.
    fn input_error(&mut self, error: &io::Error) {
        print_error("the input can't be read", error);
        self.input_failed = true;
    }

    fn send(&mut self, line: Line) {
        self.line += 1;
        let number = self.line;
        let payload: Bytes = match line {
            Line::Whole(payload) => payload,
            Line::TooLong => {
                let text = format!("the line is longer than {MAX_LINE} bytes, which no consumer could fetch");
                return self.report.failed(number, "too-large", Outcome::NotSent, &text);
            }
        };
        let size = payload.len() + MESSAGE_SIZE;
        let topic = &self.topics[((number - 1) % self.topics.len() as u64) as usize];
        let mut message = Message::new(topic.clone(), payload);
        if let Some(attribute) = &self.attribute {
            message = message.with_attribute(Arc::clone(attribute));
        }
        let producer = self.producer.clone();
        let result = async move { producer.send(message).await }.boxed();
        let mut sending = Sending { line: number, size, result };
        // The first poll starts the message's timeout now, not when outcomes are next waited for.
        match (&mut sending).now_or_never() {
            Some(completed) => self.report.message(number, &completed.result),
            None => {
                self.bytes += size;
                self.sent.push(sending);
            }
        }
    }

    /// Reports the outcome of a message that was in flight.
    fn completed(&mut self, completed: &Completed) {
        self.bytes -= completed.size;
        self.report.message(completed.line, &completed.result);
    }

    /// Reports completed messages as the output has capacity.
    fn report_completed(&mut self) {
        while self.report.has_capacity()
            && let Some(Some(completed)) = self.sent.next().now_or_never()
        {
            self.completed(&completed);
        }
        self.report.progress(self.sent.len(), false);
    }
}

impl PendingResults for Run {
    async fn complete(&mut self) {
        loop {
            self.report_completed();
            while self.report.has_capacity() && self.unsent > 0 {
                self.unsent -= 1;
                self.line += 1;
                let (kind, text) = self.unsent_because;
                self.report.failed(self.line, kind, Outcome::NotSent, text);
            }
            while self.report.has_capacity()
                && let Some(line) = self.unknown.pop_front()
            {
                self.report.failed(line, "stopped", Outcome::Unknown, self.unknown_because);
            }
            self.report.flush();
            if !self.report.has_capacity() {
                self.report.changed().await;
            } else if let Some(completed) = self.sent.next().await {
                self.completed(&completed);
            } else {
                break;
            }
        }
        self.report.written().await;
    }

    fn stop_waiting(&mut self, is_forced: bool) {
        while let Some(Some(completed)) = self.sent.next().now_or_never() {
            self.completed(&completed);
        }
        self.unknown_because = if is_forced {
            "a second signal stopped the program before the outcome of this message was known"
        } else {
            "the program was stopped, and its time limit expired before the outcome of this message was known"
        };
        self.unknown.extend(self.sent.iter().map(|sending| sending.line));
        self.unknown.make_contiguous().sort_unstable();
        self.sent.clear();
    }

    fn output(&mut self) -> &mut Output {
        self.report.output()
    }
}
