//! The answers of the broker to each request (protocol §3).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use metaq_protocol::{
    BooleanCommand, Command, DataCommand, GetCommand, OffsetCommand, Opaque, Partition, PutCommand,
    PutResponse, Response, Status, SyncCommand, TransactionId, encode_stored_message,
};

use super::{
    BrokerShared, local_transactions::LocalTransactions, topics::StoreError, transactions::PendingMessage,
};

/// The text of a broker without a handler for `sync`: a master.
const NO_SYNC: &str = "未注册请求处理器，请求处理器类为com.taobao.metamorphosis.network.SyncCommand";

/// The text of the id `null` in a Java broker.
pub(super) const NULL_ID: &str = "com.taobao.metamorphosis.transaction.NullTransactionId@1";

/// The bytes of a stored message besides its data.
const STORED_HEADER: usize = 20;

/// Makes an answer.
pub(super) fn result(opaque: Opaque, status: Status, text: impl Into<Bytes>) -> Response {
    BooleanCommand::new(status, text.into(), opaque).into()
}

impl BrokerShared {
    /// Carries out a request. None for what is never answered.
    pub(super) fn handle(
        &self,
        command: &Command,
        local_transactions: &mut LocalTransactions,
    ) -> Option<Response> {
        let opaque = command.opaque();
        Some(match command {
            Command::Put(put) => match &put.transaction {
                None => self.put(put),
                Some(id) => self.put_in_transaction(put, id, local_transactions),
            },
            Command::Get(get) => self.get(get),
            Command::Offset(offset) => self.offset(offset),
            Command::Stats(stats) => {
                result(opaque, Status::SUCCESS, self.stats(stats.item.as_deref().unwrap_or_default()))
            }
            Command::Version(_) => {
                result(opaque, Status::SUCCESS, Bytes::from_static(super::VERSION.as_bytes()))
            }
            Command::Transaction(transaction) => return self.transaction(transaction, local_transactions),
            Command::Sync(SyncCommand { .. }) => result(opaque, Status::SERVICE_UNAVAILABLE, NO_SYNC),
            _ => return None,
        })
    }

    /// Rules of protocol §3.1.
    fn put(&self, put: &PutCommand) -> Response {
        self.counters.put.add_one();
        let refused = |status, index: i32, detail: &str| {
            let Self { addr, .. } = self;
            let topic = &put.topic;
            let text =
                format!("Put message to [broker '{addr}'] [partition '{topic}-{index}'] failed.{detail}");
            result(put.opaque, status, text)
        };
        let failed = |index: i32, detail: &str| {
            self.counters.put_failed.add_one();
            refused(Status::INTERNAL_SERVER_ERROR, index, detail)
        };
        let Some(topic) = self.topics.accepting(&put.topic) else {
            let index = self.drawn_if_any(put.partition, self.topics.partitions(None));
            return failed(index, &format!("Detail:The server do not accept topic {}", put.topic));
        };
        if topic.is_closed(put.partition) {
            let detail = format!("Detail:partition[{}-{}] has been closed", self.id, put.partition);
            return refused(Status::FORBIDDEN, put.partition, &detail);
        }
        // Closed partitions are drawn as well (protocol §3.1).
        let index = self.drawn_if_any(put.partition, self.topics.partitions(Some(&topic)));
        let log = match self.topics.log(&topic, index) {
            Ok(log) => log,
            Err(StoreError::Storage) => return failed(index, ""),
            Err(StoreError::Partition) => return failed(index, &format!("Detail:wrong partition {index}")),
        };
        self.announce_topic(&topic);
        let data = put.data.to_bytes();
        if !put.checksum.matches(&data) {
            let detail = "Detail:Checksum failure,message may be corrupted when transfering on networking.";
            return failed(index, detail);
        }
        let id = self.next_id();
        let stored = self.topics.append(&log, 1, STORED_HEADER + data.len(), |to| {
            encode_stored_message(to, id, put.flag, &data);
        });
        match stored {
            Ok(offset) => stored_at(put.opaque, id, index, offset.cast_signed()),
            Err(_) => failed(index, ""),
        }
    }

    fn drawn_if_any(&self, partition: i32, partitions: u32) -> i32 {
        if partition != Partition::ANY_INDEX {
            return partition;
        }
        self.random.lock().u32(0..partitions.max(1)).cast_signed()
    }

