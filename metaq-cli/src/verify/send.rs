//! The first phase: numbered messages are sent until their number or their time is over.

use std::{io, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metaq_producer::{Message, Partition, Producer, SendError, SendReceipt, Topic};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{
    ledger::{Ledger, Reported},
    payload::{RunId, encode},
    state::{Header, State},
};
use crate::{
    progress::{PROGRESS_INTERVAL, ProgressLine},
    shutdown::Shutdown,
    stderr::print_message,
};

/// How long outcomes may wait to be written to the state.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);

/// How often the time that has passed is written to the state.
const ELAPSED_INTERVAL: Duration = Duration::from_secs(1);

/// When to stop sending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    count: u64,
    during: Option<Duration>,
    /// The time that earlier sessions have sent for.
    elapsed: Duration,
    rate: Option<f64>,
    size: usize,
    in_flight: usize,
}

impl Limits {
    pub(super) fn of(header: &Header, elapsed: Duration) -> Self {
        Self {
            count: header.count.unwrap_or(u64::MAX),
            during: header.during_ms.map(Duration::from_millis),
            elapsed,
            rate: header.rate,
            size: header.size,
            in_flight: header.in_flight,
        }
    }
}

/// A message that has its outcome.
struct Outcome {
    number: u64,
    /// The position of its partition among those that are sent to in turn.
    lane: usize,
    result: Result<SendReceipt, SendError>,
}

/// A partition that messages are sent to.
#[derive(Clone, Copy, Debug)]
struct Pinned {
    partition: Partition,
    in_flight: usize,
}

/// The partitions that are sent to in turn, each with its limit, so that one that stands still doesn't take
/// all messages in flight. Empty if the selector chooses.
#[derive(Debug)]
struct Lanes {
    all: Vec<Pinned>,
    next: usize,
    limit: usize,
}

impl Lanes {
    fn new(partitions: impl Iterator<Item = Partition>, in_flight: usize) -> Self {
        let all: Vec<_> = partitions.map(|partition| Pinned { partition, in_flight: 0 }).collect();
        let limit = in_flight.checked_div(all.len()).unwrap_or_default().max(1);
        Self { all, next: 0, limit }
    }

    fn has_capacity(&self) -> bool {
        self.all.is_empty() || self.all.iter().any(|lane| lane.in_flight < self.limit)
    }

    /// Takes the next partition with capacity.
    fn take(&mut self) -> Option<(usize, Partition)> {
        let count = self.all.len();
        let at = (self.next..self.next + count).map(|at| at % count);
        let at = at.into_iter().find(|at| self.all[*at].in_flight < self.limit)?;
        self.next = (at + 1) % count;
        self.all[at].in_flight += 1;
        Some((at, self.all[at].partition))
    }

    fn give_back(&mut self, at: usize) {
        if let Some(lane) = self.all.get_mut(at) {
            lane.in_flight -= 1;
        }
    }
}

/// The end of the sending.
#[derive(Debug)]
pub(super) struct Sent {
    /// The number of messages of this session.
    pub(super) count: u64,
    pub(super) during: Duration,
    /// The error of the state, which ended the sending.
    pub(super) failure: Option<io::Error>,
}

/// The sending of a run.
pub(super) struct Sending<'a> {
    producer: &'a Producer,
    topic: &'a Topic,
    run: RunId,
    lanes: Lanes,
    limits: Limits,
    ledger: &'a mut Ledger,
    state: &'a mut State,
    failure: Option<io::Error>,
}

