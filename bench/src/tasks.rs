//! Sends from many tasks, each of which sends one message at a time.

use std::{
    alloc::System,
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use metaq_producer::{Message, Producer, ProducerConfig, Topic, discovery::ZooKeeperDiscovery};
use serde::{Deserialize, Serialize};
use stats_alloc::StatsAlloc;
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::usage::{cpu_time, peak_memory_kib};

/// Approximate number of latencies that all tasks keep together.
const SAMPLES: usize = 65_536;

/// Each task measures the latency of one message in this many.
const SAMPLE_INTERVAL: u64 = 8;

/// Sends messages from many tasks, each of which sends one at a time, and prints the figures as one line of
/// JSON.
#[derive(Debug, Parser)]
struct Args {
    /// zk://HOST:PORT/ROOT or meta://HOST:PORT
    #[arg(long)]
    cluster: String,
    /// The topic
    #[arg(long, default_value = "bench")]
    topic: Topic,
    /// The size of each message's payload in bytes
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// The number of tasks that send
    #[arg(long, default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    tasks: u32,
    /// The runtime of tokio
    #[arg(long, value_enum, default_value_t = Threads::Many)]
    threads: Threads,
    /// The duration of the measurement in milliseconds; a warm-up of the same duration precedes it
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

/// The runtimes of tokio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "tokio has these")]
pub enum Threads {
    /// The current-thread runtime.
    One,
    /// The multi-thread runtime, with a thread for each processor.
    Many,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskFigures {
    /// The number of tasks.
    pub tasks: u32,
    /// The runtime.
    pub threads: Threads,
    /// Acknowledged messages per second.
    pub msgs_per_s: f64,
    /// The median latency, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile of the latency, in microseconds.
    pub p99_us: f64,
    /// CPU time per message, in microseconds.
    pub cpu_us_per_msg: f64,
    /// Peak resident memory, in KiB.
    pub max_rss_kib: u64,
    /// The number of messages that were not acknowledged.
    pub failures: u64,
    /// The lowest number of acknowledged messages of a task.
    pub fewest_per_task: u64,
    /// The highest number of acknowledged messages of a task.
    pub most_per_task: u64,
    /// Allocations per message, reallocations included, if they were counted.
    pub allocations_per_msg: Option<f64>,
    /// Bytes allocated per message, if they were counted.
    pub alloc_bytes_per_msg: Option<f64>,
}

/// Runs the program. Allocations are counted by `counter`, if there is one.
#[must_use]
pub fn main(counter: Option<&StatsAlloc<System>>) -> ExitCode {
    let printed = run(&Args::parse(), counter)
        .and_then(|figures| Ok(writeln!(io::stdout(), "{}", serde_json::to_string(&figures)?)?));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Stderr may be closed, and there is no other place to report that.
            let _ = writeln!(io::stderr(), "tasks: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, counter: Option<&StatsAlloc<System>>) -> Result<TaskFigures, Box<dyn Error>> {
    let runtime = match args.threads {
        Threads::One => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        Threads::Many => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
    };
    let builder = if args.cluster.starts_with("zk://") {
        Producer::builder().discovery(ZooKeeperDiscovery::new(&args.cluster)?)
    } else {
        Producer::builder().broker(args.cluster.parse()?)
    };
    // One broker can have at most half of the messages that a producer has in flight.
    let (tasks, mut config) = (args.tasks as usize, ProducerConfig::default());
    config.max_in_flight = config.max_in_flight.max(2 * tasks);
    config.max_in_flight_bytes = config.max_in_flight_bytes.max(2 * tasks * (args.size + 1024));
    let producer = builder.config(config).build()?;
    runtime.block_on(producer.publish_topic(&args.topic))?;
    let message = Message::new(args.topic.clone(), vec![b'x'; args.size]);
    let phase = Arc::new(Phase::default());
    let samples = (SAMPLES / args.tasks as usize).max(1);
    let start = |_| runtime.spawn(send(producer.clone(), message.clone(), Arc::clone(&phase), samples));
    let tasks: Vec<_> = (0..args.tasks).map(start).collect();
    measure(&runtime, args, tasks, &phase, counter)
}

fn measure(
    runtime: &Runtime,
    args: &Args,
    tasks: Vec<JoinHandle<Sent>>,
    phase: &Phase,
    counter: Option<&StatsAlloc<System>>,
) -> Result<TaskFigures, Box<dyn Error>> {
    let time = Duration::from_millis(args.millis);
    let pause = || runtime.block_on(async { tokio::time::sleep(time).await });
    pause();
    let (cpu, allocated, begun) = (cpu_time(), counter.map(StatsAlloc::stats), Instant::now());
    phase.set(Phase::MEASURED);
    pause();
    let elapsed = begun.elapsed();
    let (cpu, allocated_after) = (cpu_time().saturating_sub(cpu), counter.map(StatsAlloc::stats));
    phase.set(Phase::OVER);
    let max_rss_kib = peak_memory_kib();
    let mut all = Vec::with_capacity(tasks.len());
    for task in tasks {
        all.push(runtime.block_on(task)?);
    }
    let messages: u64 = all.iter().map(|sent| sent.acknowledged).sum();
    let per_message = |sum: f64| sum / messages.max(1) as f64;
    let mut times: Vec<_> =
        all.iter().flat_map(|sent| sent.times.iter().copied()).filter(|time| *time > 0).collect();
    times.sort_unstable();
    let quantile = |quantile: f64| {
        let index = (quantile * times.len() as f64) as usize;
        times.get(index).map_or(0.0, |nanoseconds| f64::from(*nanoseconds) / 1e3)
    };
    let counted = allocated.zip(allocated_after).map(|(before, after)| after - before);
    Ok(TaskFigures {
        tasks: args.tasks,
        threads: args.threads,
        msgs_per_s: messages as f64 / elapsed.as_secs_f64(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        cpu_us_per_msg: per_message(cpu.as_secs_f64() * 1e6),
        max_rss_kib,
        failures: all.iter().map(|sent| sent.failed).sum(),
        fewest_per_task: all.iter().map(|sent| sent.acknowledged).min().unwrap_or(0),
        most_per_task: all.iter().map(|sent| sent.acknowledged).max().unwrap_or(0),
        allocations_per_msg: counted
            .map(|stats| per_message((stats.allocations + stats.reallocations) as f64)),
        alloc_bytes_per_msg: counted.map(|stats| per_message(stats.bytes_allocated as f64)),
    })
}

/// The phase of the run, which decides what the tasks do with each outcome.
#[derive(Debug, Default)]
struct Phase(AtomicU8);

impl Phase {
    const MEASURED: u8 = 1;
    const OVER: u8 = 2;

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The messages that a task has sent during the measurement.
struct Sent {
    acknowledged: u64,
    failed: u64,
    /// The latest latencies in nanoseconds; 0 in unused places.
    times: Vec<u32>,
}

async fn send(producer: Producer, message: Message, phase: Arc<Phase>, samples: usize) -> Sent {
    let mut sent = Sent { acknowledged: 0, failed: 0, times: vec![0; samples] };
    let (mut n, mut sample) = (0_u64, 0);
    loop {
        n += 1;
        let begun = n.is_multiple_of(SAMPLE_INTERVAL).then(Instant::now);
        let result = producer.send(message.clone()).await;
        match phase.get() {
            Phase::MEASURED => {}
            Phase::OVER => return sent,
            _ => continue,
        }
        match result {
            Ok(_) => sent.acknowledged += 1,
            Err(_) => sent.failed += 1,
        }
        if let Some(begun) = begun {
            sent.times[sample] = u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX);
            sample = (sample + 1) % samples;
        }
    }
}
