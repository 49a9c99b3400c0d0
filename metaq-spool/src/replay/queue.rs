//! The replay of one queue: its messages in order, several in flight, removed as they are acknowledged.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use metaq_producer::{SendError, SendErrorKind, SendHandle, SendReceipt};
use tokio::time::{Instant, timeout};

use super::{
    attempts::Attempts,
    outcomes::Outcomes,
    reader::{Next, Reader},
};
use crate::{
    places::Place,
    record::{self, Record},
    shared::{Shared, closed},
    storage::{Replaying, index::Queue},
};

/// The bytes of one queue that are in flight; a single message may have more.
const MOST_BYTES: u64 = 16 << 20;

/// The pause while live messages leave no capacity.
const YIELD: Duration = Duration::from_millis(5);

/// A queue that gets no answer, or no capacity, for this time leaves its place to another one. Each
/// place that queues with a frozen broker get delays the others by this once in a timeout.
const GRACE: Duration = Duration::from_millis(20);

/// How the replay of a queue ended.
#[derive(Debug)]
pub(crate) enum End {
    /// No message is left.
    Emptied,
    /// Messages are left, and can't be read or removed now.
    Stuck,
    /// The producer has no capacity for it now.
    Crowded,
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
    reader: Reader<'a>,
    outcomes: Outcomes<'a>,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    /// The queue gives way to others, since the producer has no capacity for it.
    is_crowded: bool,
}

/// Replays a queue until it is empty, a message can't be sent, or the spool is closed.
pub(crate) async fn replay_queue(
    shared: &Shared,
    queue: &Arc<Queue>,
    attempts: Attempts,
    place: Place,
) -> (Attempts, End) {
    let mut replay = QueueReplay {
        shared,
        queue,
        reader: Reader::new(shared, queue, place),
        outcomes: Outcomes::new(shared, queue, attempts),
        in_flight: VecDeque::new(),
        in_flight_bytes: 0,
        is_crowded: false,
    };
    let replaying = Replaying::begin(&shared.storage.common);
    replay.run().await;
    replaying.end();
    let QueueReplay { outcomes, is_crowded, .. } = replay;
    let Outcomes { attempts, failure, has_progress, .. } = outcomes;
    match failure {
        Some(reason) => (attempts, End::Failed { reason, has_progress }),
        None if queue.held() == 0 || *shared.closing.borrow() => (attempts, End::Emptied),
        None if is_crowded => (attempts, End::Crowded),
        None => (attempts, End::Stuck),
    }
}

