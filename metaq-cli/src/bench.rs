//! `metaq bench`: how many messages this machine, this network and these brokers take.

mod figures;
mod window;

use std::{
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use metaq_producer::{Message, Producer, ProducerConfig, SendError, SendHandle, SendReceipt, Topic};
use metaq_protocol::MAX_READABLE_DATA;
use tokio::task::{JoinError, JoinHandle};

use self::figures::{Failures, Figures, Tally};
use crate::{
    EXIT_BROKEN_PIPE, EXIT_DONE, EXIT_FAILED,
    cluster::Cluster,
    duration::parse_timeout,
    ending::{self, Account},
    output::Output,
    signals::{StopSignals, Stopping},
    stderr::{complain, describe, say, show},
};

/// Between two looks at the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// What a message takes on a connection besides its payload, at most: its header.
const HEADER: usize = 1024;

/// Sends messages as fast as they are acknowledged, and measures it. THE MESSAGES ARE STORED: use a topic made for this.
///
/// The latency of a message is the time from just before it is sent until the program has its acknowledgement. CPU is the
/// user and system time of this program; the rate counts acknowledged messages. What is sent to warm up isn't measured;
/// stderr tells how much of it failed.
///
/// Exit status: 0 when every message was acknowledged, 1 when any was not, one to warm up included. SIGINT and SIGTERM stop
/// the sending; what was measured until then is reported, if it is read within --timeout. The second signal ends the
/// program at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the brokers are found: zk://HOST:PORT,HOST:PORT[/ROOT] (ROOT is /meta when left out),
    /// meta://HOST:PORT for one broker without a registry, or file:PATH for a TOML or JSON file of brokers
    #[arg(long)]
    cluster: Cluster,
    /// The topic
    #[arg(long)]
    topic: Topic,
    /// How many messages are measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// The size of each message's payload in bytes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(0..=MAX_READABLE_DATA as u64))]
    size: u64,
    /// How many messages are sent and not acknowledged at any time
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// How many messages are sent first, without being measured
    #[arg(long, value_name = "W", default_value_t = 0)]
    warmup: u64,
    /// How long a message may take in all
    #[arg(long, default_value = "3s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Print the figures as one line of JSON, too, as the last line
    #[arg(long)]
    json: bool,
}

/// A runtime with one thread: what is sent, and the connections that send it, don't have to be handed from one thread to
/// another.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

pub(crate) async fn run(args: Args) -> u8 {
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return complain("signals can't be handled", &error),
    };
    let (size, in_flight) = (args.size as usize, args.in_flight as usize);
    // One broker can have half of what a producer has in flight.
    let mut config = ProducerConfig::default();
    config.send_timeout = args.timeout;
    config.max_in_flight = config.max_in_flight.max(2 * in_flight);
    let bytes = (2 * in_flight).saturating_mul(size + HEADER);
    // More can't be counted; with messages that large, fewer are in flight than was asked for.
    config.max_in_flight_bytes = config.max_in_flight_bytes.max(bytes).min(u32::MAX as usize);
    let builder = Producer::builder().config(config);
    let producer = match args.cluster.tell(builder).build() {
        Ok(producer) => producer,
        Err(error) => return complain("the producer can't be made", &error),
    };
    let published = tokio::select! {
        published = producer.publish_topic(&args.topic) => published,
        status = signals.next() => return status,
    };
    if let Err(error) = published {
        return complain("can't send", &error);
    }
    let mut output = match Output::stdout() {
        Ok(output) => output,
        Err(error) => return complain("the figures can't be written", &error),
    };
    let (topic, payload) = (args.topic, Bytes::from(vec![b'x'; size]));
    let progress = Arc::new(Progress::default());
    let load =
        Load { producer: producer.clone(), topic, payload, in_flight, progress: Arc::clone(&progress) };
    let total = args.warmup.saturating_add(args.messages);
    let mut stopping = Stopping::new(signals, args.timeout);
    // A task as those of a service. The runtime's first future would cost it a look at the system's events for each turn.
    let sending = tokio::spawn(load.run(args.warmup, args.messages));
    let (warmup, figures) = match watch(sending, &progress, total, &mut stopping).await {
        Some(Ok(figures)) => figures,
        Some(Err(error)) => return complain("the sending task ended early", &error),
        None => std::process::exit(stopping.status().unwrap_or(EXIT_FAILED).into()),
    };
    let status = report(&mut output, &figures, &warmup, (size, in_flight, args.json), &mut stopping).await;
    ending::close(&producer, &mut stopping, status).await
}

/// What the one who sends tells to the one who shows it, and the other way round.
#[derive(Debug, Default)]
struct Progress {
    ended: AtomicU64,
    /// No more are to be sent.
    is_stopped: AtomicBool,
}

/// What is sent.
struct Load {
    producer: Producer,
    topic: Topic,
    payload: Bytes,
    in_flight: usize,
    progress: Arc<Progress>,
}