    /// Rules of protocol §3.7: no prefix before the texts, no look at checksums and closed partitions, no offset.
    fn put_in_transaction(
        &self,
        put: &PutCommand,
        id: &TransactionId,
        local_transactions: &mut LocalTransactions,
    ) -> Response {
        let refused = |text: String| result(put.opaque, Status::INTERNAL_SERVER_ERROR, text);
        let not_begun = |id: &str| refused(format!("Local transaction '{id}' has not been started."));
        let mut xa;
        let transaction = match id {
            TransactionId::Local(id) if local_transactions.has(id) => None,
            TransactionId::Local(id) => return not_begun(id.as_str()),
            TransactionId::Xa(id) => {
                xa = self.transactions.lock();
                match xa.get(id) {
                    Ok(transaction) => {
                        transaction.used = true;
                        Some(transaction)
                    }
                    Err(error) => return refused(error.message),
                }
            }
            _ => return not_begun(NULL_ID),
        };
        let index = put.partition;
        if index == Partition::ANY_INDEX {
            self.counters.put_failed.add_one();
            return refused(format!("Invalid partition for transaction command:{index}"));
        }
        let Some(topic) = self.topics.accepting(&put.topic) else {
            return refused(format!("The server do not accept topic {}", put.topic));
        };
        if let Err(not_taken) = self.topics.log(&topic, index) {
            return refused(match not_taken {
                StoreError::Storage => format!("The log of {}-{index} can not be opened", put.topic),
                StoreError::Partition => format!("wrong partition {index}"),
            });
        }
        self.counters.put.add_one();
        let message_id = self.next_id();
        let data = put.data.to_bytes();
        let pending = PendingMessage { topic, partition: index, id: message_id, flag: put.flag, data };
        match (transaction, id) {
            (Some(transaction), _) => transaction.keep(pending),
            (None, TransactionId::Local(id)) => LocalTransactions::keep(&self.local_messages, id, pending),
            (None, _) => return not_begun(NULL_ID),
        }
        stored_at(put.opaque, message_id, index, -1)
    }

    /// Rules of protocol §3.2.
    fn get(&self, get: &GetCommand) -> Response {
        self.counters.get.add_one();
        let text = |status, text: String| result(get.opaque, status, text);
        let miss = |status, handle: String| {
            self.counters.get_miss.add_one();
            text(status, handle)
        };
        let moved = |offset: u64| {
            self.counters.offset.add_one();
            miss(Status::MOVED, offset.to_string())
        };
        let topic = self.topics.get(&get.topic);
        if topic.as_ref().is_some_and(|topic| topic.is_closed(get.partition)) {
            return text(
                Status::FORBIDDEN,
                format!("Partition[{}-{}] has been closed", self.id, get.partition),
            );
        }
        let Some(log) = topic.and_then(|topic| topic.existing_log(get.partition)) else {
            return miss(Status::NOT_FOUND, no_store(&get.topic, get.partition));
        };
        let Some(max) = usize::try_from(get.max_size).ok().filter(|max| *max > 0) else {
            return text(Status::BAD_REQUEST, format!("Bad request,invalid max size:{}", get.max_size));
        };
        let mut log = log.lock();
        let (first, end) = (log.first_offset(), log.readable_end());
        match u64::try_from(get.offset) {
            Err(_) => moved(first),
            Ok(offset) if offset < first => moved(first),
            Ok(offset) if offset >= end && get.offset == i64::MAX => moved(end),
            Ok(offset) if offset >= end => {
                miss(Status::NOT_FOUND, format!("Could not find message at position {offset}"))
            }
            Ok(offset) => match log.read(offset, max.min(self.settings.max_transfer)) {
                Ok(data) => DataCommand::new(data, get.opaque).into(),
                Err(error) => text(Status::INTERNAL_SERVER_ERROR, error.to_string()),
            },
        }
    }

    /// Rules of protocol §3.3.
    fn offset(&self, command: &OffsetCommand) -> Response {
        self.counters.offset.add_one();
        let topic = self.topics.get(&command.topic);
        let Some(log) = topic.and_then(|topic| topic.existing_log(command.partition)) else {
            return result(command.opaque, Status::NOT_FOUND, no_store(&command.topic, command.partition));
        };
        let mut log = log.lock();
        let (first, end) = (log.first_offset(), log.readable_end());
        let offset = match u64::try_from(command.offset) {
            Ok(offset) if offset >= end => end,
            Ok(offset) if offset >= first => log.segment_start(offset),
            _ => first,
        };
        result(command.opaque, Status::SUCCESS, offset.to_string())
    }

    /// Ids are made as a Java broker makes them: milliseconds, ten bits of the broker's number, twelve of a count. The
    /// milliseconds are not those of a clock, so that a run can be repeated.
    fn next_id(&self) -> i64 {
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        ((count >> 12) << 22) | (i64::from(self.id.0) & 0x3ff) << 12 | (count & 0xfff)
    }
}

fn stored_at(opaque: Opaque, message_id: i64, partition: i32, offset: i64) -> Response {
    result(opaque, Status::SUCCESS, PutResponse { message_id, partition, offset }.to_body())
}

fn no_store(topic: &str, partition: i32) -> String {
    format!("The topic `{topic}` in partition `{partition}` is not exists")
}
