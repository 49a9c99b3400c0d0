//! One run of `metaq produce`: sends lines and reports their outcomes.
//!
//! `rest` is what is left when no more lines are read.

mod rest;

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    io,
    task::Poll,
    vec,
};

use metaq_producer::Outcome;
use tokio::task::yield_now;

use super::{
    compose::{Composer, checked},
    in_flight::{Completed, InFlight, Sent},
    pace::Pace,
    rejects::{Rejects, UNFIT},
    sending::{HandedOver, Sender, Stored},
    spooled::SpoolRun,
};
use crate::{
    exit_status::{self, EXIT_LOCAL_IO},
    input::{Line, Lines},
    report::{Replayed, Report, WriteFailure, count_messages},
    shutdown::{Shutdown, finish},
    stderr::{describe, print_error, print_message},
};

/// Limit on the memory of messages in flight. A single larger line is sent alone.
const MAX_BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;

/// Approximate memory of a message in flight besides its line.
const MESSAGE_SIZE: usize = 1024;

/// The number of lines that are sent before the connections are served, by the same thread: the time of the
/// first must not run out while the last are offered.
const MAX_TURN: usize = 256;

/// The kind and the text of the error of lines that are not sent since one before them has failed.
const AFTER_A_FAILURE: (&str, &str) = ("stopped", "a message before this line was not acknowledged");

/// One run of the command.
pub(super) struct Run {
    sender: Sender,
    /// The spool that they are sent through, if they are.
    pub(super) spool: Option<SpoolRun>,
    composer: Composer,
    /// Limit on the number of messages in flight.
    in_flight: usize,
    pace: Option<Pace>,
    /// The number of lines that may still be sent.
    left: u64,
    stops_on_error: bool,
    rejects: Option<Rejects>,
    pub(super) report: Report,
    sent: InFlight,
    /// The memory of the messages in `sent`.
    bytes: usize,
    /// The number of lines that were sent, or reported as not sent.
    line: u64,
    /// Lines that were read before a signal, and will be spooled.
    to_spool: VecDeque<Line>,
    /// Lines that were read and will not be sent.
    unsent: VecDeque<Line>,
    /// The kind and the text of their error.
    unsent_because: (&'static str, &'static str),
    /// Lines that were sent and whose outcome is no longer waited for.
    unknown: VecDeque<(u64, Option<Line>)>,
    /// The text of their error.
    unknown_because: &'static str,
    input_failed: bool,
    /// The disk of the spool has failed.
    spool_failed: bool,
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
    pub(super) fn new(sender: Sender, composer: Composer, report: Report) -> Self {
        Self {
            sender,
            spool: None,
            composer,
            in_flight: 1,
            pace: None,
            left: u64::MAX,
            stops_on_error: false,
            rejects: None,
            report,
            sent: InFlight::default(),
            bytes: 0,
            line: 0,
            to_spool: VecDeque::new(),
            unsent: VecDeque::new(),
            unsent_because: ("", ""),
            unknown: VecDeque::new(),
            unknown_because: "",
            input_failed: false,
            spool_failed: false,
        }
    }

    /// Reports what becomes of the messages of a spool, and closes it at the end.
    pub(super) fn spool(self, spool: Option<SpoolRun>) -> Self {
        Self { spool, ..self }
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
        self.complete_or_stop(shutdown).await;
        finish(&mut self, shutdown).await;
        if self.spool.is_some() {
            self.end_spool(shutdown).await;
            finish(&mut self, shutdown).await;
        }
        if shows_summary {
            self.report.clear_progress();
        } else {
            self.report.progress(0, true);
        }
        let account = self.spool.as_ref().map(SpoolRun::account);
        if shows_summary && !self.report.has_failed() {
            self.report.summary(account.as_deref());
            shutdown.extend_deadline_for_writing();
            finish(&mut self, shutdown).await;
        } else if let Some(spool) = &self.spool {
            spool.print_left();
        }
        let rejected = self.rejects.take().and_then(Rejects::finish);
        if let Some(missing) = &rejected {
            print_message(&missing.text);
        }
        let not_teed = self.report.not_teed();
        if not_teed > 0 {
            print_message(&format!("stdout lacks {}: {UNFIT}", count_messages(not_teed)));
        }
        let failure = self.report.take_failure();
        if let Some(WriteFailure { what, error, unwritten }) = &failure {
            let (lines, error) = (self.line, describe(error));
            let has_lines = self.report.has_lines();
            let rest = if has_lines {
                unwritten.describe("stored")
            } else {
                self.report.account(self.spool.is_some())
            };
            print_message(&format!(
                "{what} can't be written: {error}; {lines} lines were read from the input; {rest}"
            ));
        }
        if let Some(status) = shutdown.status() {
            return status;
        }
        match failure {
            Some(WriteFailure { error, .. }) => exit_status::of_output_error(&error),
            None if self.input_failed || self.spool_failed || not_teed > 0 => EXIT_LOCAL_IO,
            None if rejected.is_some_and(|missing| missing.is_failure) => EXIT_LOCAL_IO,
            None => self.report.failures().exit_status(),
        }
    }

