//! Counting the puts of each partition that are at a broker without a response.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use metaq_protocol::PutCommand;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Counts the puts of each partition that a [`Broker`](crate::Broker) has received and not answered yet,
/// except those in transactions. Made by [`Broker::monitor_puts`](crate::Broker::monitor_puts). Clones share
/// their counts.
///
/// A put is unanswered from when the broker has read it until the broker writes its response or its
/// connection ends. Two puts that arrive together are both unanswered for a moment, however fast the broker
/// is.
///
/// The monitor keeps the data of all puts, so it is meant for tests that send little.
#[derive(Clone, Debug, Default)]
pub struct PutMonitor(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<String, BTreeMap<i32, Unanswered>>,
    /// The number of puts with each data.
    data: HashMap<Bytes, u64>,
}

#[derive(Debug, Default)]
struct Unanswered {
    /// The arrival times of the unanswered puts, by number.
    now: BTreeMap<u64, Instant>,
    most: usize,
    total: u64,
    shortest_overlap: Option<Duration>,
}

impl PutMonitor {
    /// Returns the number of puts of a partition that are unanswered now.
    #[must_use]
    pub fn unanswered(&self, topic: impl AsRef<str>, index: i32) -> usize {
        self.of(topic.as_ref(), index, |partition| partition.now.len())
    }

    /// Returns the largest number of puts of a partition that were unanswered at the same time.
    #[must_use]
    pub fn most_unanswered(&self, topic: impl AsRef<str>, index: i32) -> usize {
        self.of(topic.as_ref(), index, |partition| partition.most)
    }

    /// Returns the number of puts that the broker has received for a partition, whatever it did with them.
    #[must_use]
    pub fn received(&self, topic: impl AsRef<str>, index: i32) -> u64 {
        self.of(topic.as_ref(), index, |partition| partition.total)
    }

    /// Returns the shortest time for which a put of a partition had been unanswered when the next one
    /// arrived. `None` if each put arrived after the response to the one before.
    #[must_use]
    pub fn shortest_overlap(&self, topic: impl AsRef<str>, index: i32) -> Option<Duration> {
        self.of(topic.as_ref(), index, |partition| partition.shortest_overlap)
    }

    /// Returns the number of puts that the broker has received with this data, for any topic: the payload,
    /// preceded by the attribute if there is one.
    #[must_use]
    pub fn received_data(&self, data: &[u8]) -> u64 {
        self.0.lock().data.get(data).copied().unwrap_or(0)
    }

    fn of<T: Default>(&self, topic: &str, index: i32, value: impl FnOnce(&Unanswered) -> T) -> T {
        let state = self.0.lock();
        state.topics.get(topic).and_then(|partitions| partitions.get(&index)).map(value).unwrap_or_default()
    }

    /// Counts a put as unanswered until the returned guard is dropped.
    pub(in crate::broker) fn put_arrived(&self, put: &PutCommand) -> UnansweredPut {
        let (topic, index, now) = (put.topic.to_string(), put.partition, Instant::now());
        let mut state = self.0.lock();
        *state.data.entry(put.data.to_bytes()).or_default() += 1;
        let partition = state.topics.entry(topic.clone()).or_default().entry(index).or_default();
        let number = partition.total;
        partition.total += 1;
        if let Some(last) = partition.now.values().max() {
            let overlap = now - *last;
            partition.shortest_overlap =
                Some(partition.shortest_overlap.map_or(overlap, |known| known.min(overlap)));
        }
        partition.now.insert(number, now);
        partition.most = partition.most.max(partition.now.len());
        UnansweredPut { monitor: self.clone(), topic, index, number }
    }
}

/// A put without a response.
#[derive(Debug)]
pub(in crate::broker) struct UnansweredPut {
    monitor: PutMonitor,
    topic: String,
    index: i32,
    number: u64,
}

impl Drop for UnansweredPut {
    fn drop(&mut self) {
        let mut state = self.monitor.0.lock();
        let partitions = state.topics.get_mut(&self.topic);
        if let Some(partition) = partitions.and_then(|partitions| partitions.get_mut(&self.index)) {
            partition.now.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::{Broker, Fault, Requests};

    #[tokio::test(start_paused = true)]
    async fn puts_count_until_their_response_or_the_connections_end() {
        let broker = Broker::builder().topic("t", 2).start_without_port().unwrap();
        let monitor = broker.monitor_puts();
        broker.faults().plan(Requests::puts().of_partition(1), Fault::Swallow);
        let mut stream = broker.connect();
        let put = |index: i32, opaque: i32| format!("put t {index} 1 0 {opaque}\r\nx");
        let puts = [put(0, 1), put(0, 2), put(1, 3), put(1, 4)].concat();
        stream.write_all(puts.as_bytes()).await.unwrap();
        let mut answers = bytes::BytesMut::new();
        assert!(stream.read_buf(&mut answers).await.unwrap() > 0);
        assert_eq!((monitor.received("t", 0), monitor.received("t", 1)), (2, 2));
        assert_eq!((monitor.unanswered("t", 0), monitor.most_unanswered("t", 0)), (0, 2));
        assert_eq!((monitor.unanswered("t", 1), monitor.most_unanswered("t", 1)), (2, 2));
        assert_eq!(monitor.shortest_overlap("t", 1), Some(Duration::ZERO));
        assert_eq!((monitor.received_data(b"x"), monitor.received_data(b"y")), (4, 0));
        drop(stream);
        while broker.open_connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((monitor.unanswered("t", 1), monitor.unanswered("other", 0)), (0, 0));
        let mut stream = broker.connect();
        stream.write_all(put(0, 5).as_bytes()).await.unwrap();
        assert!(stream.read_buf(&mut answers).await.unwrap() > 0);
        assert_eq!(monitor.received("t", 0), 3);
    }
}
