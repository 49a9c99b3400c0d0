//! The reasons why messages wait, and the errors of those that wait no longer.

use metaq_protocol::{BrokerId, Partition};

use crate::{
    SendError, SendErrorKind,
    route::topic_state::{Absence, TopicState},
};

/// The reasons why messages wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum WaitReason {
    /// No broker of the topic is connected.
    NoBroker,
    /// The broker of the partition that was decided for it isn't connected.
    Away(BrokerId),
    /// The partition that was decided for it is configured, and its connected broker doesn't have it.
    Unnamed(Partition),
    /// The one broker that it can go to has no capacity on this one of its connections.
    Capacity(BrokerId, usize),
    /// None of several connections that it can go to has capacity. The number stands for these connections,
    /// so that messages that can go elsewhere wait in another queue.
    AnyCapacity(u64),
    /// Others are before it in the partition.
    Turn(Partition),
}

impl WaitReason {
    /// The reason of a message for a partition that is not there.
    pub(crate) fn of_absence(partition: Partition, absence: Absence) -> Self {
        match absence {
            Absence::Broker => Self::Away(partition.broker),
            Absence::Partition => Self::Unnamed(partition),
        }
    }

    /// The error of a message that doesn't wait at all.
    pub(crate) fn refusal(self, topic: &TopicState) -> SendError {
        match self {
            Self::Turn(partition) => {
                let text = format!(
                    "others are before it in partition {partition}, in which one message at a time is sent; wait with enqueue \
                     or send"
                );
                SendError::new(SendErrorKind::Full, &topic.topic, text)
            }
            other => other.error(topic),
        }
    }

    /// The error of a message that can't or won't wait any longer.
    pub(crate) fn error(self, topic: &TopicState) -> SendError {
        let error = |kind, text: String| SendError::new(kind, &topic.topic, text);
        match self {
            Self::NoBroker | Self::Away(_) | Self::Unnamed(_) if topic.followed().is_starting() => {
                let text = "the topic is being published, and no broker of it was connected in time";
                error(SendErrorKind::NotConnected, text.to_owned())
            }
            Self::Away(id) if !topic.route().knows(id) => {
                let text = format!(
                    "the registry doesn't name broker {id} for the topic, whose partition is configured; start the broker, or \
                     change the setting partitions"
                );
                error(SendErrorKind::NotConnected, text)
            }
            Self::Unnamed(partition) => {
                let text = format!(
                    "the registry doesn't name partition {partition}, which is configured; add it at the broker, or change the \
                     setting partitions"
                );
                error(SendErrorKind::NotConnected, text)
            }
            Self::NoBroker | Self::Away(_) => {
                let (brokers, last) = topic.route().unreachable();
                let text = format!("no broker of the topic could be reached in time: {brokers}");
                error(SendErrorKind::NotConnected, text).with_source(last)
            }
            Self::Capacity(id, _) => {
                let route = topic.route();
                let addr = route.broker(id).map(|broker| broker.topic_broker.broker.addr.to_string());
                let text = format!(
                    "broker {} has reached its in-flight limit, which is half of the producer's; find out why it is slow, or \
                     raise max_in_flight and max_in_flight_bytes",
                    addr.unwrap_or_else(|| id.to_string())
                );
                error(SendErrorKind::Full, text)
            }
            Self::AnyCapacity(_) => {
                let text = "every broker that it can go to has reached its in-flight limit, which is half of the producer's; \
                            find out why they are slow, or raise max_in_flight and max_in_flight_bytes";
                error(SendErrorKind::Full, text.to_owned())
            }
            Self::Turn(partition) => {
                // Those before it wait for the partition, and so does it.
                if let Some(absence) = topic.route().absence(partition) {
                    return Self::of_absence(partition, absence).error(topic);
                }
                let text = format!("the messages before it in partition {partition} took too long");
                error(SendErrorKind::TimedOut, text)
            }
        }
    }
}
