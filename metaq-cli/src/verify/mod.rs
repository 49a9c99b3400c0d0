//! `metaq verify`: sends numbered messages, reads them back, and compares.
//!
//! `prepare` finds the partitions, `send` and `collect` are the two phases. `payload` is the form of the
//! messages, `ledger` has the outcome of each number and compares, `counts` are its results, `state` is the
//! file by which a run goes on, `verdict` prints the result.

mod collect;
mod counts;
mod ledger;
mod payload;
mod prepare;
mod send;
mod state;
mod verdict;

use std::{cell::RefCell, path::PathBuf, time::Duration};

use metaq_producer::{ProducerConfig, Topic};
use metaq_protocol::MAX_READABLE_DATA;

use self::{
    collect::{Collecting, Problem},
    payload::{MIN_SIZE, RunId},
    prepare::{Run, prepare},
    send::{Limits, Sending, Sent},
    state::{Interrupted, MAX_RESERVED, State},
    verdict::Account,
};
use crate::{
    args::parse_timeout,
    exit_status::{EXIT_LOCAL_IO, EXIT_UNREACHABLE, EXIT_USAGE},
    look::{Failure, Look, LookArgs},
    shutdown::{Shutdown, StopSignals},
    stderr::{print_error, print_message},
};

/// The limit on writing the result after a signal.
const WRITE_AFTER_SIGNAL: Duration = Duration::from_secs(1);

/// Sends numbered messages with checksums for a while, reads them back from the
/// brokers, and reports what was lost, duplicated, reordered or corrupted. THE
/// MESSAGES ARE STORED: use a dedicated topic.
///
/// The tool for a failover drill: let it run while brokers are killed, restarted,
/// or cut off. Messages whose outcome is unknown may be stored or not; those that
/// were reported as not sent may not be. Each partition has one message in
/// flight, so that its order can be checked; with --unordered the selector
/// chooses among the connected brokers, more is sent, and the order is not
/// checked. Messages that may be stored are not sent again, whatever the settings
/// say.
///
/// --state keeps the run in a file. After this program itself was killed,
/// --resume with that file sends the rest and compares all. SIGINT and SIGTERM
/// end the sending early; what was sent is verified. A second signal ends the
/// program, after it has printed what it knows.
///
/// The result is a table or, with --json, a line:
/// {"verdict":"ok","sent":N,"acknowledged":N,"not_sent":N,"rejected":N,
///  "unknown":N,"unknown_stored":N,"possibly_sent":N,"possibly_sent_stored":N,
///  "found":N,"unverified":N,"lost":N,"duplicated":N,"reordered":N,"corrupted":N,
///  "misplaced":N,"stored_unexpectedly":N,"elapsed_s":S,"msgs_per_s":R,"rate":R}
/// where rate is that of --rate, or null. The verdict is ok, wrong, incomplete,
/// or nothing verified.
///
/// Examples:
///   metaq verify drill --during 10m --rate 500 --state drill.state \
///       --cluster zk://zk1:2181/meta
///   metaq verify --resume drill.state --cluster zk://zk1:2181/meta
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The topic
    #[arg(required_unless_present = "resume")]
    topic: Option<Topic>,
    #[command(flatten)]
    look: LookArgs,
    /// The number of messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The time to send for; 10s when neither this nor --count is given
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    during: Option<Duration>,
    /// The number of messages each second; as many as possible by default
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,
    /// The size of each message's payload in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128,
        value_parser = clap::value_parser!(u64).range(MIN_SIZE as u64..=MAX_READABLE_DATA as u64))]
    size: u64,
    /// The limit on unacknowledged messages, which the partitions share evenly
    #[arg(long, value_name = "K", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=MAX_RESERVED as i64))]
    in_flight: u32,
    /// Leaves the partition to the selector, with many messages in flight in each; the order is not checked
    #[arg(long)]
    unordered: bool,
    /// Keeps the run in a new file, so that it can be resumed
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Goes on with the run in a file, and its settings
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["topic", "count", "during", "rate", "size", "in_flight", "unordered", "state"])]
    resume: Option<PathBuf>,
    /// The time to wait for brokers at the end without any progress; what can't be read by then is unverified
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_timeout)]
    settle: Duration,
    /// Prints the result as a line of JSON
    #[arg(long)]
    json: bool,
}

