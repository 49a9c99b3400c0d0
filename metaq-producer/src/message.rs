//! Messages, and the receipts for them.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use metaq_protocol::{BrokerAddr, Checksum, Flag, Partition, PutData, PutRef, Topic};

/// A message: its topic and its payload, and optionally an attribute, and a key or a partition.
///
/// Cloning is cheap: topic, payload, attribute and key are shared.
///
/// ```
/// use metaq_producer::{Message, Topic};
///
/// let topic: Topic = "orders".parse()?;
/// let message = Message::new(topic, "one coffee").with_attribute("table-7");
/// assert_eq!(message.payload(), &b"one coffee"[..]);
/// # Ok::<(), metaq_producer::error::InvalidTopic>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    topic: Topic,
    data: PutData,
    checksum: Checksum,
    /// Behind one pointer, since most messages have none.
    placement: Option<Arc<Placement>>,
}

/// What decides about the partition of a message.
#[derive(Clone, Default, PartialEq, Eq)]
struct Placement {
    key: Option<Box<[u8]>>,
    partition: Option<Partition>,
}

impl Message {
    /// A message with the given payload, which may be empty, and no attribute.
    pub fn new(topic: Topic, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        let checksum = Checksum::of(&payload);
        Self { topic, checksum, data: PutData::new(payload, None), placement: None }
    }

    /// The same message with an attribute: a text that consumers get beside the payload, and can filter by.
    /// An empty one is not the same as none.
    #[must_use]
    pub fn with_attribute(mut self, attribute: impl AsRef<str>) -> Self {
        self.set_attribute(attribute);
        self
    }

    /// Sets the attribute, in place of what there was.
    pub fn set_attribute(&mut self, attribute: impl AsRef<str>) {
        self.data = PutData::new(self.data.payload().clone(), Some(attribute.as_ref()));
        self.checksum = self.data.checksum();
    }

    /// The same message with a key. It stays here: selectors such as
    /// [`KeyHashSelector`](crate::selector::KeyHashSelector) choose the partition by it, consumers never see
    /// it.
    #[must_use]
    pub fn with_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.placement().key = Some(key.as_ref().into());
        self
    }

    /// The same message for this partition and no other; the [selector](crate::PartitionSelector) is not
    /// asked. While the partition's broker is not connected, the message waits for it, within its timeout. If
    /// the registry doesn't name the broker, or the connected broker doesn't have the partition, the message
    /// ends with [`NoPartition`](crate::SendErrorKind::NoPartition).
    ///
    /// A transaction that begins with such a message begins at the partition's broker, and waits for it in
    /// the same way. In one that has begun at another broker, the message is refused, and the transaction
    /// goes on.
    ///
    /// ```
    /// use metaq_producer::{Message, Partition, Topic};
    ///
    /// let orders: Topic = "orders".parse()?;
    /// let message = Message::new(orders, "one coffee").with_partition(Partition::new(0, 3));
    /// assert_eq!(message.partition(), Some(Partition::new(0, 3)));
    /// # Ok::<(), metaq_producer::error::InvalidTopic>(())
    /// ```
    #[must_use]
    pub fn with_partition(mut self, partition: Partition) -> Self {
        self.placement().partition = Some(partition);
        self
    }

    fn placement(&mut self) -> &mut Placement {
        Arc::make_mut(self.placement.get_or_insert_default())
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        self.data.payload()
    }

    /// The attribute, if there is one.
    #[must_use]
    pub fn attribute(&self) -> Option<&str> {
        // Behind the four bytes of its length; it was a text when it came.
        str::from_utf8(self.data.attribute_block().get(4..)?).ok()
    }

    /// The key, if there is one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.placement.as_ref()?.key.as_deref()
    }

    /// The partition that it is for, if it may go to no other.
    #[must_use]
    pub fn partition(&self) -> Option<Partition> {
        self.placement.as_ref()?.partition
    }

    /// The number of bytes that the message takes at a broker and at a consumer: its payload, and its
    /// attribute with four bytes of length. [`max_message_size`](crate::ProducerConfig::max_message_size)
    /// limits them.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.data.len()
    }

    /// Takes the payload out, whose owner's code runs when it is dropped.
    #[inline]
    pub(crate) fn take_payload(&mut self) -> Bytes {
        self.data.take_payload()
    }

    /// The command that stores it in the partition with this index.
    pub(crate) fn as_put(&self, partition: i32) -> PutRef<'_> {
        let flag = if self.data.attribute_block().is_empty() { Flag::EMPTY } else { Flag::ATTRIBUTE };
        PutRef::new(&self.topic, partition, flag, self.checksum, &self.data)
    }
}

impl fmt::Debug for Message {
    /// Shows the payload's size, not its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload().len())
            .field("attribute", &self.attribute())
            .field("key_bytes", &self.key().map(<[u8]>::len))
            .field("partition", &self.partition())
            .finish()
    }
}

/// The place at which an acknowledged message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendReceipt {
    /// The partition that holds it. The broker's id is -1 where it isn't known: with
    /// [`StaticDiscovery::direct`](crate::discovery::StaticDiscovery::direct), and with
    /// [`ProducerBuilder::broker`](crate::ProducerBuilder::broker) as long as the broker doesn't report its
    /// partitions of the topic.
    pub partition: Partition,
    /// The id that the broker gave it. Real brokers give negative ids, too.
    pub message_id: i64,
    /// The offset of the message in the partition's log, in bytes.
    pub offset: i64,
    /// The broker that stored it.
    pub broker: BrokerAddr,
    /// The number of times that it was handed to a connection until then, usually 1.
    pub attempts: u32,
}
