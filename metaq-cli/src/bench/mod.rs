//! `metaq bench`: measures the rate at which brokers acknowledge messages, and the latency.
//!
//! `closed_loop` sends as fast as messages are acknowledged, by the `window` that keeps them in flight, and
//! `open_loop` at a rate. `figures` computes and formats the results, with `sampling`, which finds what
//! limited the rate, and `timeline`. `compare`, `hdr` and `plot` show them in other forms; `report` writes
//! them, and `files` those that have files of their own.

mod args;
mod closed_loop;
mod compare;
mod figures;
mod files;
mod hdr;
mod open_loop;
mod plot;
mod report;
mod sampling;
mod timeline;
mod window;

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use metaq_producer::{BrokerAddr, Message, Producer, Topic};
use tokio::{
    task::{JoinError, JoinHandle},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

pub(crate) use self::args::Args;
use self::{
    figures::{Failures, Figures, Run, Tally},
    files::Files,
    report::report,
    sampling::{SAMPLE_INTERVAL, Samples, has_unsent_bytes, round_trip},
};
use crate::{
    connect::connect,
    display::OutputForm,
    exit_status::{EXIT_FAILED, EXIT_USAGE},
    output::Output,
    progress::{PROGRESS_INTERVAL, ProgressLine},
    settings::{Flag, Origin, Settings},
    shutdown::{self, Shutdown, StopSignals},
    stderr::{print_error, print_message},
};

/// Upper bound of a message's header on a connection.
const HEADER: usize = 1024;

pub(crate) async fn run(args: Args) -> u8 {
    let unusable = |context: &str, error: &io::Error| {
        print_error(context, error);
        EXIT_USAGE
    };
    let payloads = match args.payloads() {
        Ok(payloads) => payloads,
        Err(error) => return unusable("the payloads can't be read", &error),
    };
    let earlier = match args.compare.as_deref().map(compare::read).transpose() {
        Ok(earlier) => earlier,
        Err(error) => return unusable("the earlier figures can't be read", &error),
    };
    let timeout = Flag::new("send_timeout", "--timeout", args.timeout.as_deref());
    let mut settings = match args.connection.settings(&[timeout]) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let form = match settings.output_form() {
        Ok(form) => form.unwrap_or(OutputForm::Human),
        Err(text) => {
            print_message(&text);
            return EXIT_USAGE;
        }
    };
    // Reading a file may block, and a signal ends the program then.
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    configure(&mut settings, &args, &payloads);
    let timeout = settings.config.send_timeout;
    let files = match Files::open(&args, &mut signals).await {
        Ok(files) => files,
        Err(status) => return status,
    };
    let connections = settings.config.connections_per_broker;
    let topics = std::slice::from_ref(&args.topic);
    let producer = match connect(settings, topics, None, |builder| builder, &mut signals).await {
        Ok(producer) => producer,
        Err(status) => return status,
    };
    let mut output = match Output::stdout() {
        Ok(output) => output,
        Err(error) => return print_error("the figures can't be written", &error),
    };
    let brokers: Vec<BrokerAddr> =
        producer.health().brokers.iter().map(|broker| broker.addr.clone()).collect();
    let round_trip = if args.has_details() {
        tokio::select! {
            round_trip = round_trip(&producer, &brokers) => round_trip,
            status = signals.next() => return status,
        }
    } else {
        None
    };
    let progress = Arc::new(Progress::default());
    let (workload, mean_size) = describe(&args, &payloads);
    let benchmark = Benchmark {
        producer: producer.clone(),
        topic: args.topic.clone(),
        payloads,
        in_flight: args.in_flight as usize,
        rate: args.rate,
        has_timeline: args.plot.is_some(),
        progress: Arc::clone(&progress),
    };
    let mut shutdown = Shutdown::new(signals, timeout);
    // Sends from a spawned task, as a service does: the runtime polls the system's events after each turn of
    // its main future.
    let messages = args.messages.unwrap_or(u64::MAX);
    let sending = tokio::spawn(benchmark.run(args.warmup, messages));
    let mut watching = Watching {
        progress: &progress,
        total: args.messages.map(|messages| args.warmup.saturating_add(messages)),
        duration: args.duration,
        ports: brokers.iter().map(BrokerAddr::port).collect(),
        samples: args.has_details().then(Samples::default),
    };
    let (warmup, mut figures) = match watching.watch(sending, &mut shutdown).await {
        Some(Ok(Ok(figures))) => figures,
        Some(Ok(Err(error))) => return print_error("messages can't be sent at a rate", &error),
        Some(Err(error)) => return print_error("the sending task failed", &error),
        None => {
            let completed = progress.completed.load(Ordering::Relaxed);
            let messages = if completed == 1 { "message has" } else { "messages have" };
            print_message(&format!(
                "a second signal ended the program before there were figures; {completed} {messages} an outcome"
            ));
            std::process::exit(shutdown.status().unwrap_or(EXIT_FAILED).into())
        }
    };
    if let Some(samples) = watching.samples {
        let (connections, rate) = (connections as u32, args.rate);
        figures.add_details(&Run { mean_size, connections, rate, samples, round_trip });
    }
    let comparison = earlier.map(|earlier| compare::table(&earlier, &figures.map())).unwrap_or_default();
    let form = (form, args.json);
    let status = report(&mut output, &figures, &warmup, &workload, &comparison, form, &mut shutdown).await;
    let written = files.write(&figures, &workload, &mut shutdown).await;
    let status = written.err().filter(|_| status == 0).unwrap_or(status);
    shutdown::close(&producer, &mut shutdown, status).await
}

/// Adapts the settings of the producer to what is asked for.
fn configure(settings: &mut Settings, args: &Args, payloads: &[Bytes]) {
    let is_default = |name| *settings.origin(name) == Origin::Default;
    let (counts_by_default, bytes_by_default) =
        (is_default("max_in_flight"), is_default("max_in_flight_bytes"));
    let config = &mut settings.config;
    let in_flight = args.in_flight as usize;
    let size = payloads.iter().map(Bytes::len).max().unwrap_or_default();
    if let Some(connections) = args.connections {
        config.connections_per_broker = connections as usize;
    }
    // One broker can have at most half of the messages that a producer has in flight. A limit that was set
    // holds.
    if counts_by_default {
        config.max_in_flight = config.max_in_flight.max(2 * in_flight);
    }
    let bytes = (2 * in_flight).saturating_mul(size + HEADER);
    // The limit is a `u32`; if messages are so large that it applies, fewer are in flight than the options
    // ask for.
    if bytes_by_default {
        config.max_in_flight_bytes = config.max_in_flight_bytes.max(bytes).min(u32::MAX as usize);
    }
}

/// Describes what is sent. Returns the mean size of a payload, too.
fn describe(args: &Args, payloads: &[Bytes]) -> (String, f64) {
    let sizes = payloads.iter().map(Bytes::len);
    let mean = sizes.clone().sum::<usize>() as f64 / payloads.len() as f64;
    let (least, most) = (sizes.clone().min().unwrap_or_default(), sizes.max().unwrap_or_default());
    let size = if least == most { most.to_string() } else { format!("{least} to {most}") };
    (format!("of {size} bytes, {} in flight", args.in_flight), mean)
}

/// State that the sending task and the task that prints the progress share.
#[derive(Debug, Default)]
struct Progress {
    completed: AtomicU64,
    /// Set when the warm-up is over.
    is_measuring: AtomicBool,
    /// Set when no more messages may be sent.
    is_stopped: AtomicBool,
}

/// The messages to send, and the producer that sends them.
struct Benchmark {
    producer: Producer,
    topic: Topic,
    payloads: Vec<Bytes>,
    in_flight: usize,
    rate: Option<f64>,
    has_timeline: bool,
    progress: Arc<Progress>,
}

impl Benchmark {
    /// Sends all messages. Returns the failures of the warm-up, and the figures.
    async fn run(self, warmup: u64, messages: u64) -> io::Result<(Failures, Figures)> {
        let failures = if warmup > 0 {
            let mut tally = Tally::new();
            self.send(warmup, &mut tally).await?;
            tally.into_failures()
        } else {
            Failures::default()
        };
        self.progress.is_measuring.store(true, Ordering::Relaxed);
        let tally = Tally::new();
        let mut tally = if self.has_timeline { tally.with_timeline() } else { tally };
        let measured = figures::Measurement::start();
        self.send(messages, &mut tally).await?;
        Ok((failures, measured.end(tally)))
    }

    async fn send(&self, messages: u64, tally: &mut Tally) -> io::Result<()> {
        match self.rate {
            Some(rate) => open_loop::send(self, messages, rate, tally).await,
            None => {
                closed_loop::send(self, messages, tally).await;
                Ok(())
            }
        }
    }

    /// Builds each message, so that its checksum is measured, too, as an application would pay for it.
    fn message(&self, number: u64) -> Message {
        let payload = match &*self.payloads {
            [payload] => payload,
            payloads => &payloads[(number % payloads.len() as u64) as usize],
        };
        Message::new(self.topic.clone(), payload.clone())
    }
}

/// What happens beside the sending.
struct Watching<'a> {
    progress: &'a Progress,
    /// The number of messages, if there is one.
    total: Option<u64>,
    /// The time to measure for.
    duration: Option<Duration>,
    /// The ports of the brokers.
    ports: BTreeSet<u16>,
    /// Set if samples are to be taken.
    samples: Option<Samples>,
}

