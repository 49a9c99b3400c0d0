//! One `get`: its request, and the messages in its answer.

use bytes::Bytes;
use metaq_protocol::{
    BooleanCommand, BrokerAddr, CorruptMessageKind, Flag, GetCommand, OffsetCommand, Partition, Response,
    Status, StoredMessages, Token, Topic,
};
use tokio::time::Instant;

use super::{
    error::{InspectError, InspectErrorKind},
    requests::Requests,
};

/// The bytes of a stored message before its data.
const HEADER_LEN: i64 = 20;

/// The consumer group of requests. Brokers don't remember it; a broker with filters may know it.
const GROUP: &str = "metaq-inspector";

/// A partition of a topic, and the broker that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: Partition,
    /// The address of the master broker.
    pub broker: BrokerAddr,
}

impl ListedPartition {
    /// Names a partition of the broker at an address.
    #[must_use]
    pub fn new(topic: Topic, partition: Partition, broker: BrokerAddr) -> Self {
        Self { topic, partition, broker }
    }
}

/// The offsets of a partition that can be read, in bytes. Both are 0 where nothing was ever stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionOffsets {
    /// The start of the oldest message that is kept.
    pub first: i64,
    /// The end of what can be read, which is the offset of the next message. A broker makes messages readable
    /// some time after it has acknowledged them.
    pub end: i64,
}

/// A message that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchedMessage {
    /// The topic.
    pub topic: Topic,
    /// The partition that holds it.
    pub partition: Partition,
    /// The start of the message in the partition's log, in bytes.
    pub offset: i64,
    /// The offset of the next message.
    pub next_offset: i64,
    /// The id that the broker assigned.
    pub id: i64,
    /// The flag of the put.
    pub flag: Flag,
    /// The attribute; an empty one differs from none. Invalid UTF-8 became U+FFFD.
    pub attribute: Option<String>,
    /// The payload.
    pub payload: Bytes,
}

/// What was found at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadItem {
    /// A message.
    Message(FetchedMessage),
    /// A message whose data doesn't match its checksum, or has no valid attribute. The next one was found by
    /// its length.
    #[non_exhaustive]
    Corrupt {
        /// The start of the message.
        offset: i64,
        /// The offset of the next message.
        next_offset: i64,
        /// The reason.
        reason: CorruptMessageKind,
    },
    /// A message that is longer than the broker sends at a time (`maxTransferSize`, 1 MiB by default). No
    /// consumer can read it.
    #[non_exhaustive]
    TooLarge {
        /// The start of the message.
        offset: i64,
        /// The offset of the next message.
        next_offset: i64,
    },
    /// The broker has nothing at the offset and named a later one: the messages in between were deleted, or
    /// a filter of the broker passed none of them.
    #[non_exhaustive]
    Skipped {
        /// The offset that was asked for.
        offset: i64,
        /// The offset to continue at.
        next_offset: i64,
    },
}

impl ReadItem {
    /// The offset to continue at.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        match self {
            Self::Message(message) => message.next_offset,
            Self::Corrupt { next_offset, .. }
            | Self::TooLarge { next_offset, .. }
            | Self::Skipped { next_offset, .. } => *next_offset,
        }
    }
}

/// Asks for the first offset of a partition, and the end of what can be read.
pub(super) async fn offsets(
    requests: &Requests,
    place: &ListedPartition,
    deadline: Instant,
) -> Result<PartitionOffsets, InspectError> {
    let action = format!("asking for the offsets of {} {}", place.topic, place.partition);
    let mut found = [0; 2];
    for (found, wanted) in found.iter_mut().zip([0, i64::MAX]) {
        let command = OffsetCommand::new(place.topic.clone(), group(), place.partition.index, wanted);
        match requests.ask(&place.broker, command, &action, deadline).await? {
            Response::Boolean(answer) if answer.status.is_success() => {
                *found = number(&answer)
                    .ok_or_else(|| InspectError::invalid_response(&action, &place.broker, "is no offset"))?;
            }
            Response::Boolean(answer) if answer.status == Status::NOT_FOUND => {
                return Ok(PartitionOffsets::default());
            }
            answer => return Err(unexpected(&action, &place.broker, &answer)),
        }
    }
    Ok(PartitionOffsets { first: found[0], end: found[1] })
}

