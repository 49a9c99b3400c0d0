//! `metaq verify`: sends numbered messages, reads them back, and compares.
//!
//! `payload` is the form of the messages, `ledger` has the outcome of each number and compares, `send` and
//! `collect` are the two phases, `state` is the file by which a run goes on, `verdict` prints the result.

mod collect;
mod ledger;
mod payload;
mod send;
mod state;
mod verdict;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use metaq_producer::Topic;
use metaq_protocol::MAX_READABLE_DATA;

use self::{
    ledger::Ledger,
    payload::{MIN_SIZE, RunId},
    send::{Limits, Sending},
    state::{Header, Interrupted, State},
};
use crate::{
    args::parse_timeout,
    exit_status::{EXIT_LOCAL_IO, EXIT_NOT_FOUND, EXIT_USAGE},
    look::{Failure, Look, LookArgs},
    shutdown::{Shutdown, StopSignals},
    stderr::{print_error, print_message},
};

/// Sends numbered messages with checksums for a while, reads them back from the brokers, and reports what was
/// lost, duplicated, reordered or corrupted. THE MESSAGES ARE STORED: use a dedicated topic.
///
/// The tool for a failover drill: let it run while brokers are killed, restarted, or cut off. Messages whose
/// outcome is unknown may be stored or not; those that were reported as not sent may not be. Each partition
/// has one message in flight, so that its order can be checked; with --unordered the selector chooses among
/// the connected brokers, more is sent, and the order is not checked.
///
/// --state keeps the run in a file. After this program itself was killed, --resume with that file sends the
/// rest and compares all. SIGINT and SIGTERM end the sending early; what was sent is verified. A second
/// signal ends the program.
///
/// The result is a table or, with --json, a line:
/// {"verdict":"ok","sent":N,"acknowledged":N,"not_sent":N,"rejected":N,"unknown":N,"unknown_stored":N,
/// "found":N,"lost":N,"duplicated":N,"reordered":N,"corrupted":N,"stored_unexpectedly":N,"elapsed_s":S}
///
/// Examples:
///   metaq verify drill --during 10m --rate 500 --state drill.state --cluster zk://zk1:2181/meta
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
    /// The limit on unacknowledged messages
    #[arg(long, value_name = "K", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8192))]
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
    /// The time to wait for brokers at the end, without any progress, before what is missing counts as lost
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

/// A run that is about to begin or to go on.
struct Run {
    topic: Topic,
    header: Header,
    ledger: Ledger,
    state: State,
    elapsed: Duration,
}

pub(crate) async fn run(args: Args) -> u8 {
    let signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let resumed = match args.resume.as_deref().map(State::resume).transpose() {
        Ok(resumed) => resumed,
        Err(error) => {
            print_error("the run can't be resumed", &error);
            return EXIT_USAGE;
        }
    };
    let is_ordered = resumed.as_ref().map_or(!args.unordered, |(interrupted, _)| interrupted.header.ordered);
    let mut shutdown = Shutdown::new(signals, args.settle);
    let look = Look::open(args.look.clone(), |config| config.ordered = is_ordered);
    let mut look = match look {
        Ok(look) => look,
        Err(status) => return status,
    };
    let verified = verify(&args, resumed, &mut look, &mut shutdown).await;
    let status = verified.unwrap_or_else(|failure| failure.report());
    look.close().await;
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
    let pinned = if header.ordered {
        look.inspector.partitions(&topic).await?.into_iter().map(|place| place.partition).collect()
    } else {
        Vec::new()
    };
    let mut sending = Sending {
        producer: &look.producer,
        topic: &topic,
        run,
        pinned,
        limits: Limits::of(&header, elapsed),
        ledger: &mut ledger,
        state: &mut state,
    };
    sending
        .run(shutdown)
        .await
        .map_err(|error| Failure::Other(format!("the state can't be written: {error}"), EXIT_LOCAL_IO))?;
    let collecting = collect::collect(look, &topic, run, &header, args.settle, &mut ledger);
    let Some(collected) = unless_stopped(shutdown, collecting).await else { return Ok(0) };
    let problems = collected?;
    let json = look.is_json(args.json);
    verdict::print(look, &ledger, &problems, started.elapsed() + elapsed, json).await
}

/// Waits for a future until a signal.
async fn unless_stopped<T>(shutdown: &mut Shutdown, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        output = future => Some(output),
        _ = shutdown.signal() => None,
    }
}

/// Finds the partitions and where they end, and makes or takes over the state.
async fn prepare(args: &Args, resumed: Option<(Interrupted, State)>, look: &Look) -> Result<Run, Failure> {
    if let Some((Interrupted { header, ledger, elapsed }, state)) = resumed {
        let topic = header
            .topic
            .parse()
            .map_err(|error| Failure::Other(format!("the run can't be resumed: {error}"), EXIT_USAGE))?;
        print_message(&format!("resuming after {} messages", ledger.len()));
        return Ok(Run { topic, header, ledger, state, elapsed });
    }
    let Some(topic) = args.topic.clone() else {
        return Err(Failure::Other("a topic is needed".to_owned(), EXIT_USAGE));
    };
    let places = look.inspector.partitions(&topic).await?;
    if places.is_empty() {
        let text = format!("no partitions of topic {topic} are known, so that nothing could be read back");
        return Err(Failure::Other(text, EXIT_NOT_FOUND));
    }
    let mut starts = BTreeMap::new();
    for place in &places {
        starts.insert(place.partition.to_string(), look.inspector.offsets(place).await?.end);
    }
    let during = args.during.or_else(|| args.count.is_none().then_some(Duration::from_secs(10)));
    let header = Header {
        version: Header::VERSION,
        run: format!("{:x}", new_run()),
        topic: topic.to_string(),
        count: args.count,
        during_ms: during.map(|during| u64::try_from(during.as_millis()).unwrap_or(u64::MAX)),
        rate: args.rate,
        size: args.size as usize,
        in_flight: args.in_flight as usize,
        ordered: !args.unordered,
        starts,
    };
    let state = args.state.as_deref().map_or_else(|| Ok(State::none()), |path| State::create(path, &header));
    let state = state.map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "; resume it with --resume, or name another file",
            _ => "",
        };
        Failure::Other(format!("the state can't be written: {error}{remedy}"), EXIT_USAGE)
    })?;
    Ok(Run { topic, header, ledger: Ledger::default(), state, elapsed: Duration::ZERO })
}

/// A number that no other run has.
fn new_run() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The keys of a new hasher are random.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
