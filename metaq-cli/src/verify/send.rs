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
};

/// The numbers that are reserved in the state at a time.
const RESERVED: u64 = 1024;

/// How long outcomes may wait to be written to the state.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);

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

/// A message's number and its outcome.
type Outcome = (u64, Result<SendReceipt, SendError>);

/// The sending of a run.
pub(super) struct Sending<'a> {
    pub(super) producer: &'a Producer,
    pub(super) topic: &'a Topic,
    pub(super) run: RunId,
    /// The partitions that messages go to in turn; empty if the selector chooses.
    pub(super) pinned: Vec<Partition>,
    pub(super) limits: Limits,
    pub(super) ledger: &'a mut Ledger,
    pub(super) state: &'a mut State,
}

impl Sending<'_> {
    /// Sends until the end or a signal, and waits for all outcomes; a second signal leaves them unknown.
    ///
    /// # Errors
    /// When the state can't be written: what was sent then could not be told from what was not.
    pub(super) async fn run(&mut self, shutdown: &mut Shutdown) -> io::Result<()> {
        let Limits { count, during, elapsed, rate, in_flight, .. } = self.limits;
        let first = self.ledger.len();
        let (mut next, mut reserved) = (first, first);
        let started = Instant::now();
        let end = during.map(|during| started + during.saturating_sub(elapsed));
        let mut sending = FuturesUnordered::<BoxFuture<'static, Outcome>>::new();
        let mut is_stopped = false;
        let mut flushes = interval(FLUSH_INTERVAL);
        flushes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let line = ProgressLine::new(None, "{human_pos} messages, {elapsed}, {msg}");
        let mut shown = started;
        loop {
            let is_over = is_stopped || next >= count || end.is_some_and(|end| Instant::now() >= end);
            if is_over && sending.is_empty() {
                break;
            }
            let due = started + rate.map_or(Duration::ZERO, |rate| seconds((next - first) as f64 / rate));
            let due = end.map_or(due, |end| due.min(end));
            tokio::select! {
                biased;
                _ = shutdown.signal() => {
                    if shutdown.is_forced() {
                        break;
                    }
                    is_stopped = true;
                }
                Some(outcome) = sending.next(), if !sending.is_empty() => self.completed(&outcome)?,
                _ = flushes.tick() => {
                    self.state.flush()?;
                    if let Some(line) = line.as_ref().filter(|_| shown.elapsed() >= PROGRESS_INTERVAL) {
                        shown = Instant::now();
                        let waiting = format!("{} without an outcome yet", sending.len());
                        line.show(|bar| { bar.set_position(next); bar.set_message(waiting); });
                    }
                }
                () = sleep_until(due), if !is_over && sending.len() < in_flight => {
                    if end.is_some_and(|end| Instant::now() >= end) {
                        continue;
                    }
                    if next == reserved {
                        reserved = count.min(reserved + RESERVED);
                        self.state.reserve(reserved, elapsed + started.elapsed())?;
                    }
                    self.ledger.extend_to(next + 1);
                    let mut message = self.start(next);
                    next += 1;
                    // Polled in the order of the numbers, so that they are accepted in it.
                    match message.as_mut().now_or_never() {
                        Some(outcome) => self.completed(&outcome)?,
                        None => sending.push(message),
                    }
                }
            }
        }
        self.state.flush()
    }

    fn start(&self, number: u64) -> BoxFuture<'static, Outcome> {
        let payload = encode(self.run, number, self.limits.size);
        let mut message = Message::new(self.topic.clone(), payload);
        if !self.pinned.is_empty() {
            message = message.with_partition(self.pinned[(number % self.pinned.len() as u64) as usize]);
        }
        let producer = self.producer.clone();
        async move { (number, producer.send(message).await) }.boxed()
    }

    fn completed(&mut self, (number, result): &Outcome) -> io::Result<()> {
        let reported = match result {
            Ok(_) => Reported::Acknowledged,
            Err(error) => error.outcome().into(),
        };
        self.ledger.report(*number, reported);
        self.state.report(*number, reported)
    }
}

/// A duration of so many seconds, or as long as there is.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(365 * 24 * 3600))
}
