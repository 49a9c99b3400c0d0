//! Messages as rows of the store.

use std::time::Duration;

use bytes::Bytes;
use metaq_producer::{Message, Partition, Topic};

use crate::fields::{BadRow, Reader, Writer};

/// The messages that are kept and replayed in one order: those of a topic for one partition, or those whose
/// partition is chosen when they are sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueKey {
    pub(crate) topic: Topic,
    pub(crate) partition: Option<Partition>,
}

impl QueueKey {
    pub(crate) fn of(message: &Message) -> Self {
        Self { topic: message.topic().clone(), partition: message.partition() }
    }
}

/// A message as it was read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) message: Message,
    /// When it was spooled, on the spool's clock.
    pub(crate) time: Duration,
}

const HAS_ATTRIBUTE: u8 = 1;
const HAS_KEY: u8 = 2;

/// The row of a message: the time, what it has, topic, partition, attribute and key, and the payload.
pub(crate) fn encode(message: &Message, time: Duration) -> Vec<u8> {
    let (attribute, key) = (message.attribute(), message.key());
    let extra = attribute.map_or(0, |text| text.len() + 4) + key.map_or(0, |key| key.len() + 4);
    let topic = message.topic().as_str();
    let mut writer = Writer::with_capacity(8 + 1 + 4 + topic.len() + 9 + extra + message.payload().len());
    writer.u64(millis(time));
    let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
    writer.u8(flag(attribute.is_some(), HAS_ATTRIBUTE) | flag(key.is_some(), HAS_KEY));
    writer.bytes(topic.as_bytes());
    writer.partition(message.partition());
    if let Some(attribute) = attribute {
        writer.bytes(attribute.as_bytes());
    }
    if let Some(key) = key {
        writer.bytes(key);
    }
    writer.rest(message.payload());
    writer.finish()
}

/// Reads a message; its payload is a part of the row.
pub(crate) fn decode(row: Vec<u8>) -> Result<Record, (Vec<u8>, BadRow)> {
    let (message, time, payload) = match decode_head(&row) {
        Ok(head) => head,
        Err(error) => return Err((row, error)),
    };
    let payload = Bytes::from(row).split_off(payload);
    Ok(Record { message: message(payload), time })
}

/// Everything before the payload, and where that begins.
fn decode_head(row: &[u8]) -> Result<(impl FnOnce(Bytes) -> Message + use<>, Duration, usize), BadRow> {
    let mut reader = Reader::new(row)?;
    let time = Duration::from_millis(reader.u64()?);
    let flags = reader.u8()?;
    let topic = reader.topic()?;
    let partition = reader.partition()?;
    let attribute = if flags & HAS_ATTRIBUTE != 0 { Some(reader.text()?.to_owned()) } else { None };
    let key = if flags & HAS_KEY != 0 { Some(reader.bytes()?.to_vec()) } else { None };
    let payload = row.len() - reader.remaining();
    let message = move |payload| {
        let mut message = Message::new(topic, payload);
        if let Some(attribute) = attribute {
            message.set_attribute(attribute);
        }
        if let Some(key) = key {
            message = message.with_key(key);
        }
        match partition {
            Some(partition) => message.with_partition(partition),
            None => message,
        }
    };
    Ok((message, time, payload))
}

/// The time of a row, without reading the rest.
pub(crate) fn time(row: &[u8]) -> Result<Duration, BadRow> {
    Ok(Duration::from_millis(Reader::new(row)?.u64()?))
}

/// A message that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetAside {
    pub(crate) queue: u32,
    pub(crate) reason: String,
    pub(crate) attempts: u32,
    /// When it was set aside, on the spool's clock.
    pub(crate) time: Duration,
    /// The message's row, as it was stored.
    pub(crate) row: Vec<u8>,
}

impl SetAside {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(20 + self.reason.len() + self.row.len());
        writer.u32(self.queue);
        writer.u32(self.attempts);
        writer.u64(millis(self.time));
        writer.bytes(self.reason.as_bytes());
        writer.rest(&self.row);
        writer.finish()
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, BadRow> {
        let mut reader = Reader::new(row)?;
        let (queue, attempts) = (reader.u32()?, reader.u32()?);
        let time = Duration::from_millis(reader.u64()?);
        let reason = reader.text()?.to_owned();
        let message = row[row.len() - reader.remaining()..].to_vec();
        Ok(Self { queue, reason, attempts, time, row: message })
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let topic: Topic = "orders".parse().unwrap();
        let plain = Message::new(topic, &b"pay\r\nload"[..]);
        vec![
            plain.clone(),
            plain.clone().with_attribute(""),
            plain.clone().with_attribute("ü").with_key([0, 255]),
            plain.clone().with_key("").with_partition(Partition::new(-1, 3)),
            plain.with_attribute("a").with_partition(Partition::new(7, i32::MAX)),
            Message::new("t".parse().unwrap(), Bytes::new()),
        ]
    }

    #[test]
    fn messages_survive_with_attribute_key_and_partition() {
        for message in messages() {
            let row = encode(&message, Duration::from_millis(5));
            assert_eq!(time(&row), Ok(Duration::from_millis(5)));
            let record = decode(row).unwrap();
            assert_eq!(record, Record { message, time: Duration::from_millis(5) });
        }
    }

    #[test]
    fn a_damaged_row_is_given_back_with_the_reason() {
        for message in messages() {
            let row = encode(&message, Duration::ZERO);
            for at in 0..row.len() {
                let mut flipped = row.clone();
                flipped[at] ^= 0x10;
                let (given_back, reason) = decode(flipped.clone()).unwrap_err();
                assert_eq!(given_back, flipped);
                assert!(reason.to_string().starts_with("its "), "{reason}");
            }
        }
    }

    #[test]
    fn what_is_set_aside_keeps_reason_attempts_and_bytes() {
        let aside = SetAside {
            queue: 3,
            reason: "the broker answered 400".to_owned(),
            attempts: 5,
            time: Duration::from_secs(9),
            row: vec![1, 2, 3],
        };
        assert_eq!(SetAside::decode(&aside.encode()), Ok(aside));
    }
}