/// Asks for at most `max_size` bytes of a partition. Returns what they hold, which is nothing at the end of
/// the log.
pub(super) async fn fetch(
    requests: &Requests,
    place: &ListedPartition,
    offset: i64,
    max_size: i32,
    deadline: Instant,
) -> Result<Vec<ReadItem>, InspectError> {
    let action = format!("reading {} {} at offset {offset}", place.topic, place.partition);
    let index = place.partition.index;
    let get = |size| GetCommand::new(place.topic.clone(), group(), index, offset, size);
    let answer = requests.ask(&place.broker, get(max_size), &action, deadline).await?;
    let body = match read(&action, place, offset, answer)? {
        Ok(body) => body,
        Err(items) => return Ok(items),
    };
    let (items, cut) = decode(place, offset, body)?;
    let Some(needed) = cut.filter(|_| items.is_empty()) else { return Ok(items) };
    let next_offset = offset.saturating_add(needed);
    let PartitionOffsets { end, .. } = offsets(requests, place, deadline).await?;
    if next_offset > end {
        // The end is that of a message; what is behind it may be half written.
        if offset >= end {
            return Ok(Vec::new());
        }
        let text = format!("{action} failed: there is no message at this offset, or its length is damaged");
        return Err(InspectError::new(InspectErrorKind::Corrupt, text));
    }
    if needed > i64::from(max_size)
        && let Ok(size) = i32::try_from(needed)
    {
        let answer = requests.ask(&place.broker, get(size), &action, deadline).await?;
        let items = match read(&action, place, offset, answer)? {
            Ok(body) => decode(place, offset, body)?.0,
            Err(items) => return Ok(items),
        };
        if !items.is_empty() {
            return Ok(items);
        }
    }
    Ok(vec![ReadItem::TooLarge { offset, next_offset }])
}

/// The bytes that a broker answers a `get` with, or the items that stand for another answer.
fn read(
    action: &str,
    place: &ListedPartition,
    offset: i64,
    answer: Response,
) -> Result<Result<Bytes, Vec<ReadItem>>, InspectError> {
    match answer {
        Response::Data(data) => Ok(Ok(data.data)),
        Response::Boolean(answer) if answer.status == Status::NOT_FOUND => Ok(Err(Vec::new())),
        Response::Boolean(answer) if answer.status == Status::MOVED => {
            let moved = number(&answer)
                .ok_or_else(|| InspectError::invalid_response(action, &place.broker, "is no offset"))?;
            // A broker may name the end of the log instead of a failure.
            let skipped = ReadItem::Skipped { offset, next_offset: moved };
            Ok(Err(if moved > offset { vec![skipped] } else { Vec::new() }))
        }
        answer => Err(unexpected(action, &place.broker, &answer)),
    }
}

