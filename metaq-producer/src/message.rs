//! What is sent, and what comes back.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use metaq_protocol::{BrokerAddr, Partition, Topic};

/// A message: where it goes, its payload, and optionally an attribute.
///
/// Cloning is cheap: topic, payload and attribute are shared.
///
/// ```
/// use metaq_producer::{Message, Topic};
///
/// let topic: Topic = "orders".parse()?;
/// let message = Message::new(topic, "one coffee").with_attribute("table-7");
/// assert_eq!(message.payload(), &b"one coffee"[..]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    topic: Topic,
    payload: Bytes,
    attribute: Option<Arc<str>>,
}

impl Message {
    /// A message with the given payload, which may be empty, and no attribute.
    pub fn new(topic: Topic, payload: impl Into<Bytes>) -> Self {
        Self { topic, payload: payload.into(), attribute: None }
    }

    /// The same message with an attribute: a text that consumers get beside the payload, and can filter by.
    /// An empty one is not the same as none.
    #[must_use]
    pub fn with_attribute(mut self, attribute: impl Into<Arc<str>>) -> Self {
        self.attribute = Some(attribute.into());
        self
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The attribute, if there is one.
    #[must_use]
    pub fn attribute(&self) -> Option<&str> {
        self.attribute.as_deref()
    }
}

impl fmt::Debug for Message {
    /// Shows the payload's size, not its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("attribute", &self.attribute)
            .finish()
    }
}

/// Where an acknowledged message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendReceipt {
    /// The partition that holds it. In direct mode the broker's id is unknown (-1).
    pub partition: Partition,
    /// The id that the broker gave it. Real brokers give negative ids, too.
    pub message_id: i64,
    /// Where it begins in the partition's log, in bytes.
    pub offset: i64,
    /// The broker that stored it.
    pub broker: BrokerAddr,
}

impl SendReceipt {
    pub(crate) fn new(partition: Partition, message_id: i64, offset: i64, broker: BrokerAddr) -> Self {
        Self { partition, message_id, offset, broker }
    }
}
