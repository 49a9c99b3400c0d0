//! `metaq bench`: measures the rate at which brokers acknowledge messages, and the latency.
//!
//! `window` keeps messages in flight, `figures` computes and formats the results.

mod figures;
mod window;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use metaq_producer::{Message, Producer, SendError, SendHandle, SendReceipt, Topic};
use metaq_protocol::MAX_READABLE_DATA;
use tokio::task::{JoinError, JoinHandle};

use self::figures::{Failures, Figures, Tally};
use crate::{
    args::{ConnectionArgs, parse_timeout},
    connect::connect,
    exit_status::{self, EXIT_FAILED, FailureCounts},
    output::Output,
    progress::{PROGRESS_INTERVAL, ProgressLine},
    report::{count_messages, describe_send_error},
    shutdown::{self, PendingResults, Shutdown, StopSignals},
    stderr::{describe, print_error, print_message},
};

/// Upper bound of a message's header on a connection.
const HEADER: usize = 1024;

/// Sends messages as fast as they are acknowledged, and measures the rate. THE MESSAGES ARE STORED: use a
/// dedicated topic.
///
/// The latency of a message is the time from just before it is sent until the program has its
/// acknowledgement. CPU is the user and system time of this program; the rate counts acknowledged messages.
/// Messages of the warm-up are not measured; stderr reports the number of those that failed.
///
/// The status tells of failures of the warm-up, too. SIGINT and SIGTERM stop sending; the figures so far are
/// printed, if they are read within --timeout. A second signal ends the program immediately.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic
    #[arg(long)]
    topic: Topic,
    /// The number of messages to measure
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// The size of each message's payload in bytes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(0..=MAX_READABLE_DATA as u64))]
    size: u64,
    /// The number of unacknowledged messages at any time
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// The number of messages to send first, without measuring them
    #[arg(long, value_name = "W", default_value_t = 0)]
    warmup: u64,
    /// The time limit for each message, retries included
    #[arg(long, default_value = "3s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Prints the figures also as one line of JSON, after the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> u8 {
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let (size, in_flight) = (args.size as usize, args.in_flight as usize);
    // One broker can have at most half of the messages that a producer has in flight.
    let mut settings = match args.connection.settings(&[]) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let config = &mut settings.config;
    config.send_timeout = args.timeout;
    config.max_in_flight = config.max_in_flight.max(2 * in_flight);
    let bytes = (2 * in_flight).saturating_mul(size + HEADER);
    // The limit is a `u32`; if messages are so large that it applies, fewer are in flight than the options
    // ask for.
    config.max_in_flight_bytes = config.max_in_flight_bytes.max(bytes).min(u32::MAX as usize);
    let topics = std::slice::from_ref(&args.topic);
    let producer = match connect(settings, topics, None, |builder| builder, &mut signals).await {
        Ok(producer) => producer,
        Err(status) => return status,
    };
    let mut output = match Output::stdout() {
        Ok(output) => output,
        Err(error) => return print_error("the figures can't be written", &error),
    };
    let (topic, payload) = (args.topic, Bytes::from(vec![b'x'; size]));
    let progress = Arc::new(Progress::default());
    let benchmark =
        Benchmark { producer: producer.clone(), topic, payload, in_flight, progress: Arc::clone(&progress) };
    let total = args.warmup.saturating_add(args.messages);
    let mut shutdown = Shutdown::new(signals, args.timeout);
    // Sends from a spawned task, as a service does: the runtime polls the system's events after each turn of
    // its main future.
    let sending = tokio::spawn(benchmark.run(args.warmup, args.messages));
    let (warmup, figures) = match watch(sending, &progress, total, &mut shutdown).await {
        Some(Ok(figures)) => figures,
        Some(Err(error)) => return print_error("the sending task failed", &error),
        None => std::process::exit(shutdown.status().unwrap_or(EXIT_FAILED).into()),
    };
    let status = report(&mut output, &figures, &warmup, (size, in_flight, args.json), &mut shutdown).await;
    shutdown::close(&producer, &mut shutdown, status).await
}

/// State that the sending task and the task that prints the progress share.
#[derive(Debug, Default)]
struct Progress {
    completed: AtomicU64,
    /// Set when no more messages may be sent.
    is_stopped: AtomicBool,
}

/// The messages to send, and the producer that sends them.
struct Benchmark {
    producer: Producer,
    topic: Topic,
    payload: Bytes,
    in_flight: usize,
    progress: Arc<Progress>,
}

impl Benchmark {
    /// Sends all messages. Returns the failures of the warm-up, and the figures.
    async fn run(self, warmup: u64, messages: u64) -> (Failures, Figures) {
        let failures = if warmup > 0 {
            let mut tally = Tally::new();
            self.send(warmup, &mut tally).await;
            tally.into_failures()
        } else {
            Failures::default()
        };
        let mut tally = Tally::new();
        let measured = figures::Measurement::start();
        self.send(messages, &mut tally).await;
        (failures, measured.end(tally))
    }

