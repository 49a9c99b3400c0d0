//! `put`: store a message.

use bytes::{Bytes, BytesMut};

use crate::{
    Checksum, Flag, Opaque, PutData, Topic, TransactionId,
    encode::{Encode, frame_methods},
    number::{LineBuilder, text_len},
};

/// `put`: store a message.
///
/// ```text
/// put topic partition length flag checksum opaque\r\ndata
/// put topic partition length flag checksum transaction opaque\r\ndata
///
/// >> put test 1 12 1 1013066540 4\r\n\x00\x00\x00\x03abchello
/// << result 200 25 4\r\n-5468924306434031616 1 31
/// ```
///
/// The layouts before 1.4.4, without a checksum, can be decoded but are never encoded. The response to a
/// stored message is a [`PutResponse`](crate::PutResponse).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutCommand {
    /// The topic to store the message in.
    pub topic: Topic,
    /// The partition within the broker; with -1 the broker draws one, including closed ones.
    pub partition: i32,
    /// The flag, which announces an attribute at the start of the data.
    pub flag: Flag,
    /// The checksum of the data. The broker refuses a wrong one, except inside a transaction.
    pub checksum: Checksum,
    /// The transaction that the message belongs to.
    pub transaction: Option<TransactionId>,
    /// The number that the response repeats.
    pub opaque: Opaque,
    /// Attribute and payload.
    pub data: PutData,
}

impl PutCommand {
    /// Creates a put of one message, with the matching flag and checksum. The opaque is [`Opaque::default()`]
    /// until it is set.
    #[must_use]
    pub fn new(topic: Topic, partition: i32, payload: Bytes, attribute: Option<&str>) -> Self {
        let flag = if attribute.is_some() { Flag::ATTRIBUTE } else { Flag::EMPTY };
        Self::from_data(topic, partition, flag, PutData::new(payload, attribute))
    }

    /// Creates a put of encoded data, with the matching checksum.
    #[must_use]
    pub fn from_data(topic: Topic, partition: i32, flag: Flag, data: PutData) -> Self {
        Self {
            topic,
            partition,
            flag,
            checksum: data.checksum(),
            transaction: None,
            opaque: Opaque::default(),
            data,
        }
    }

    /// Creates a put of data with a known checksum, for instance to send it a second time.
    #[must_use]
    pub fn from_checked(topic: Topic, partition: i32, flag: Flag, checksum: Checksum, data: PutData) -> Self {
        Self { topic, partition, flag, checksum, transaction: None, opaque: Opaque::default(), data }
    }

    /// Sets the transaction.
    #[must_use]
    pub fn with_transaction(mut self, transaction: TransactionId) -> Self {
        self.transaction = Some(transaction);
        self
    }

    /// Sets the opaque.
    #[must_use]
    pub fn with_opaque(mut self, opaque: Opaque) -> Self {
        self.opaque = opaque;
        self
    }

    /// Sets the checksum, for instance to [`Checksum::NONE`].
    #[must_use]
    pub fn with_checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// A borrowed form of the same put.
    #[must_use]
    pub fn as_put(&self) -> PutRef<'_> {
        PutRef {
            topic: &self.topic,
            partition: self.partition,
            flag: self.flag,
            checksum: self.checksum,
            transaction: self.transaction.as_ref(),
            opaque: self.opaque,
            data: &self.data,
        }
    }
}

impl Encode for PutCommand {
    fn head_len(&self) -> usize {
        self.as_put().head_len()
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        self.as_put().write_head(dst, body_len);
    }

    fn body(&self) -> (&Bytes, &Bytes) {
        self.data.parts()
    }
}

frame_methods!(PutCommand);

/// A [`PutCommand`] with borrowed parts, to encode it without copying them.
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use metaq_protocol::{Flag, Opaque, PutData, PutRef, Topic};
///
/// let (topic, data) = (Topic::new("orders")?, PutData::new(Bytes::from("hello"), None));
/// let put = PutRef::new(&topic, 1, Flag::EMPTY, data.checksum(), &data).with_opaque(Opaque(7));
/// let mut frame = BytesMut::new();
/// put.encode(&mut frame);
/// assert_eq!(frame, "put orders 1 5 0 907060870 7\r\nhello");
/// # Ok::<(), metaq_protocol::InvalidTopic>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutRef<'a> {
    /// The topic to store the message in.
    pub topic: &'a Topic,
    /// The partition within the broker; see [`PutCommand::partition`].
    pub partition: i32,
    /// The flag, which announces an attribute at the start of the data.
    pub flag: Flag,
    /// The checksum of the data.
    pub checksum: Checksum,
    /// The transaction that the message belongs to.
    pub transaction: Option<&'a TransactionId>,
    /// The number that the response repeats.
    pub opaque: Opaque,
    /// Attribute and payload.
    pub data: &'a PutData,
}

impl<'a> PutRef<'a> {
    /// Creates a put of data with a known checksum.
    #[must_use]
    pub fn new(topic: &'a Topic, partition: i32, flag: Flag, checksum: Checksum, data: &'a PutData) -> Self {
        Self { topic, partition, flag, checksum, transaction: None, opaque: Opaque::default(), data }
    }

    /// Sets the opaque.
    #[must_use]
    pub fn with_opaque(self, opaque: Opaque) -> Self {
        Self { opaque, ..self }
    }

    /// Creates an owned form of the same put. Topic and data are shared.
    #[must_use]
    pub fn to_put(&self) -> PutCommand {
        PutCommand {
            topic: self.topic.clone(),
            partition: self.partition,
            flag: self.flag,
            checksum: self.checksum,
            transaction: self.transaction.cloned(),
            opaque: self.opaque,
            data: self.data.clone(),
        }
    }

    fn length(&self) -> i64 {
        self.data.len() as i64
    }

    /// Writes the numbers between topic and transaction.
    #[inline]
    fn write_numbers(&self, line: &mut LineBuilder) {
        line.number(self.checksum.0).number(self.flag.0).number(self.length()).number(self.partition);
    }
}

impl Encode for PutRef<'_> {
    fn head_len(&self) -> usize {
        let transaction = self.transaction.map_or(0, |id| 1 + id.as_str().len());
        "put ".len()
            + self.topic.len()
            + 1
            + text_len(self.partition.into())
            + 1
            + text_len(self.length())
            + 1
            + text_len(self.flag.0.into())
            + 1
            + text_len(self.checksum.0.into())
            + transaction
            + 1
            + text_len(self.opaque.0.into())
            + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        let mut line = LineBuilder::line_end();
        line.number(self.opaque.0);
        if let Some(id) = self.transaction {
            let mut words = LineBuilder::new();
            self.write_numbers(&mut words);
            let rest = 1 + id.as_str().len() + line.as_bytes().len() + body_len;
            words.append_to(dst, [b"put ", self.topic.as_bytes()], rest);
            line.append_to(dst, [b" ", id.as_str().as_bytes()], body_len);
        } else {
            self.write_numbers(&mut line);
            line.append_to(dst, [b"put ", self.topic.as_bytes()], body_len);
        }
    }

    fn body(&self) -> (&Bytes, &Bytes) {
        self.data.parts()
    }
}

frame_methods!(PutRef<'_>);
