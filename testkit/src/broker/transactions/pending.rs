//! The messages of transactions until they are committed, local and XA alike.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Flag, encode_stored_message};
use tokio::time::Instant;

use crate::broker::store::{TopicEntry, Topics};

/// A message of a transaction, which is stored when it commits.
#[derive(Clone, Debug)]
pub(in crate::broker) struct PendingMessage {
    pub(in crate::broker) topic: Arc<TopicEntry>,
    pub(in crate::broker) partition: i32,
    pub(in crate::broker) id: i64,
    pub(in crate::broker) flag: Flag,
    pub(in crate::broker) data: Bytes,
}

/// Stores messages, those for one partition in one append. Returns false if one could not be stored.
pub(in crate::broker) fn store_all(messages: &[PendingMessage], topics: &Topics) -> bool {
    let mut batches = BTreeMap::<(&str, i32), Vec<&PendingMessage>>::new();
    for pending in messages {
        batches.entry((&pending.topic.name, pending.partition)).or_default().push(pending);
    }
    batches.into_values().all(|batch| {
        let mut bytes = BytesMut::new();
        for pending in &batch {
            // With a new checksum: transactions accept wrong ones (B-10).
            encode_stored_message(&mut bytes, pending.id, pending.flag, &pending.data);
        }
        let Ok(log) = topics.log(&batch[0].topic, batch[0].partition) else { return false };
        let write = |to: &mut BytesMut| to.extend_from_slice(&bytes);
        topics.append(&log, batch.len() as u64, bytes.len(), write).is_ok()
    })
}

/// Returns the time at which a transaction that begins now times out: after `seconds`, at most `most`; never
/// if it is 0 or negative.
pub(in crate::broker) fn deadline(seconds: i32, most: Duration) -> Option<Instant> {
    let timeout = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    timeout.map(|timeout| Instant::now() + timeout.min(most))
}
