//! The replay of one queue: its messages in order, several in flight, removed as they are acknowledged.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use metaq_producer::{Message, SendError, SendErrorKind, SendHandle, SendReceipt};

use super::attempts::Attempts;
use crate::{
    SpoolId,
    classify::{Failure, classify_replayed},
    events::{SpoolEvent, contain, queue_name},
    record::{self, QueueKey, Record},
    shared::{Shared, closed},
    storage::{
        Reading, Replaying,
        inbox::{Fate, Finished, Placed},
        index::Queue,
    },
    store::Limit,
};

/// The messages that are read at a time, and their bytes.
const PORTION: Limit = Limit { rows: 512, bytes: 1 << 20 };

/// As many acknowledged messages are removed together at least, while there are more.
const REMOVALS: usize = 256;

/// The bytes of one queue that are in flight; a single message may have more.
const MOST_BYTES: u64 = 16 << 20;

/// The pause while live messages leave no capacity.
const YIELD: Duration = Duration::from_millis(5);

/// How the replay of a queue ended.
#[derive(Debug)]
pub(crate) enum End {
    /// No message is left.
    Emptied,
    /// Messages are left, and can't be read or removed now.
    Stuck,
    /// It has to be tried again later.
    Failed { reason: String, has_progress: bool },
}

/// A message that was handed to the producer.
struct InFlight {
    number: u64,
    /// The length of its row.
    bytes: u64,
    record: Record,
    handle: SendHandle,
}

struct QueueReplay<'a> {
    shared: &'a Shared,
    queue: &'a Arc<Queue>,
    attempts: Attempts,
    /// Read, and not sent.
    ready: VecDeque<(u64, Vec<u8>)>,
    reading: Option<Reading>,
    next: u64,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    finished: Vec<Finished>,
    to_place: Vec<Placed>,
    /// The last message was set aside: it has left the order once that is on the disk.
    was_set_aside: bool,
    /// As many messages were moved into the queue when it was read from its beginning.
    placed: u64,
    failure: Option<String>,
    has_progress: bool,
}

/// Replays a queue until it is empty, a message can't be sent, or the spool is closed.
pub(crate) async fn replay_queue(shared: &Shared, queue: &Arc<Queue>, attempts: Attempts) -> (Attempts, End) {
    let mut replay = QueueReplay {
        shared,
        queue,
        attempts,
        ready: VecDeque::new(),
        reading: None,
        next: 0,
        in_flight: VecDeque::new(),
        in_flight_bytes: 0,
        finished: Vec::new(),
        to_place: Vec::new(),
        was_set_aside: false,
        placed: queue.placed(),
        failure: None,
        has_progress: false,
    };
    let replaying = Replaying::begin(&shared.storage.common);
    replay.run().await;
    replaying.end();
    let QueueReplay { attempts, failure, has_progress, .. } = replay;
    match failure {
        Some(reason) => (attempts, End::Failed { reason, has_progress }),
        None if queue.held() == 0 || *shared.closing.borrow() => (attempts, End::Emptied),
        None => (attempts, End::Stuck),
    }
}