/// Decodes the messages of a `value`. The second result is the length of a message that is cut at the end.
fn decode(
    place: &ListedPartition,
    start: i64,
    body: Bytes,
) -> Result<(Vec<ReadItem>, Option<i64>), InspectError> {
    let (mut items, mut base) = (Vec::new(), 0);
    loop {
        let mut messages = StoredMessages::new(body.slice(base..)).with_max_len(usize::MAX);
        let corrupt = loop {
            let at = start + (base + messages.offset()) as i64;
            match messages.next() {
                None => break None,
                Some(Ok(message)) => items.push(ReadItem::Message(FetchedMessage {
                    topic: place.topic.clone(),
                    partition: place.partition,
                    offset: at,
                    next_offset: start + (base + message.next_offset) as i64,
                    id: message.id,
                    flag: message.flag,
                    attribute: message.attribute,
                    payload: message.payload,
                })),
                Some(Err(corrupt)) => break Some((at, corrupt)),
            }
        };
        let Some((offset, corrupt)) = corrupt else {
            return Ok((items, messages.truncated().map(|tail| tail.needed as i64)));
        };
        let from = base + corrupt.offset();
        let length = body.get(from..from + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        let length = length.map_or(-1, i32::from_be_bytes);
        let Ok(length) = usize::try_from(length) else {
            // What came before is returned first; the next call begins here.
            if !items.is_empty() {
                return Ok((items, None));
            }
            let text = format!(
                "the log of partition {} is damaged at offset {offset}: {}; no later message can be found \
                 from here, read on from a later offset",
                place.partition,
                corrupt.kind()
            );
            return Err(InspectError::new(InspectErrorKind::Corrupt, text));
        };
        base = from + HEADER_LEN as usize + length;
        let (next_offset, reason) = (start + base as i64, corrupt.kind());
        items.push(ReadItem::Corrupt { offset, next_offset, reason });
    }
}

fn group() -> Token {
    #[expect(clippy::expect_used, reason = "a constant without spaces is a token")]
    GROUP.parse().expect("a valid token")
}

fn number(answer: &BooleanCommand) -> Option<i64> {
    answer.text().trim().parse().ok()
}

pub(super) fn unexpected(action: &str, broker: &BrokerAddr, answer: &Response) -> InspectError {
    match answer {
        Response::Boolean(answer) => InspectError::refused(action, broker, answer.status, &answer.text()),
        _ => InspectError::invalid_response(action, broker, "is that to another request"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use metaq_protocol::encode_stored_message;

    use super::*;

    fn place() -> ListedPartition {
        let broker = BrokerAddr::new("h", 1).unwrap();
        ListedPartition::new("t".parse().unwrap(), Partition::new(0, 0), broker)
    }

    /// A log of messages; the first byte of the data of those named is damaged.
    fn log(payloads: &[&[u8]], damaged: &[usize]) -> BytesMut {
        let mut log = BytesMut::new();
        for (n, payload) in payloads.iter().enumerate() {
            let start = log.len();
            encode_stored_message(&mut log, n as i64, Flag::EMPTY, payload);
            if damaged.contains(&n) {
                log[start + 20] ^= 1;
            }
        }
        log
    }

    #[test]
    fn damaged_message_is_reported_and_the_next_one_found() {
        let payloads: [&[u8]; 4] = [b"good", b"bad", b"worse", b"good too"];
        for damaged in [&[1][..], &[1, 2], &[0], &[3], &[0, 1, 2, 3]] {
            let (items, cut) = decode(&place(), 1000, log(&payloads, damaged).freeze()).unwrap();
            assert_eq!((items.len(), cut), (4, None));
            let mut at = 1000;
            for (n, (item, payload)) in items.iter().zip(payloads).enumerate() {
                let offset = match item {
                    ReadItem::Message(message) => {
                        assert!(message.payload == payload && message.id == n as i64);
                        message.offset
                    }
                    ReadItem::Corrupt { offset, reason: CorruptMessageKind::Checksum { .. }, .. } => {
                        assert!(damaged.contains(&n));
                        *offset
                    }
                    _ => panic!("{item:?}"),
                };
                assert_eq!((offset, item.next_offset()), (at, at + 20 + payload.len() as i64));
                at = item.next_offset();
            }
        }
    }

    #[test]
    fn damaged_length_ends_the_reading_after_what_came_before() {
        let mut bytes = log(&[b"good", b"bad"], &[]);
        bytes[24] = 0xff;
        let (items, cut) = decode(&place(), 0, bytes.clone().freeze()).unwrap();
        assert_eq!((items.len(), cut), (1, None));
        let error = decode(&place(), 24, bytes.freeze().slice(24..)).unwrap_err();
        assert_eq!(error.kind(), InspectErrorKind::Corrupt);
        assert!(error.to_string().contains("damaged at offset 24: its length"), "{error}");
    }

    #[test]
    fn every_cut_leaves_the_messages_before_it_whole() {
        let bytes = log(&[b"first", b"", b"third"], &[]).freeze();
        for length in 0..=bytes.len() {
            let (items, cut) = decode(&place(), 7, bytes.slice(..length)).unwrap();
            let ends = [25, 45, 70];
            assert_eq!(items.len(), ends.iter().filter(|end| **end <= length).count());
            assert_eq!(cut.is_some(), length > 0 && !ends.contains(&length), "{length}");
        }
    }
}
