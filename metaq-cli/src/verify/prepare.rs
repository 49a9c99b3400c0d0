//! The start of a run: its partitions, where they end, and its state.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use metaq_producer::{
    Topic,
    discovery::TopicView,
    inspect::{Inspector, ListedPartition},
};

use super::{
    Args,
    ledger::Ledger,
    state::{Header, Interrupted, State},
};
use crate::{
    exit_status::{EXIT_NOT_FOUND, EXIT_USAGE},
    look::{Failure, Look, system_setting},
    stderr::print_message,
};

/// The bytes of a stored message before its payload.
const HEADER_LEN: u64 = 20;

/// A run that is about to begin or to go on.
pub(super) struct Run {
    pub(super) topic: Topic,
    pub(super) header: Header,
    pub(super) ledger: Ledger,
    pub(super) state: State,
    /// The time for which earlier sessions have sent.
    pub(super) elapsed: Duration,
}

/// Finds the partitions and where they end, and makes or takes over the state.
pub(super) async fn prepare(
    args: &Args,
    resumed: Option<(Interrupted, State)>,
    look: &Look,
) -> Result<Run, Failure> {
    let usage = |text: String| Failure::Other(text, EXIT_USAGE);
    if let Some((Interrupted { header, ledger, elapsed }, state)) = resumed {
        let path = args.resume.as_deref().unwrap_or_else(|| Path::new("")).display();
        let topic = header.topic.parse();
        let topic = topic.map_err(|error| {
            usage(format!("the run in {path} can't be resumed: line 1 is damaged ({error}); begin a new run"))
        })?;
        if header.cluster != look.cluster_name {
            return Err(usage(format!(
                "the run in {path} can't be resumed: its messages are in {cluster}, not in {}; use --cluster {cluster}",
                look.cluster_name,
                cluster = header.cluster
            )));
        }
        print_message(&format!("resuming after {} messages", ledger.len()));
        return Ok(Run { topic, header, ledger, state, elapsed });
    }
    let Some(topic) = args.topic.clone() else { return Err(usage("a topic is needed".to_owned())) };
    check_partitions(&look.inspector.topic(&topic).await?)?;
    let places = look.inspector.partitions(&topic).await?;
    if places.is_empty() {
        let text = format!("no partitions of topic {topic} are known, so that nothing could be read back");
        return Err(Failure::Other(text, EXIT_NOT_FOUND));
    }
    check_size(&look.inspector, &places, args.size).await?;
    let mut starts = BTreeMap::new();
    for place in &places {
        starts.insert(place.partition.to_string(), look.inspector.offsets(place).await?.end);
    }
    let during = args.during.or_else(|| args.count.is_none().then_some(Duration::from_secs(10)));
    let header = Header {
        version: Header::VERSION,
        run: format!("{:x}", new_run()),
        cluster: look.cluster_name.clone(),
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
            io::ErrorKind::AlreadyExists => "; resume that run with --resume, or name another file",
            _ => "",
        };
        let path = args.state.as_deref().unwrap_or_else(|| Path::new("")).display();
        usage(format!("the state can't be written to {path}: {error}{remedy}"))
    })?;
    Ok(Run { topic, header, ledger: Ledger::default(), state, elapsed: Duration::ZERO })
}

/// Refuses a topic whose partitions no broker names.
fn check_partitions(view: &TopicView) -> Result<(), Failure> {
    let Some(broker) = view.brokers().iter().find(|broker| broker.partitions.is_none()) else {
        return Ok(());
    };
    let text = format!(
        "broker {} does not name the partitions of topic {topic}, which it may take by a pattern, so that nothing \
         could be read back; add [topic={topic}] to its server.ini",
        broker.addr,
        topic = view.topic()
    );
    Err(Failure::Other(text, EXIT_NOT_FOUND))
}

/// Refuses messages that a broker would store, and never send.
async fn check_size(inspector: &Inspector, places: &[ListedPartition], size: u64) -> Result<(), Failure> {
    let mut brokers: Vec<_> = places.iter().map(|place| &place.broker).collect();
    brokers.sort_unstable();
    brokers.dedup();
    for broker in brokers {
        // A broker that doesn't show its settings may have any.
        let config = inspector.config(broker).await.unwrap_or_default();
        let limit = system_setting(&config, "maxTransferSize").and_then(|text| text.parse::<u64>().ok());
        if let Some(limit) = limit.filter(|limit| size + HEADER_LEN > *limit) {
            let text = format!(
                "broker {broker} sends {limit} bytes at a time (maxTransferSize), so that messages with --size {size} \
                 could not be read back; {} fit",
                limit.saturating_sub(HEADER_LEN)
            );
            return Err(Failure::Other(text, EXIT_USAGE));
        }
    }
    Ok(())
}

/// A number that no other run has.
fn new_run() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The keys of a new hasher are random.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
