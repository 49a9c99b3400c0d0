//! The embedded broker's topics, and what it answers about them.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, BrokerId, DataCommand, GetCommand, OffsetCommand, Partition, PutAnswer, PutCommand,
    Response, StatsCommand, Status, StoredMessages, encode_stored_message,
};

/// The ids of a real broker are negative too: its clock counts from the machine's start (findings).
const FIRST_ID: i64 = -5_468_927_679_426_199_552;

/// As the shipped setting `maxTransferSize`: what one `get` returns at most.
const MAX_TRANSFER: usize = 1024 * 1024;

/// A message as the embedded broker stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The partition that holds it.
    pub partition: Partition,
    /// Where it begins in the partition's log, in bytes.
    pub offset: i64,
    /// Its id.
    pub id: i64,
    /// Its attribute; an empty one is not the same as none.
    pub attribute: Option<String>,
    /// Its payload.
    pub payload: Bytes,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) broker: BrokerId,
    addr: String,
    topics: BTreeMap<String, Vec<Log>>,
    next_id: i64,
    next_any: usize,
}

/// One partition: its messages one after another, as a real segment file holds them.
#[derive(Debug, Default)]
struct Log {
    bytes: BytesMut,
    messages: u64,
    /// A real broker makes a partition's store at its first put; before, a `get` finds nothing there.
    touched: bool,
}

impl Store {
    pub(super) fn new(broker: BrokerId, addr: String) -> Self {
        Self { broker, addr, topics: BTreeMap::new(), next_id: FIRST_ID, next_any: 0 }
    }

    pub(super) fn set_topic(&mut self, topic: &str, partitions: u32) {
        let logs = self.topics.entry(topic.to_owned()).or_default();
        logs.resize_with(partitions as usize, Log::default);
    }

    pub(super) fn messages(&self, topic: &str) -> Vec<Stored> {
        let logs = self.topics.get(topic).map_or(&[][..], Vec::as_slice);
        let mut all = Vec::new();
        for (index, log) in logs.iter().enumerate() {
            let partition = Partition { broker: self.broker, index: index as i32 };
            let mut offset = 0;
            for message in StoredMessages::new(Bytes::copy_from_slice(&log.bytes)) {
                // A put with a faulty attribute block is stored like any other, and shown as it is.
                let Ok(message) = message else { break };
                all.push(Stored {
                    partition,
                    offset,
                    id: message.id,
                    attribute: message.attribute.clone(),
                    payload: message.payload.clone(),
                });
                offset = message.next_offset as i64;
            }
        }
        all
    }

    /// Rules of wire §3.1.
    pub(super) fn put(&mut self, put: &PutCommand) -> Response {
        if let Some(id) = &put.transaction {
            return refuse(put.opaque, format!("Local transaction '{id}' has not been started."));
        }
        let failed = |addr: &str, index: i32, detail: String| {
            format!(
                "Put message to [broker '{addr}'] [partition '{}-{index}'] failed.Detail:{detail}",
                put.topic
            )
        };
        let Some(logs) = self.topics.get_mut(put.topic.as_str()) else {
            let detail = format!("The server do not accept topic {}", put.topic);
            return refuse(put.opaque, failed(&self.addr, put.partition, detail));
        };
        let index = match put.partition {
            Partition::ANY_INDEX if !logs.is_empty() => {
                self.next_any = (self.next_any + 1) % logs.len();
                self.next_any as i32
            }
            index => index,
        };
        let Some(log) = usize::try_from(index).ok().and_then(|index| logs.get_mut(index)) else {
            let detail = format!("wrong partition {}", put.partition);
            return refuse(put.opaque, failed(&self.addr, put.partition, detail));
        };
        log.touched = true;
        let data = put.data.to_bytes();
        if !put.checksum.matches(&data) {
            let detail =
                "Checksum failure,message may be corrupted when transfering on networking.".to_owned();
            return refuse(put.opaque, failed(&self.addr, index, detail));
        }
        let answer = PutAnswer { message_id: self.next_id, partition: index, offset: log.bytes.len() as i64 };
        encode_stored_message(&mut log.bytes, self.next_id, put.flag, &data);
        log.messages += 1;
        self.next_id += 1;
        BooleanCommand::new(Status::SUCCESS, answer.to_string().into(), put.opaque).into()
    }

