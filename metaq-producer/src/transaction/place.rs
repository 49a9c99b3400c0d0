//! The placement of a transaction's messages.

use std::sync::{Arc, atomic::Ordering};

use metaq_protocol::{BrokerAddr, Partition, Topic};
use metaq_transport::Connection;
use tokio::time::Instant;

use super::CountedMessage;
use crate::{
    Message, Outcome,
    producer::Inner,
    route::topic_state::{Route, RouteBroker, TopicState},
    send::choice::no_such_partition,
    stats::counts::TopicBrokerCounts,
};

/// A partition, and the way to its broker.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) partition: Partition,
    pub(crate) connection: Arc<dyn Connection>,
    /// The counts of the topic at that broker.
    pub(crate) counts: Arc<TopicBrokerCounts>,
}

/// The reason why there is no place for a message at the moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PlacementError {
    /// None of the brokers that may be used has a partition of the topic now, or the one that the message
    /// names.
    NoBroker,
    /// The broker of the transaction isn't connected, or is silent.
    Away(String),
    /// The selector refused it, or chose what can't be.
    Refused(String),
}

/// The reason why a message can't be sent to any broker.
#[derive(Debug)]
pub(crate) enum Unsendable {
    Closed,
    NotPublished,
    TooLarge {
        size: usize,
        limit: usize,
    },
    /// An interceptor panicked.
    Intercepted(String),
}

/// Shows a message to the interceptors, counts it as offered, and finds the topic whose brokers it goes to.
pub(crate) fn topic_of(
    inner: &Inner,
    message: &mut Message,
) -> Result<(Arc<TopicState>, CountedMessage), Unsendable> {
    let intercepted = inner.unacknowledged().interceptors.before(message);
    let lookup = inner.topics.lookup();
    let default = || lookup.find(inner.config.default_topic.as_ref()?);
    let topic = lookup.find(message.topic()).or_else(default);
    let is_closed = inner.closed.load(Ordering::Acquire);
    let Some(topic) = topic.filter(|_| !is_closed) else {
        inner.topics.counts.unpublished.fetch_add(1, Ordering::Relaxed);
        return Err(if is_closed { Unsendable::Closed } else { Unsendable::NotPublished });
    };
    let counted = CountedMessage::offered(&topic.counts);
    if let Err(text) = intercepted {
        counted.failed(Outcome::NotSent);
        return Err(Unsendable::Intercepted(text));
    }
    let (size, limit) = (message.encoded_len(), inner.config.max_message_size);
    if size > limit {
        counted.failed(Outcome::NotSent);
        return Err(Unsendable::TooLarge { size, limit });
    }
    Ok((Arc::clone(topic), counted))
}

/// The partition of the message's own; else has the selector choose among the partitions of the brokers that
/// are `eligible`. Brokers that failed lately come second.
pub(crate) fn choose(
    topic: &TopicState,
    message: &Message,
    eligible: impl Fn(&RouteBroker) -> bool,
) -> Result<Place, PlacementError> {
    let route = topic.route();
    let partition = match message.partition() {
        Some(partition) => own_partition(&route, message, partition, eligible)?,
        None => selected(topic, &route, message, eligible)?,
    };
    if partition.index < 0 {
        // K-23, B-11.
        let text =
            "the broker doesn't tell the partitions of the topic, and refuses to choose one in a transaction";
        return Err(PlacementError::Refused(text.to_owned()));
    }
    let broker = route.broker(partition.broker).ok_or(PlacementError::NoBroker)?;
    let connection = Arc::clone(broker.connection(partition).ok_or(PlacementError::NoBroker)?);
    Ok(Place { partition, connection, counts: Arc::clone(&broker.topic_broker.counts) })
}

/// The partition that the message names, if its broker is `eligible`. It can go to no other, so it is taken
/// also from a broker that failed lately.
fn own_partition(
    route: &Route,
    message: &Message,
    partition: Partition,
    eligible: impl Fn(&RouteBroker) -> bool,
) -> Result<Partition, PlacementError> {
    match route.broker(partition.broker) {
        Some(broker) if route.has(partition) && eligible(broker) => Ok(partition),
        Some(_) if route.has(partition) => Err(PlacementError::NoBroker),
        // As outside of transactions.
        _ if route.partitions.is_empty() || route.absence(partition).is_some() => {
            Err(PlacementError::NoBroker)
        }
        _ => Err(PlacementError::Refused(no_such_partition(message, partition))),
    }
}

fn selected(
    topic: &TopicState,
    route: &Route,
    message: &Message,
    eligible: impl Fn(&RouteBroker) -> bool,
) -> Result<Partition, PlacementError> {
    let now = Instant::now();
    let of = |wanted: &dyn Fn(&RouteBroker) -> bool| -> Vec<Partition> {
        let broker = |partition: &&Partition| route.broker(partition.broker).is_some_and(wanted);
        route.partitions.iter().filter(broker).copied().collect()
    };
    let mut partitions = of(&|broker| eligible(broker) && !broker.topic_broker.broker.is_cooling_down(now));
    if partitions.is_empty() {
        partitions = of(&eligible);
    }
    if partitions.is_empty() {
        return Err(PlacementError::NoBroker);
    }
    let asked = topic.selector.select(&topic.topic, &partitions, message, None);
    let Some(partition) = asked.map_err(PlacementError::Refused)? else {
        return Err(PlacementError::Refused("the partition selector refused the message".to_owned()));
    };
    if !partitions.contains(&partition) {
        let text = format!("the partition selector chose {partition}, which was not to be chosen from");
        return Err(PlacementError::Refused(text));
    }
    Ok(partition)
}

/// Places a message on the broker of a transaction (rule T-8).
pub(crate) fn choose_on(
    broker: &BrokerAddr,
    topic: &TopicState,
    message: &Message,
) -> Result<Place, PlacementError> {
    let partition = message.partition();
    if let Some(partition) = partition.filter(|partition| is_elsewhere(&topic.route(), *partition, broker)) {
        let text = format!("it is for partition {partition}, and the transaction is on broker {broker}");
        return Err(PlacementError::Refused(text));
    }
    let on_it = |candidate: &RouteBroker| candidate.topic_broker.broker.addr == *broker;
    match choose(topic, message, on_it) {
        Ok(place) => Ok(place),
        Err(PlacementError::NoBroker) => {
            let waits = topic.route().missing.iter().any(|(_, known)| known.broker() == broker);
            Err(match partition {
                _ if waits => PlacementError::Away(format!("broker {broker} is not connected, or silent")),
                Some(partition) => {
                    PlacementError::Away(format!("it is for partition {partition}, which is not there now"))
                }
                None => PlacementError::Refused(no_partition_on(broker, message.topic())),
            })
        }
        Err(other) => Err(other),
    }
}

/// Whether a partition is known to be that of another broker than the one at `addr`.
fn is_elsewhere(route: &Route, partition: Partition, addr: &BrokerAddr) -> bool {
    let mut is_known = false;
    for (id, named) in route.named() {
        if id == partition.broker && named == addr {
            return false;
        }
        is_known |= id == partition.broker || named == addr;
    }
    is_known
}

fn no_partition_on(broker: &BrokerAddr, topic: &Topic) -> String {
    format!(
        "topic {topic} has no partition on broker {broker} now, and a transaction stays on the broker of its first message"
    )
}
