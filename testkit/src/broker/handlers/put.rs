//! The handler of `put`, in a transaction or not (protocol §3.1, protocol §3.7).

use std::sync::atomic::Ordering;

use metaq_protocol::{
    Opaque, Partition, PutCommand, PutResponse, Response, Status, TransactionId, encode_stored_message,
};

use super::response::{NULL_ID, result};
use crate::broker::{
    shared::BrokerShared,
    store::StoreError,
    transactions::{LocalTransactions, PendingMessage},
};

/// The number of bytes of a stored message besides its data.
const STORED_HEADER_LEN: usize = 20;

impl BrokerShared {
    /// Stores a message by the rules of protocol §3.1.
    pub(super) fn put(&self, put: &PutCommand) -> Response {
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
            let index = self.resolve_partition(put.partition, self.topics.partitions(None));
            return failed(index, &format!("Detail:The server do not accept topic {}", put.topic));
        };
        if topic.is_closed(put.partition) {
            let detail = format!("Detail:partition[{}-{}] has been closed", self.id, put.partition);
            return refused(Status::FORBIDDEN, put.partition, &detail);
        }
        // The choice includes closed partitions (protocol §3.1).
        let index = self.resolve_partition(put.partition, self.topics.partitions(Some(&topic)));
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
        let stored = self.topics.append(&log, 1, STORED_HEADER_LEN + data.len(), |to| {
            encode_stored_message(to, id, put.flag, &data);
        });
        match stored {
            Ok(offset) => put_response(put.opaque, id, index, offset.cast_signed()),
            Err(_) => failed(index, ""),
        }
    }

    fn resolve_partition(&self, partition: i32, partitions: u32) -> i32 {
        if partition != Partition::ANY_INDEX {
            return partition;
        }
        self.random.lock().u32(0..partitions.max(1)).cast_signed()
    }

    /// Adds a message to a transaction by the rules of protocol §3.7: error texts have no prefix, checksums
    /// and closed partitions are not checked, and the response contains no offset.
    pub(super) fn put_in_transaction(
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
        put_response(put.opaque, message_id, index, -1)
    }

    /// Returns the next message id, composed as in a Java broker: milliseconds, ten bits of the broker's id,
    /// twelve of a count. The milliseconds don't come from a clock, so that a run can be repeated.
    fn next_id(&self) -> i64 {
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        ((count >> 12) << 22) | (i64::from(self.id.0) & 0x3ff) << 12 | (count & 0xfff)
    }
}

fn put_response(opaque: Opaque, message_id: i64, partition: i32, offset: i64) -> Response {
    result(opaque, Status::SUCCESS, PutResponse { message_id, partition, offset }.to_body())
}
