//! Sending lines, and reporting what became of them.

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
    EXIT_DONE, EXIT_FAILED,
    ending::{Account, finish, status_of},
    lines::{Line, Lines, MAX_LINE},
    output::Output,
    report::Report,
    signals::Stopping,
    stderr::{complain, describe, say},
};

/// How many bytes of lines may be on their way, beside a line that alone has more.
const MAX_BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;

/// What a message on its way takes beside the bytes of its line, about.
const MESSAGE_SIZE: usize = 1024;

/// The outcome of the message in one line of the input.
struct Completed {
    line: u64,
    size: usize,
    result: Result<SendReceipt, SendError>,
}

/// A message whose outcome isn't known yet.
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
    /// How many messages may be on their way.
    in_flight: usize,
    report: Report,
    sent: FuturesUnordered<Sending>,
    /// How much memory the messages of `sent` take.
    bytes: usize,
    /// How many lines have been sent, or reported as not sent.
    line: u64,
    /// How many lines were read that are not going to be sent, and why not.
    unsent: u64,
    unsent_because: (&'static str, &'static str),
    /// Lines that were sent and whose outcome isn't waited for any more, and why not.
    unknown: VecDeque<u64>,
    unknown_because: &'static str,
    input_failed: bool,
}

/// Why no more lines are read.
enum Stop {
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

    /// Sends and reports all lines, or those that were read before there was a reason to stop. Returns the exit status.
    pub(super) async fn run(mut self, lines: Lines, stopping: &mut Stopping) -> u8 {
        self.read(lines, stopping).await;
        finish(&mut self, stopping).await;
        self.report.progress(0, true);
        let failure = self.report.take_failure();
        if let Some((error, unwritten)) = &failure {
            let (lines, unwritten) = (self.line, unwritten.describe("stored"));
            say(&format!(
                "the results can't be written: {}; {lines} lines were taken from the input; {unwritten}",
                describe(error)
            ));
        }
        if let Some(status) = stopping.status() {
            return status;
        }
        match failure {
            Some((error, _)) => status_of(&error),
            None if self.input_failed || !self.report.is_clean() => EXIT_FAILED,
            None => EXIT_DONE,
        }
    }

    /// Reads and sends until there is a reason to stop.
    async fn read(&mut self, mut lines: Lines, stopping: &mut Stopping) {
        let mut waiting = Vec::new().into_iter();
        let stop = loop {
            self.report_completed();
            // From here to the waiting nothing completes, so that there is something to wait for: either as much as
            // may be in flight is, or all that was read has been sent, or there is no room for results.
            while self.sent.len() < self.in_flight
                && self.bytes < MAX_BYTES_IN_FLIGHT
                && self.report.has_room()
                && let Some(line) = waiting.next()
            {
                self.send(line);
            }
            self.report.flush();
            let has_room = self.report.has_room();
            let more = waiting.len() == 0;
            tokio::select! {
                biased;
                _ = stopping.signal() => break Stop::Signal,
                () = self.report.changed() => if self.report.has_failed() { break Stop::OutputFailed },
                Some(completed) = self.sent.next(), if has_room => self.completed(&completed),
                batch = lines.next(), if has_room && more => match batch {
                    Some(Ok(batch)) => waiting = batch.into_iter(),
                    Some(Err(error)) => break Stop::InputFailed(error),
                    None => break Stop::EndOfInput,
                },
            }
        };
        self.unsent_because = match stop {
            Stop::EndOfInput => return,
            Stop::Signal => ("stopped", "the program was told to stop before this line was sent"),
            Stop::OutputFailed => ("stopped", "the results could not be written before this line was sent"),
            Stop::InputFailed(error) => {
                self.input_error(&error);
                ("input", "the input could not be read to the end of this line")
            }
        };
        // Read, but not to be sent any more: these too are accounted for.
        let rest = lines.take_rest();
        self.unsent = waiting.len() as u64 + rest.lines;
        if let Some(error) = rest.error {
            self.input_error(&error);
        }
        if rest.is_incomplete {
            say("a read of the input is still under way, and what it may take is not reported");
        }
    }

    /// Tells of it now: a signal may come, and set the exit status.
    fn input_error(&mut self, error: &io::Error) {
        complain("the input can't be read", error);
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
        // Its time begins now, and not after whatever is done before outcomes are waited for.
        match (&mut sending).now_or_never() {
            Some(completed) => self.report.message(number, &completed.result),
            None => {
                self.bytes += size;
                self.sent.push(sending);
            }
        }
    }

    /// A message that was on its way has its outcome.
    fn completed(&mut self, completed: &Completed) {
        self.bytes -= completed.size;
        self.report.message(completed.line, &completed.result);
    }

    /// Reports what has completed, as there is room for it.
    fn report_completed(&mut self) {
        while self.report.has_room()
            && let Some(Some(completed)) = self.sent.next().now_or_never()
        {
            self.completed(&completed);
        }
        self.report.progress(self.sent.len(), false);
    }
}

impl Account for Run {
    async fn complete(&mut self) {
        loop {
            self.report_completed();
            while self.report.has_room() && self.unsent > 0 {
                self.unsent -= 1;
                self.line += 1;
                let (kind, text) = self.unsent_because;
                self.report.failed(self.line, kind, Outcome::NotSent, text);
            }
            while self.report.has_room()
                && let Some(line) = self.unknown.pop_front()
            {
                self.report.failed(line, "stopped", Outcome::Unknown, self.unknown_because);
            }
            self.report.flush();
            if !self.report.has_room() {
                self.report.changed().await;
            } else if let Some(completed) = self.sent.next().await {
                self.completed(&completed);
            } else {
                break;
            }
        }
        self.report.written().await;
    }

    fn stop_waiting(&mut self, is_urgent: bool) {
        while let Some(Some(completed)) = self.sent.next().now_or_never() {
            self.completed(&completed);
        }
        self.unknown_because = if is_urgent {
            "the program was told twice to stop before the outcome of this message was known"
        } else {
            "the program was told to stop, and its time was over before the outcome of this message was known"
        };
        self.unknown.extend(self.sent.iter().map(|sending| sending.line));
        self.unknown.make_contiguous().sort_unstable();
        self.sent.clear();
    }

    fn output(&mut self) -> &mut Output {
        self.report.output()
    }
}
