//! `metaq bench`: how many messages this machine, this network and these brokers take.

mod figures;
mod window;

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use metaq_producer::{Message, Producer, ProducerConfig, SendError, SendHandle, SendReceipt, Topic};
use metaq_protocol::MAX_READABLE_DATA;

use self::figures::{Figures, Tally};
use crate::{
    EXIT_BROKEN_PIPE, EXIT_DONE, EXIT_FAILED, cluster::Cluster, complain, describe, signals::StopSignals,
};

/// How long connections may take to close at the end; every message has its outcome by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks at the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// What a message takes on a connection besides its payload, at most: its header.
const HEADER: usize = 1024;

/// Sends messages as fast as they are acknowledged, and measures it. THE MESSAGES ARE STORED: use a topic made for this.
///
/// The latency of a message is the time from just before it is sent until the program has its acknowledgement. CPU is the
/// user and system time of this program; the rate counts acknowledged messages. What is sent to warm up isn't measured.
///
/// Exit status: 0 when every message was acknowledged, 1 when any was not. SIGINT and SIGTERM stop the sending; what was
/// measured until then is reported.
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
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
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
    let (topic, payload) = (args.topic, Bytes::from(vec![b'x'; size]));
    let progress = Arc::new(Progress::default());
    let load =
        Load { producer: producer.clone(), topic, payload, in_flight, progress: Arc::clone(&progress) };
    let total = args.warmup.saturating_add(args.messages);
    let watching = tokio::spawn(watch(Arc::clone(&progress), total, signals));
    // A task as those of a service. The runtime's first future would cost it a look at the system's events for each turn.
    let figures = match tokio::spawn(load.run(args.warmup, args.messages)).await {
        Ok(figures) => figures,
        Err(error) => return complain("the sending task ended early", &error),
    };
    watching.abort();
    // Its line is off the terminal then; that it was aborted is no news.
    let _ = watching.await;
    producer.close(CLOSE_TIMEOUT).await;
    report(&figures, size, in_flight, args.json, progress.stopped())
}

/// What the one who sends tells to the one who shows it, and the other way round.
#[derive(Debug, Default)]
struct Progress {
    ended: AtomicU64,
    /// The exit status of a signal that says to stop; 0 as long as there is none.
    stop: AtomicU8,
}

impl Progress {
    fn stopped(&self) -> Option<u8> {
        Some(self.stop.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }
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
    async fn run(self, warmup: u64, messages: u64) -> Figures {
        if warmup > 0 {
            self.send(warmup, &mut Tally::new()).await;
        }
        let mut tally = Tally::new();
        let measured = figures::Measured::start();
        self.send(messages, &mut tally).await;
        measured.end(tally)
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
        self.left = self.left.checked_sub(1).filter(|_| progress.stopped().is_none())?;
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

/// Shows the progress on a terminal, and says to stop when a signal says so; the second one ends the program at once. Runs
/// until it is dropped, and takes its line off the terminal then.
async fn watch(progress: Arc<Progress>, messages: u64, mut signals: StopSignals) {
    let line = io::stderr().is_terminal().then(|| Line);
    let first = tokio::time::Instant::now() + PROGRESS_INTERVAL;
    let mut ticks = tokio::time::interval_at(first, PROGRESS_INTERVAL);
    let (mut before, mut shown) = (0, Instant::now());
    loop {
        tokio::select! {
            status = signals.next() => {
                if progress.stopped().is_some() {
                    std::process::exit(status.into());
                }
                progress.stop.store(status, Ordering::Relaxed);
            }
            _ = ticks.tick(), if line.is_some() => {
                let ended = progress.ended.load(Ordering::Relaxed);
                let rate = (ended - before) as f64 / shown.elapsed().as_secs_f64();
                (before, shown) = (ended, Instant::now());
                // A terminal that is gone can't be told about.
                let _ = write!(io::stderr(), "\r{ended} of {messages} messages, {rate:.0} in a second\x1b[K");
            }
        }
    }
}

/// The line of the progress.
struct Line;

impl Drop for Line {
    fn drop(&mut self) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

/// Prints the figures; returns the exit status.
fn report(figures: &Figures, size: usize, in_flight: usize, json: bool, stopped: Option<u8>) -> u8 {
    let mut output = io::stdout().lock();
    let table = figures.table(size, in_flight);
    let mut print = || {
        output.write_all(table.as_bytes())?;
        if json {
            writeln!(output, "{}", figures.json()?)?;
        }
        output.flush()
    };
    if let Err(error) = print() {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return EXIT_BROKEN_PIPE;
        }
        return complain("the figures can't be written", &error);
    }
    if let Some(error) = figures.first_failure() {
        let failed = format!("{} of {} messages failed, the first", figures.failures(), figures.messages());
        let _ = writeln!(io::stderr(), "metaq: {failed}: {}", describe(error));
    }
    stopped.unwrap_or_else(|| if figures.failures() == 0 { EXIT_DONE } else { EXIT_FAILED })
}