impl Load {
    /// Returns the failures while it warmed up, and the figures.
    async fn run(self, warmup: u64, messages: u64) -> (Failures, Figures) {
        let failures = if warmup > 0 {
            let mut tally = Tally::new();
            self.send(warmup, &mut tally).await;
            tally.into_failures()
        } else {
            Failures::default()
        };
        let mut tally = Tally::new();
        let measured = figures::Measured::start();
        self.send(messages, &mut tally).await;
        (failures, measured.end(tally))
    }

    /// Sends so many messages, with as many in flight as there may be.
    async fn send(&self, messages: u64, tally: &mut Tally) {
        let ended = self.progress.ended.load(Ordering::Relaxed);
        window::drive(self.in_flight, &mut Sending { load: self, left: messages, ended, tally }).await;
    }
}

/// Messages that are being sent: how many are left, and what became of the others.
struct Sending<'a> {
    load: &'a Load,
    left: u64,
    ended: u64,
    tally: &'a mut Tally,
}

type Outcome = Result<SendReceipt, SendError>;

impl window::Load for Sending<'_> {
    type Operation = SendHandle;

    async fn start(&mut self) -> Option<Result<SendHandle, Outcome>> {
        let Load { producer, topic, payload, progress, .. } = self.load;
        self.left = self.left.checked_sub(1).filter(|_| !progress.is_stopped.load(Ordering::Relaxed))?;
        // Made anew, so that its checksum is a part of what is measured, as it is of what an application does.
        let message = Message::new(topic.clone(), payload.clone());
        Some(producer.enqueue(message).await.map_err(Err))
    }

    fn ended(&mut self, outcome: Outcome) -> bool {
        self.ended += 1;
        self.load.progress.ended.store(self.ended, Ordering::Relaxed);
        outcome.map_err(|error| self.tally.failed(error)).is_ok()
    }

    fn took(&mut self, latency: Duration) {
        self.tally.acknowledged(latency);
    }
}

/// Waits for the one who sends. Shows the progress on a terminal meanwhile, and says to stop when a signal comes; `None` when
/// the second one has.
async fn watch<T>(
    mut sending: JoinHandle<T>,
    progress: &Progress,
    messages: u64,
    stopping: &mut Stopping,
) -> Option<Result<T, JoinError>> {
    let line = io::stderr().is_terminal().then(|| Line);
    let first = tokio::time::Instant::now() + PROGRESS_INTERVAL;
    let mut ticks = tokio::time::interval_at(first, PROGRESS_INTERVAL);
    let (mut before, mut shown) = (0, Instant::now());
    loop {
        tokio::select! {
            _ = stopping.signal() => {
                if stopping.is_urgent() {
                    return None;
                }
                progress.is_stopped.store(true, Ordering::Relaxed);
            }
            sent = &mut sending => return Some(sent),
            _ = ticks.tick(), if line.is_some() => {
                let ended = progress.ended.load(Ordering::Relaxed);
                let rate = (ended - before) as f64 / shown.elapsed().as_secs_f64();
                (before, shown) = (ended, Instant::now());
                show(&format!("\r{ended} of {messages} messages, {rate:.0} in a second\x1b[K"));
            }
        }
    }
}

/// The line of the progress, which is taken off the terminal in the end.
struct Line;

impl Drop for Line {
    fn drop(&mut self) {
        show("\r\x1b[K");
    }
}

/// The figures on their way to stdout.
struct Printing<'a>(&'a mut Output);

impl Account for Printing<'_> {
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
    stopping: &mut Stopping,
) -> u8 {
    let text = output.text();
    text.extend_from_slice(figures.table(size, in_flight).as_bytes());
    if json {
        match figures.json() {
            Ok(line) => text.extend_from_slice(format!("{line}\n").as_bytes()),
            Err(error) => return complain("the figures can't be written", &error),
        }
    }
    stopping.leave_time_to_write();
    ending::finish(&mut Printing(output), stopping).await;
    let is_written = output.has_failed() && output.take_unwritten().is_empty();
    // Writing may come to its end just when it is given up.
    let failure = output.take_failure();
    let failure = failure.filter(|error| error.kind() != io::ErrorKind::TimedOut || !is_written);
    // Whoever has gone wants to know nothing more.
    let is_unread = failure.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if let Some(error) = failure.as_ref().filter(|_| !is_unread) {
        let (failed, all) = (figures.failures().count, figures.messages());
        let acknowledged = all - failed;
        say(&format!(
            "the figures can't be written: {}; {acknowledged} of {all} messages were acknowledged",
            describe(error)
        ));
    }
    if !is_unread {
        for (failures, messages) in [
            (warmup, "messages to warm up".to_owned()),
            (figures.failures(), format!("of {} messages", figures.messages())),
        ] {
            if let Some(error) = &failures.first {
                say(&format!("{} {messages} failed, the first: {}", failures.count, describe(error)));
            }
        }
    }
    let all_is_well = failure.is_none() && warmup.count + figures.failures().count == 0;
    stopping.status().unwrap_or(match all_is_well {
        _ if is_unread => EXIT_BROKEN_PIPE,
        true => EXIT_DONE,
        false => EXIT_FAILED,
    })
}