    /// Sends `messages` messages and keeps the window of messages in flight full.
    async fn send(&self, messages: u64, tally: &mut Tally) {
        let completed = self.progress.completed.load(Ordering::Relaxed);
        let mut workload = SendWorkload { benchmark: self, left: messages, completed, tally };
        window::drive(self.in_flight, &mut workload).await;
    }
}

/// One run of sending: the number of messages left, and the outcomes of the others.
struct SendWorkload<'a> {
    benchmark: &'a Benchmark,
    left: u64,
    completed: u64,
    tally: &'a mut Tally,
}

type Outcome = Result<SendReceipt, SendError>;

impl window::Workload for SendWorkload<'_> {
    type Operation = SendHandle;

    async fn start(&mut self) -> Option<Result<SendHandle, Outcome>> {
        let Benchmark { producer, topic, payload, progress, .. } = self.benchmark;
        self.left = self.left.checked_sub(1).filter(|_| !progress.is_stopped.load(Ordering::Relaxed))?;
        // Builds each message, so that its checksum is measured, too, as an application would pay for it.
        let message = Message::new(topic.clone(), payload.clone());
        Some(producer.enqueue(message).await.map_err(Err))
    }

    fn completed(&mut self, outcome: Outcome) -> bool {
        self.completed += 1;
        self.benchmark.progress.completed.store(self.completed, Ordering::Relaxed);
        outcome.map_err(|error| self.tally.failed(error)).is_ok()
    }

    fn record_latency(&mut self, latency: Duration) {
        self.tally.acknowledged(latency);
    }
}

/// Waits for the sending task, and prints the progress on a terminal meanwhile. Stops the task when a signal
/// arrives; returns `None` after the second one.
async fn watch<T>(
    mut sending: JoinHandle<T>,
    progress: &Progress,
    messages: u64,
    shutdown: &mut Shutdown,
) -> Option<Result<T, JoinError>> {
    let line =
        ProgressLine::new(Some(messages), "{human_pos} of {human_len} messages, {per_sec}, {eta} left");
    let first = tokio::time::Instant::now() + PROGRESS_INTERVAL;
    let mut ticks = tokio::time::interval_at(first, PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            _ = shutdown.signal() => {
                if shutdown.is_forced() {
                    return None;
                }
                progress.is_stopped.store(true, Ordering::Relaxed);
            }
            sent = &mut sending => return Some(sent),
            _ = ticks.tick(), if line.is_some() => {
                if let Some(line) = &line {
                    line.show(|bar| bar.set_position(progress.completed.load(Ordering::Relaxed)));
                }
            }
        }
    }
}

/// The figures that are being written to stdout.
struct FiguresOutput<'a>(&'a mut Output);

impl PendingResults for FiguresOutput<'_> {
    async fn complete(&mut self) {
        self.0.written().await;
    }

    fn stop_waiting(&mut self, _: bool) {}

    fn output(&mut self) -> &mut Output {
        self.0
    }
}

/// Prints the figures; returns the exit status.
async fn report(
    output: &mut Output,
    figures: &Figures,
    warmup: &Failures,
    (size, in_flight, json): (usize, usize, bool),
    shutdown: &mut Shutdown,
) -> u8 {
    let text = output.text();
    text.extend_from_slice(figures.table(size, in_flight).as_bytes());
    if json {
        match figures.json() {
            Ok(line) => text.extend_from_slice(format!("{line}\n").as_bytes()),
            Err(error) => return print_error("the figures can't be written", &error),
        }
    }
    shutdown.extend_deadline_for_writing();
    shutdown::finish(&mut FiguresOutput(output), shutdown).await;
    let is_written = output.has_failed() && output.take_unwritten().is_empty();
    // Writing may complete just when it is given up.
    let failure = output.take_failure();
    let failure = failure.filter(|error| error.kind() != io::ErrorKind::TimedOut || !is_written);
    // If the reader of stdout is gone, no more messages are printed.
    let is_unread = failure.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if let Some(error) = failure.as_ref().filter(|_| !is_unread) {
        let (failed, all) = (figures.failures().count, figures.messages());
        let acknowledged = all - failed;
        print_message(&format!(
            "the figures can't be written: {}; {acknowledged} of {all} messages were acknowledged",
            describe(error)
        ));
    }
    if !is_unread {
        let measured = figures.failures();
        for (failures, summary) in [
            (warmup, format!("{} failed during the warm-up", count_messages(warmup.count))),
            (measured, format!("{} of {} failed", measured.count, count_messages(figures.messages()))),
        ] {
            if let Some(error) = &failures.first {
                print_message(&format!("{summary}, the first: {}", describe_send_error(error)));
            }
        }
    }
    shutdown.status().unwrap_or_else(|| match failure {
        Some(error) => exit_status::of_output_error(&error),
        None => FailureCounts::sum_of([warmup.outcomes, figures.failures().outcomes]).exit_status(),
    })
}