impl QueueReplay<'_> {
    async fn run(&mut self) {
        let most_in_flight = self.shared.options.in_flight();
        loop {
            if self.has_older() && self.in_flight.is_empty() {
                self.begin_anew();
            }
            while self.failure.is_none()
                && self.in_flight.len() < most_in_flight
                && self.in_flight_bytes < MOST_BYTES
                && !self.is_window_full()
            {
                let Some((number, row)) = self.next_message().await else { break };
                self.send(number, row).await;
            }
            self.settle().await;
            if self.failure.is_none() && self.has_older() {
                continue;
            }
            if self.failure.is_none() && self.in_flight.is_empty() && self.is_window_full() {
                self.wait_for_window().await;
                continue;
            }
            if self.in_flight.is_empty() && (self.failure.is_some() || self.ready.is_empty()) {
                self.remove_finished();
                if self.failure.is_some() || !self.wait_for_removals().await {
                    return;
                }
            }
        }
    }

    /// Whether messages were moved into the queue whose places may be before those that were read.
    fn has_older(&self) -> bool {
        self.queue.placed() != self.placed
    }

    /// Reads the queue from its beginning.
    fn begin_anew(&mut self) {
        self.placed = self.queue.placed();
        self.remove_finished();
        self.ready.clear();
        (self.reading, self.next) = (None, 0);
    }

    /// Whether as many messages could be sent twice as may be. In order, one that was set aside is not to
    /// come back behind the next one.
    fn is_window_full(&self) -> bool {
        let here = (self.in_flight.len() + self.finished.len() + self.to_place.len()) as u64;
        let all = here + self.queue.unremoved();
        let waits = self.was_set_aside && self.shared.options.ordered;
        all >= self.shared.options.replay_window as u64 || waits && all > 0
    }

    /// Waits until removals are committed, or the spool is closed.
    async fn wait_for_window(&mut self) {
        self.remove_finished();
        let mut closing = self.shared.closing.subscribe();
        let changed = &self.shared.storage.common.changed;
        loop {
            let mut committed = std::pin::pin!(changed.notified());
            committed.as_mut().enable();
            if !self.is_window_full() {
                return;
            }
            if *closing.borrow() {
                self.failure.get_or_insert_with(|| "the spool was closed".to_owned());
                return;
            }
            tokio::select! {
                () = committed => {}
                () = closed(&mut closing) => {}
            }
        }
    }

    /// Waits until what was finished is removed, and looks for messages that were spooled meanwhile; false
    /// when there are none.
    async fn wait_for_removals(&mut self) -> bool {
        self.shared.storage.flush().await;
        if *self.shared.closing.borrow() || self.queue.held() == 0 {
            return false;
        }
        self.reading = None;
        let Some(first) = self.next_message().await else { return self.has_older() };
        self.ready.push_front(first);
        true
    }

    /// The next message; while some are in flight, none unless it is there already.
    async fn next_message(&mut self) -> Option<(u64, Vec<u8>)> {
        if *self.shared.closing.borrow() {
            self.ready.clear();
            return None;
        }
        if self.ready.is_empty() {
            let storage = &self.shared.storage;
            let begin = || storage.begin_read(self.queue, self.next, PORTION);
            let mut reading = self.reading.take().or_else(begin)?;
            let read = if self.in_flight.is_empty() {
                reading.await
            } else {
                match (&mut reading).now_or_never() {
                    Some(read) => read,
                    None => {
                        self.reading = Some(reading);
                        return None;
                    }
                }
            };
            match read {
                Ok(Ok(messages)) => {
                    if let (0, Some((first, _))) = (self.next, messages.first()) {
                        self.attempts.forget_before(*first);
                    }
                    self.next = messages.last().map_or(self.next, |(number, _)| number + 1);
                    if !messages.is_empty() {
                        // The next portion is read while this one is sent.
                        self.reading = self.shared.storage.begin_read(self.queue, self.next, PORTION);
                    }
                    self.ready = messages.into();
                }
                Ok(Err(error)) => self.failure = Some(format!("reading the spool failed: {error}")),
                Err(_) => return None,
            }
        }
        if self.has_older() {
            return None;
        }
        self.ready.pop_front()
    }

    /// Hands a message to the producer, or finds out why that can't be done.
    async fn send(&mut self, number: u64, row: Vec<u8>) {
        let bytes = row.len() as u64;
        self.was_set_aside = false;
        let record = match record::decode(row) {
            Ok(record) => record,
            Err((row, error)) => {
                return self.set_aside(number, bytes, row, format!("it is damaged: {error}"));
            }
        };
        if self.shared.options.ordered && record.message.partition().is_none() {
            return self.place(number, bytes, &record);
        }
        // A pause keeps no outcome back of what is in flight.
        while self.shared.pace.is_paused() && !self.in_flight.is_empty() && self.failure.is_none() {
            self.settle().await;
        }
        let mut closing = self.shared.closing.subscribe();
        tokio::select! {
            biased;
            () = closed(&mut closing) => return,
            () = self.shared.pace.wait() => {}
        }
        if self.failure.is_some() {
            return;
        }
        loop {
            match self.shared.producer.try_send(record.message.clone()) {
                Ok(handle) => {
                    self.in_flight_bytes += bytes;
                    self.in_flight.push_back(InFlight { number, bytes, record, handle });
                    return self.queue.set_in_flight(self.in_flight.len());
                }
                // Live messages come first.
                Err(error) if error.kind() == SendErrorKind::Full => {
                    if *self.shared.closing.borrow() {
                        return;
                    }
                    if self.in_flight.is_empty() {
                        tokio::time::sleep(YIELD).await;
                    } else {
                        self.settle().await;
                        if self.failure.is_some() {
                            return;
                        }
                    }
                }
                Err(error) => return self.failed(number, bytes, &record, &error),
            }
        }
    }

    /// Takes the outcomes that are there, and waits for the first one.
    async fn settle(&mut self) {
        let mut is_first = true;
        while let Some(first) = self.in_flight.front_mut() {
            let outcome = if is_first {
                (&mut first.handle).await
            } else {
                match (&mut first.handle).now_or_never() {
                    Some(outcome) => outcome,
                    None => break,
                }
            };
            is_first = false;
            let Some(InFlight { number, bytes, record, .. }) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= bytes;
            match outcome {
                Ok(receipt) => self.stored(number, bytes, &record.message, &receipt),
                Err(error) => self.failed(number, bytes, &record, &error),
            }
        }
        self.queue.set_in_flight(self.in_flight.len());
        let enough = REMOVALS.min(self.shared.options.replay_window / 4);
        if self.finished.len() >= enough || self.in_flight.is_empty() {
            self.remove_finished();
        }
    }

    fn stored(&mut self, number: u64, bytes: u64, message: &Message, receipt: &SendReceipt) {
        self.has_progress = true;
        self.shared.failing.clear(self.queue.id);
        self.attempts.stored(number);
        self.finished.push(Finished { number, bytes, fate: Fate::Replayed });
        if let Some(listener) = &self.shared.options.listener {
            contain(|| listener.replayed(SpoolId(number), message.topic(), receipt));
        }
    }

    fn failed(&mut self, number: u64, bytes: u64, record: &Record, error: &SendError) {
        let is_pinned = record.message.partition().is_some();
        match classify_replayed(error, is_pinned) {
            // The program took it back from the producer, and not from the spool.
            _ if error.kind() == SendErrorKind::Purged => {}
            // Another partition may be there for the next one.
            Failure::Passing if !is_pinned && self.is_for_absent(&record.message) => {
                return self.place(number, bytes, record);
            }
            Failure::Passing => {}
            Failure::Unknown => {
                self.shared.storage.common.ledger.update(|counts| counts.unknown_attempts += 1);
            }
            Failure::ServerError => {
                if self.attempts.refused(number, self.shared.options.max_attempts) {
                    let row = record::encode(&record.message, record.time);
                    return self.set_aside(number, bytes, row, error.to_string());
                }
            }
            Failure::Final => return self.set_aside_refused(number, bytes, record, error),
        }
        if let Some(listener) = &self.shared.options.listener {
            let key = &self.queue.key;
            contain(|| listener.failed(SpoolId(number), &key.topic, key.partition, error));
        }
        self.failure.get_or_insert_with(|| error.to_string());
    }

    /// Whether the selector insists on a partition that is not connected.
    fn is_for_absent(&self, message: &Message) -> bool {
        let producer = &self.shared.producer;
        let connected = producer.partitions(message.topic());
        let chosen = producer.partition_for(message);
        !connected.is_empty() && chosen.is_ok_and(|partition| !connected.contains(&partition))
    }

    /// Moves a message to the queue of the partition that the selector chooses for it now.
    fn place(&mut self, number: u64, bytes: u64, record: &Record) {
        let message = &record.message;
        match self.shared.producer.partition_for(message) {
            Ok(partition) => {
                let placed = message.clone().with_partition(partition);
                let row = record::encode(&placed, record.time);
                let queue = self.shared.storage.common.index.find_or_make(&QueueKey::of(&placed));
                // Before it has left this queue: those that are sent in order see it in one of them.
                if queue.add() {
                    let (topic, partition) = (message.topic().clone(), Some(partition));
                    self.shared.storage.common.events.send(SpoolEvent::Filling { topic, partition });
                }
                self.to_place.push(Placed { from: Arc::clone(self.queue), number, bytes, to: queue, row });
            }
            Err(error) => self.failed_to_be_placed(number, bytes, record, &error),
        }
    }

    fn failed_to_be_placed(&mut self, number: u64, bytes: u64, record: &Record, error: &SendError) {
        if classify_replayed(error, false) == Failure::Final {
            return self.set_aside_refused(number, bytes, record, error);
        }
        self.failure.get_or_insert_with(|| error.to_string());
    }

    /// Sets a message aside that is refused for good.
    fn set_aside_refused(&mut self, number: u64, bytes: u64, record: &Record, error: &SendError) {
        self.attempts.refused_for_good(number);
        let row = record::encode(&record.message, record.time);
        self.set_aside(number, bytes, row, error.to_string());
    }

    fn set_aside(&mut self, number: u64, bytes: u64, row: Vec<u8>, reason: String) {
        let attempts = self.attempts.take(number);
        let (topic, partition) = (self.queue.key.topic.clone(), self.queue.key.partition);
        if let Some(listener) = &self.shared.options.listener {
            contain(|| listener.set_aside(SpoolId(number), &topic, partition, &reason));
        }
        tracing::debug!(
            id = number,
            queue = queue_name(&topic, partition),
            reason,
            "a message was set aside"
        );
        let event = SpoolEvent::SetAside { topic, partition, reason: reason.clone(), attempts };
        self.shared.storage.common.events.send(event);
        self.finished.push(Finished { number, bytes, fate: Fate::SetAside { reason, attempts, row } });
        self.was_set_aside = true;
    }

    fn remove_finished(&mut self) {
        self.shared.storage.finish(self.queue, std::mem::take(&mut self.finished));
        self.shared.storage.place(self.queue, std::mem::take(&mut self.to_place));
    }
}