impl Watching<'_> {
    /// Waits for the sending task, and prints the progress on a terminal meanwhile. Stops the task when its
    /// time is over or a signal arrives; returns `None` after the second one.
    async fn watch<T>(
        &mut self,
        mut sending: JoinHandle<T>,
        shutdown: &mut Shutdown,
    ) -> Option<Result<T, JoinError>> {
        let template = match self.total {
            Some(_) => "{human_pos} of {human_len} messages, {rate}, {eta} left",
            None => "{human_pos} messages, {rate}, {elapsed}",
        };
        let line = ProgressLine::new(self.total, template);
        let ticks = |period| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut shown, mut sampled) = (ticks(PROGRESS_INTERVAL), ticks(SAMPLE_INTERVAL));
        let mut end = self.duration.map(|duration| Instant::now() + duration);
        let mut has_begun = false;
        loop {
            let is_measuring = self.progress.is_measuring.load(Ordering::Relaxed);
            if is_measuring && !has_begun {
                has_begun = true;
                end = self.duration.map(|duration| Instant::now() + duration);
            }
            tokio::select! {
                _ = shutdown.signal() => {
                    if shutdown.is_forced() {
                        return None;
                    }
                    self.progress.is_stopped.store(true, Ordering::Relaxed);
                }
                sent = &mut sending => return Some(sent),
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    if has_begun {
                        self.progress.is_stopped.store(true, Ordering::Relaxed);
                        end = None;
                    } else {
                        end = Some(Instant::now() + SAMPLE_INTERVAL);
                    }
                }
                _ = sampled.tick(), if self.samples.is_some() => {
                    if let Some(samples) = self.samples.as_mut().filter(|_| is_measuring) {
                        samples.count += 1;
                        samples.unsent += u64::from(has_unsent_bytes(&self.ports));
                    }
                }
                _ = shown.tick(), if line.is_some() => {
                    if let Some(line) = &line {
                        line.show(|bar| bar.set_position(self.progress.completed.load(Ordering::Relaxed)));
                    }
                }
            }
        }
    }
}