impl<'a> Sending<'a> {
    /// Prepares the sending. Messages go to `pinned` in turn; without any, the selector chooses.
    pub(super) fn new(
        producer: &'a Producer,
        (topic, run): (&'a Topic, RunId),
        pinned: impl Iterator<Item = Partition>,
        limits: Limits,
        ledger: &'a mut Ledger,
        state: &'a mut State,
    ) -> Self {
        let lanes = Lanes::new(pinned, limits.in_flight);
        Self { producer, topic, run, lanes, limits, ledger, state, failure: None }
    }

    /// Sends until the end or a signal, and waits for all outcomes; a second signal leaves them unknown. A
    /// state that can't be written ends the sending, too.
    pub(super) async fn run(mut self, shutdown: &mut Shutdown) -> Sent {
        let Limits { count, during, elapsed, rate, in_flight, .. } = self.limits;
        let first = self.ledger.len();
        let (mut next, mut reserved) = (first, first);
        let started = Instant::now();
        let end = during.map(|during| started + during.saturating_sub(elapsed));
        let mut sending = FuturesUnordered::<BoxFuture<'static, Outcome>>::new();
        let mut is_stopped = false;
        let (mut ended, mut noted) = (None, started);
        let mut flushes = interval(FLUSH_INTERVAL);
        flushes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let line = ProgressLine::new(None, "{human_pos} messages, {elapsed}, {msg}");
        let mut shown = started;
        loop {
            let is_over = is_stopped
                || self.failure.is_some()
                || next >= count
                || end.is_some_and(|end| Instant::now() >= end);
            if is_over {
                ended.get_or_insert_with(|| started.elapsed());
                if sending.is_empty() {
                    break;
                }
            }
            let due = started + rate.map_or(Duration::ZERO, |rate| seconds((next - first) as f64 / rate));
            let due = end.map_or(due, |end| due.min(end));
            let may_send = !is_over && sending.len() < in_flight && self.lanes.has_capacity();
            tokio::select! {
                biased;
                _ = shutdown.signal() => {
                    if shutdown.is_forced() {
                        break;
                    }
                    is_stopped = true;
                }
                Some(outcome) = sending.next(), if !sending.is_empty() => self.completed(&outcome),
                _ = flushes.tick() => {
                    let is_due = noted.elapsed() >= ELAPSED_INTERVAL;
                    if is_due {
                        noted = Instant::now();
                        self.keep(|state| state.note(reserved, elapsed + started.elapsed()));
                    }
                    self.keep(State::flush);
                    if let Some(line) = line.as_ref().filter(|_| shown.elapsed() >= PROGRESS_INTERVAL) {
                        shown = Instant::now();
                        let waiting = format!("{} without an outcome yet", sending.len());
                        line.show(|bar| { bar.set_position(next); bar.set_message(waiting); });
                    }
                }
                () = sleep_until(due), if may_send => {
                    if end.is_some_and(|end| Instant::now() >= end) {
                        continue;
                    }
                    if next == reserved {
                        // Few, as those without an outcome are not sent again after a kill.
                        reserved = count.min(reserved + in_flight as u64);
                        self.keep(|state| state.reserve(reserved, elapsed + started.elapsed()));
                        if self.failure.is_some() {
                            continue;
                        }
                    }
                    self.ledger.extend_to(next + 1);
                    let mut message = self.start(next);
                    next += 1;
                    // Polled in the order of the numbers, so that they are accepted in it.
                    match message.as_mut().now_or_never() {
                        Some(outcome) => self.completed(&outcome),
                        None => sending.push(message),
                    }
                }
            }
        }
        self.ledger.give_up_from(first);
        self.keep(|state| state.end(next, elapsed + started.elapsed()));
        let during = ended.unwrap_or_else(|| started.elapsed());
        Sent { count: next - first, during, failure: self.failure }
    }

    fn start(&mut self, number: u64) -> BoxFuture<'static, Outcome> {
        let payload = encode(self.run, number, self.limits.size);
        let mut message = Message::new(self.topic.clone(), payload);
        let mut lane = usize::MAX;
        if let Some((at, partition)) = self.lanes.take() {
            lane = at;
            message = message.with_partition(partition);
        }
        let producer = self.producer.clone();
        async move { Outcome { number, lane, result: producer.send(message).await } }.boxed()
    }

    fn completed(&mut self, Outcome { number, lane, result }: &Outcome) {
        self.lanes.give_back(*lane);
        let (reported, place) = match result {
            Ok(receipt) => (Reported::Acknowledged, Some((receipt.partition, receipt.offset))),
            Err(error) => (error.outcome().into(), None),
        };
        self.ledger.report(*number, reported, place);
        self.keep(|state| state.report(*number, reported, place));
    }

    /// Writes to the state. After a failure nothing more is written, and no further message is sent.
    fn keep(&mut self, write: impl FnOnce(&mut State) -> io::Result<()>) {
        if self.failure.is_none()
            && let Err(error) = write(self.state)
        {
            let path = self.state.path().display();
            print_message(&format!(
                "the state can't be written to {path}, so that the sending ends here: {error}; what was sent is \
                 verified"
            ));
            self.failure = Some(error);
        }
    }
}

/// A duration of `seconds`, or the longest that there is.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(365 * 24 * 3600))
}