impl QueueReplay<'_> {
    async fn run(&mut self) {
        let most_in_flight = self.shared.options.in_flight();
        loop {
            if self.reader.has_older() && self.in_flight.is_empty() {
                self.outcomes.remove_finished();
                self.reader.begin_anew();
            }
            while !self.is_ending()
                && self.in_flight.len() < most_in_flight
                && self.in_flight_bytes < MOST_BYTES
                && !self.outcomes.is_window_full(self.in_flight.len())
            {
                let Some((number, row)) = self.next_message().await else { break };
                self.send(number, row).await;
            }
            self.settle().await;
            if !self.is_ending() && self.reader.has_older() {
                continue;
            }
            if !self.is_ending() && self.in_flight.is_empty() && self.outcomes.is_window_full(0) {
                self.wait_for_window().await;
                continue;
            }
            if self.in_flight.is_empty() && (self.is_ending() || !self.reader.has_ready()) {
                self.outcomes.remove_finished();
                if self.is_ending() || !self.wait_for_removals().await {
                    return;
                }
            }
        }
    }

    /// Returns whether nothing more is sent.
    fn is_ending(&self) -> bool {
        self.outcomes.failure.is_some() || self.is_crowded
    }

    /// Waits until removals are committed, or the spool is closed.
    async fn wait_for_window(&mut self) {
        self.outcomes.remove_finished();
        let mut closing = self.shared.closing.subscribe();
        let changed = &self.shared.storage.common.changed;
        loop {
            let mut committed = std::pin::pin!(changed.notified());
            committed.as_mut().enable();
            if !self.outcomes.is_window_full(self.in_flight.len()) {
                return;
            }
            if *closing.borrow() {
                self.outcomes.failure.get_or_insert_with(|| "the spool was closed".to_owned());
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
        self.reader.look_again();
        let Some((number, row)) = self.next_message().await else { return self.reader.has_older() };
        self.reader.put_back(number, row);
        true
    }

    /// The next message; while some are in flight, none unless it is there already.
    async fn next_message(&mut self) -> Option<(u64, Vec<u8>)> {
        let is_at_beginning = self.reader.is_at_beginning();
        match self.reader.next(self.in_flight.is_empty()).await {
            Next::Message(number, row) => {
                if is_at_beginning {
                    self.outcomes.attempts.forget_before(number);
                }
                Some((number, row))
            }
            Next::None => None,
            Next::Failed(reason) => {
                self.outcomes.failure = Some(reason);
                None
            }
        }
    }

    /// Hands a message to the producer, or finds out why that can't be done.
    async fn send(&mut self, number: u64, row: Vec<u8>) {
        let bytes = row.len() as u64;
        self.outcomes.begin();
        let record = match record::decode(row) {
            Ok(record) => record,
            Err((row, error)) => {
                return self.outcomes.set_aside(number, bytes, row, format!("it is damaged: {error}"));
            }
        };
        if self.shared.options.ordered && record.message.partition().is_none() {
            return self.outcomes.place(number, bytes, &record);
        }
        // A pause keeps no outcome back of what is in flight.
        while self.shared.pace.is_paused() && !self.in_flight.is_empty() && !self.is_ending() {
            self.settle().await;
        }
        let mut closing = self.shared.closing.subscribe();
        tokio::select! {
            biased;
            () = closed(&mut closing) => return,
            () = self.shared.pace.wait() => {}
        }
        if self.is_ending() {
            return;
        }
        let began = Instant::now();
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
                    if !self.in_flight.is_empty() {
                        self.settle().await;
                    } else if self.shared.places.are_wanted() && began.elapsed() >= GRACE {
                        self.is_crowded = true;
                    } else {
                        tokio::time::sleep(YIELD).await;
                    }
                    if self.is_ending() {
                        return;
                    }
                    if !self.reader.has_place() {
                        return self.reader.go_back(number);
                    }
                }
                Err(error) => return self.outcomes.failed(number, bytes, &record, &error),
            }
        }
    }

    /// The outcome of the first message in flight. While there is none, the queue leaves its place to others.
    async fn first_outcome(&mut self) -> Option<Result<SendReceipt, SendError>> {
        let first = self.in_flight.front_mut()?;
        loop {
            if !self.reader.has_place() {
                return Some((&mut first.handle).await);
            }
            match timeout(GRACE, &mut first.handle).await {
                Ok(outcome) => return Some(outcome),
                Err(_) if self.shared.places.are_wanted() => self.reader.leave(),
                Err(_) => {}
            }
        }
    }

    /// Takes the outcomes that are there, and waits for the first one.
    async fn settle(&mut self) {
        let mut outcome = self.first_outcome().await;
        while let Some(ended) = outcome {
            let Some(InFlight { number, bytes, record, .. }) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= bytes;
            match ended {
                Ok(receipt) => self.outcomes.stored(number, bytes, &record.message, &receipt),
                Err(error) => self.outcomes.failed(number, bytes, &record, &error),
            }
            outcome = self.in_flight.front_mut().and_then(|next| (&mut next.handle).now_or_never());
        }
        self.queue.set_in_flight(self.in_flight.len());
        if self.outcomes.are_enough() || self.in_flight.is_empty() {
            self.outcomes.remove_finished();
        }
    }
}