fn parse_rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or("expected a number of messages each second that is greater than zero")
}

pub(crate) async fn run(args: Args) -> u8 {
    let resumed = match args.resume.as_deref().map(State::resume).transpose() {
        Ok(resumed) => resumed,
        Err(error) => {
            print_message(&error);
            return EXIT_USAGE;
        }
    };
    let settings = match args.look.settings() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    // Opening a file may block, and a signal ends the program then.
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let is_ordered = resumed.as_ref().map_or(!args.unordered, |(interrupted, _)| interrupted.header.ordered);
    let change = |config: &mut ProducerConfig| {
        config.ordered = is_ordered;
        // What these would store twice or elsewhere is no broken promise.
        (config.retry.at_least_once, config.retry.server_errors) = (false, false);
        config.default_topic = None;
    };
    let mut look = match Look::open(&args.look, settings, change, &mut signals).await {
        Ok(look) => look,
        Err(status) => return status,
    };
    let mut shutdown = Shutdown::new(signals, args.settle);
    let verified = verify(&args, resumed, &mut look, &mut shutdown).await;
    let status = verified.unwrap_or_else(|failure| failure.report_of(&look));
    if !shutdown.is_forced() {
        unless_stopped(&mut shutdown, look.close()).await;
    }
    shutdown.status().unwrap_or(status)
}

async fn verify(
    args: &Args,
    resumed: Option<(Interrupted, State)>,
    look: &mut Look,
    shutdown: &mut Shutdown,
) -> Result<u8, Failure> {
    let started = tokio::time::Instant::now();
    let Some(prepared) = unless_stopped(shutdown, prepare(args, resumed, look)).await else { return Ok(0) };
    let Run { topic, header, mut ledger, mut state, elapsed } = prepared?;
    let run = RunId(u64::from_str_radix(&header.run, 16).unwrap_or_default());
    let producer = look.producer.clone();
    let Some(published) = unless_stopped(shutdown, producer.publish_topic(&topic)).await else {
        return Ok(0);
    };
    published.map_err(|error| Failure::publish(&error))?;
    // Those that there were at the start, also when one of them is away now.
    let pinned = if header.ordered { header.starts() } else { Default::default() };
    let limits = Limits::of(&header, elapsed);
    let sending = Sending::new(&producer, (&topic, run), pinned.into_keys(), limits, &mut ledger, &mut state);
    let sent = sending.run(shutdown).await;
    let problems = if shutdown.is_forced() {
        vec![Problem::new("nothing was read back", EXIT_UNREACHABLE)]
    } else {
        let (header, ledger) = (&header, RefCell::new(&mut ledger));
        let collecting = Collecting { look, topic: &topic, run, header, settle: args.settle, ledger };
        let collected = unless_stopped(shutdown, collecting.collect()).await;
        collected.unwrap_or_else(|| vec![Problem::new("the reading back was stopped", EXIT_UNREACHABLE)])
    };
    let Sent { count, during, failure } = sent;
    let account = Account {
        ledger: &ledger,
        problems: &problems,
        elapsed: started.elapsed() + elapsed,
        achieved: (count > 0).then(|| count as f64 / during.as_secs_f64().max(1e-9)),
        asked: header.rate,
        state: args.resume.as_deref().or(args.state.as_deref()),
    };
    let json = look.is_json(args.json);
    let status = account.print(look, json)?;
    // The output may be unread; a reader gets all of it, however many signals come.
    let written = match unless_stopped(shutdown, look.written()).await {
        Some(written) => Some(written),
        None => tokio::time::timeout(WRITE_AFTER_SIGNAL, look.written()).await.ok(),
    };
    match written {
        Some(written) => written?,
        None => account.print_briefly(),
    }
    Ok(if failure.is_some() { EXIT_LOCAL_IO } else { status })
}

/// Waits for a future until a signal.
async fn unless_stopped<T>(shutdown: &mut Shutdown, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        _ = shutdown.signal() => None,
    }
}