    /// Reads and sends until the end of the input, a signal, or a failure.
    async fn read(&mut self, mut lines: Lines, shutdown: &mut Shutdown) {
        let mut waiting = Vec::new().into_iter();
        let stop = loop {
            self.report_completed().await;
            if self.must_stop() {
                break StopReason::MessageFailed;
            }
            if self.report.has_failed() {
                break StopReason::OutputFailed;
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
            if turn == Turn::Over {
                tokio::select! {
                    biased;
                    _ = shutdown.signal() => break StopReason::Signal,
                    () = yield_now() => continue,
                }
            }
            let has_capacity = self.report.has_capacity();
            let more = waiting.len() == 0 && self.may_send();
            tokio::select! {
                biased;
                _ = shutdown.signal() => break StopReason::Signal,
                Some(completed) = self.sent.next(), if has_capacity => self.completed(completed),
                replayed = next_replayed(&mut self.spool), if has_capacity => self.report.replayed(&replayed),
                batch = lines.next(), if more => match batch {
                    Some(Ok(batch)) => waiting = batch.into_iter(),
                    Some(Err(error)) => break StopReason::InputFailed(error),
                    None => break StopReason::EndOfInput,
                },
                () = ready(self.pace.as_ref()), if turn == Turn::Early => {}
                // Last, as they hand over to the threads that write, which few results should not wake.
                () = changed(self.rejects.as_mut()) => {}
                () = self.report.changed_or_due() => {}
            }
        };
        let is_signal = matches!(stop, StopReason::Signal);
        self.unsent_because = match stop {
            StopReason::EndOfInput => return,
            StopReason::Signal => ("stopped", "the program was stopped before this line was sent"),
            StopReason::OutputFailed => {
                ("stopped", "the output could not be written before this line was sent")
            }
            StopReason::MessageFailed => AFTER_A_FAILURE,
            StopReason::InputFailed(error) => {
                self.input_error(&error);
                ("input", "the input could not be read to the end of this line")
            }
        };
        // These lines were read and will not be sent, but are reported, too, as far as the limit goes.
        let mut rest = lines.take_rest();
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        match &self.spool {
            Some(spool) if is_signal => {
                // The last line may not be all of a line.
                let cut = if rest.has_cut_line { rest.lines.pop() } else { None };
                self.to_spool = waiting.chain(rest.lines).take(left).collect();
                self.unsent = cut.into_iter().take(left - self.to_spool.len()).collect();
                spool.stop_sending();
            }
            _ => self.unsent = waiting.chain(rest.lines).take(left).collect(),
        }
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

    /// Returns whether the outputs have capacity for what sending adds to them.
    fn may_send(&mut self) -> bool {
        self.report.has_capacity()
            && self.report.has_tee_capacity()
            && self.rejects.as_mut().is_none_or(Rejects::has_capacity)
    }

    /// Hands what was added to the outputs to the threads that write.
    pub(super) fn flush(&mut self) {
        self.report.flush();
        if let Some(rejects) = &mut self.rejects {
            rejects.flush();
        }
    }

    /// Sends lines as the limits allow. Returns why it stopped.
    fn send_waiting(&mut self, waiting: &mut vec::IntoIter<Line>) -> Turn {
        let mut sent = 0;
        while self.sent.len() < self.in_flight
            && self.bytes < MAX_BYTES_IN_FLIGHT
            && self.left > 0
            && !self.must_stop()
            && self.may_send()
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
        let kept = self.rejects.is_some().then(|| line.clone());
        let to_tee = self.report.has_tee().then(|| line.clone());
        let message = self.composer.message(number, line).and_then(|message| match &self.spool {
            // The producer would say so when it is replayed.
            Some(spool) => checked(message, spool.max_size),
            None => Ok(message),
        });
        let message = match message {
            Ok(message) => message,
            Err((kind, text)) => {
                self.report.failed(number, kind, Outcome::NotSent, &text);
                return self.reject(kept);
            }
        };
        if let Some(Line::Whole(line)) = to_tee {
            self.report.tee(&line);
        }
        let size = message.payload().len() + MESSAGE_SIZE;
        self.bytes += size;
        let sent = Sent { line: number, size, kept };
        // Its timeout begins now, not when outcomes are next waited for.
        match self.sender.hand_over(message) {
            HandedOver::Accepted(handle) => self.sent.accepted(sent, handle),
            HandedOver::Waiting(offered) => self.sent.offer(sent, offered),
            HandedOver::Failed(error) => self.completed(Completed { sent, result: Err(error) }),
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
        let Completed { sent: Sent { line, size, kept }, result } = completed;
        self.bytes -= size;
        match result {
            Ok(Stored::Acknowledged(receipt)) => self.report.acknowledged(line, &receipt),
            Ok(Stored::Spooled(id)) => self.report.spooled(line, id),
            Err(error) => {
                self.report.failed(line, error.kind(), error.outcome(), &error.describe());
                self.spool_failed |= error.is_of_disk();
                self.reject(kept);
            }
        }
    }

    /// Reports completed messages as the output has capacity. Waits for nothing.
    async fn report_completed(&mut self) {
        poll_fn(|context| {
            while self.report.has_capacity()
                && let Poll::Ready(Some(completed)) = self.sent.poll_next(context)
            {
                self.completed(completed);
            }
            Poll::Ready(())
        })
        .await;
        if let Some(spool) = &mut self.spool {
            spool.open.report(&mut self.report);
        }
        self.report.progress(self.sent.len(), false);
    }
}

/// Waits until the file of rejects may have capacity again; forever if there is none, or it can't be written.
async fn changed(rejects: Option<&mut Rejects>) {
    match rejects {
        Some(rejects) => rejects.changed().await,
        None => pending().await,
    }
}

/// Waits until it is time for the next message.
async fn ready(pace: Option<&Pace>) {
    if let Some(pace) = pace {
        pace.ready().await;
    }
}

/// Waits for what becomes of the next spooled message; forever without a spool.
async fn next_replayed(spool: &mut Option<SpoolRun>) -> Replayed {
    match spool {
        Some(spool) => spool.open.next().await,
        None => pending().await,
    }
}