    /// Rules of wire §3.2.
    pub(super) fn get(&self, get: &GetCommand) -> Response {
        let text = |status, text: String| BooleanCommand::new(status, text.into(), get.opaque).into();
        let Some(log) = self.log(&get.topic, get.partition) else {
            return text(Status::NOT_FOUND, no_store(&get.topic, get.partition));
        };
        if get.max_size <= 0 {
            return text(Status::BAD_REQUEST, format!("Bad request,invalid max size:{}", get.max_size));
        }
        let end = log.bytes.len() as i64;
        match get.offset {
            ..0 => text(Status::MOVED, "0".to_owned()),
            i64::MAX => text(Status::MOVED, end.to_string()),
            offset if offset >= end => {
                text(Status::NOT_FOUND, format!("Could not find message at position {offset}"))
            }
            offset => {
                let from = offset as usize;
                let length = (log.bytes.len() - from).min(get.max_size as usize).min(MAX_TRANSFER);
                let data = Bytes::copy_from_slice(&log.bytes[from..from + length]);
                DataCommand::new(data, get.opaque).into()
            }
        }
    }

    /// Rules of wire §3.3. There is one segment, which starts at 0.
    pub(super) fn offset(&self, command: &OffsetCommand) -> Response {
        match self.log(&command.topic, command.partition) {
            None => {
                let text = no_store(&command.topic, command.partition);
                BooleanCommand::new(Status::NOT_FOUND, text.into(), command.opaque).into()
            }
            Some(log) => {
                let end = log.bytes.len() as i64;
                let offset = if command.offset >= end { end } else { 0 };
                BooleanCommand::new(Status::SUCCESS, offset.to_string().into(), command.opaque).into()
            }
        }
    }

    /// Rules of wire §3.4, for the items that matter to a producer.
    pub(super) fn stats(&self, command: &StatsCommand) -> Response {
        let mut text = String::from("STATS\r\n");
        match command.item.as_deref() {
            None | Some("") => {
                let total: u64 = self.topics.values().flatten().map(|log| log.messages).sum();
                let count = self.topics.len();
                let broker = self.broker;
                // Writing to a string can't fail.
                let _ = write!(
                    text,
                    "pid {}\r\nbroker_id {broker}\r\nversion 0.1\r\nslave false\r\ntotal_messages {total}\r\ntopics {count}\r\n",
                    std::process::id()
                );
            }
            Some("topics") => {
                for (topic, logs) in &self.topics {
                    let (messages, bytes) = totals(logs);
                    let partitions = touched(logs);
                    if partitions == 0 {
                        let _ = write!(text, "{topic} *Empty*\r\n");
                        continue;
                    }
                    let _ = write!(
                        text,
                        "{topic} partitions {partitions} message_count {messages} message_bytes {bytes} accept_publish true accept_subscribe true\r\n"
                    );
                }
            }
            Some("config") => {
                text = format!("[system]\nbrokerId={}\n", self.broker);
                for (topic, logs) in &self.topics {
                    let _ = write!(text, "[topic={topic}]\nnumPartitions={}\n", logs.len());
                }
                return BooleanCommand::new(Status::SUCCESS, text.into(), command.opaque).into();
            }
            Some(topic) => {
                let logs = self.topics.get(topic);
                let (messages, bytes) = logs.map_or((0, 0), |logs| totals(logs));
                let code = if logs.is_none() {
                    1
                } else if messages == 0 {
                    2
                } else {
                    0
                };
                let partitions = logs.map_or(0, |logs| touched(logs));
                let _ = write!(
                    text,
                    "{topic}\r\nresultCode {code}\r\npartitions {partitions}\r\nmessage_count {messages}\r\nbytes {bytes}\r\n"
                );
            }
        }
        text.push_str("END\r\n");
        BooleanCommand::new(Status::SUCCESS, text.into(), command.opaque).into()
    }

    fn log(&self, topic: &str, partition: i32) -> Option<&Log> {
        let log = self.topics.get(topic)?.get(usize::try_from(partition).ok()?)?;
        log.touched.then_some(log)
    }
}

/// How many partitions a real broker counts: those that hold something.
fn touched(logs: &[Log]) -> usize {
    logs.iter().filter(|log| log.touched).count()
}

fn totals(logs: &[Log]) -> (u64, usize) {
    (logs.iter().map(|log| log.messages).sum(), logs.iter().map(|log| log.bytes.len()).sum())
}

fn no_store(topic: &str, partition: i32) -> String {
    format!("The topic `{topic}` in partition `{partition}` is not exists")
}

fn refuse(opaque: metaq_protocol::Opaque, text: String) -> Response {
    BooleanCommand::new(Status::INTERNAL_SERVER_ERROR, text.into(), opaque).into()
}
