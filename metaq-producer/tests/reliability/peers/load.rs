//! Messages that flow all the time, and what became of each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use metaq_producer::{BrokerAddr, Message, Outcome, Producer, SendError, SendReceipt, Topic};
use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};

/// The time that a test waits for an expected event.
const PATIENCE: Duration = Duration::from_secs(30);

const TICK: Duration = Duration::from_millis(5);

/// The pace of messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// This number a second, whatever becomes of them.
    PerSecond(u32),
    /// As fast as they complete: this number is in flight at any time.
    UnderWay(usize),
}

/// A message that has its outcome.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Its payload, as text.
    pub(crate) number: u64,
    /// The time at which it was offered.
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) outcome: Result<SendReceipt, SendError>,
}

impl Sent {
    pub(crate) fn is_stored_by(&self, broker: &BrokerAddr) -> bool {
        self.outcome.as_ref().is_ok_and(|receipt| receipt.broker == *broker)
    }
}

/// Sends messages whose payloads are numbers, each once.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    ended: Arc<Mutex<Vec<Sent>>>,
    sending: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(producer: &Producer, topic: &Topic, pace: Pace) -> Self {
        Self::of(producer, topic, pace, 0, u64::MAX)
    }

    /// Sends the numbers from `first` on, `count` of them if it isn't stopped before.
    pub(crate) fn of(producer: &Producer, topic: &Topic, pace: Pace, first: u64, count: u64) -> Self {
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let sender = Sender {
            producer: producer.clone(),
            topic: topic.clone(),
            next: first,
            end: first.saturating_add(count),
            stop: Arc::clone(&stop),
            ended: Arc::clone(&ended),
        };
        Self { stop, ended, sending: tokio::spawn(sender.send_all(pace)) }
    }

    /// Waits until a message that was sent from `since` on is `wanted`. Returns how long after `since` it
    /// ended.
    pub(crate) async fn first(&self, since: Instant, wanted: impl Fn(&Sent) -> bool) -> Duration {
        let mut seen = 0;
        let found = async {
            loop {
                {
                    let ended = self.ended.lock();
                    let new = ended[seen..].iter().filter(|sent| sent.started >= since && wanted(sent));
                    if let Some(first) = new.min_by_key(|sent| sent.ended) {
                        return first.ended - since;
                    }
                    seen = ended.len();
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout_at(since.max(Instant::now()) + PATIENCE, found).await.expect("such a message ends")
    }

    /// Waits until a broker stores what was sent from `since` on.
    pub(crate) async fn reaches(&self, broker: &BrokerAddr, since: Instant) -> Duration {
        self.first(since, |sent| sent.is_stored_by(broker)).await
    }

    /// Looks at all messages that have ended until now.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Sent]) -> T) -> T {
        look(&self.ended.lock())
    }

    /// The time after `since` at which the last message that is `such` was offered; zero if none was.
    pub(crate) fn last(&self, since: Instant, such: impl Fn(&Sent) -> bool) -> Duration {
        let those = |sent: &&Sent| sent.started >= since && such(sent);
        self.look(|all| all.iter().filter(those).map(|sent| sent.started - since).max()).unwrap_or_default()
    }

    /// The messages a second that each broker acknowledged from `since` on, for this time.
    pub(crate) fn rates(&self, since: Instant, time: Duration) -> BTreeMap<BrokerAddr, f64> {
        let mut rates = BTreeMap::new();
        self.look(|all| {
            for sent in all.iter().filter(|sent| (since..since + time).contains(&sent.ended)) {
                if let Ok(receipt) = &sent.outcome {
                    *rates.entry(receipt.broker.clone()).or_default() += 1.0 / time.as_secs_f64();
                }
            }
        });
        rates
    }

    /// The messages a second that `broker` acknowledged then.
    pub(crate) fn rate(&self, broker: &BrokerAddr, since: Instant, time: Duration) -> f64 {
        self.rates(since, time).get(broker).copied().unwrap_or_default()
    }

    /// The number of messages without an acknowledgement: unknown, rejected, not sent.
    pub(crate) fn failures(&self) -> [usize; 3] {
        self.look(failures)
    }

    /// Waits until all numbers were sent and have their outcome.
    pub(crate) async fn complete(self) -> Vec<Sent> {
        self.sending.await.unwrap();
        std::mem::take(&mut *self.ended.lock())
    }

    /// Sends no more, and waits until all have their outcome.
    pub(crate) async fn end(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.complete().await
    }
}

/// The number of messages without an acknowledgement: unknown, rejected, not sent.
pub(crate) fn failures(all: &[Sent]) -> [usize; 3] {
    [Outcome::Unknown, Outcome::Rejected, Outcome::NotSent].map(|outcome| {
        let those = |sent: &&Sent| sent.outcome.as_ref().is_err_and(|error| error.outcome() == outcome);
        all.iter().filter(those).count()
    })
}

/// The longest that a message took to its outcome.
pub(crate) fn slowest(all: &[Sent]) -> Duration {
    all.iter().map(|sent| sent.ended - sent.started).max().unwrap_or_default()
}

struct Sender {
    producer: Producer,
    topic: Topic,
    next: u64,
    end: u64,
    stop: Arc<AtomicBool>,
    ended: Arc<Mutex<Vec<Sent>>>,
}

impl Sender {
    async fn send_all(mut self, pace: Pace) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut under_way = FuturesUnordered::new();
        while self.goes_on() {
            let room = match pace {
                Pace::PerSecond(rate) => (f64::from(rate) * TICK.as_secs_f64()).ceil() as usize,
                Pace::UnderWay(limit) => limit - under_way.len(),
            };
            for _ in 0..room {
                if !self.goes_on() {
                    break;
                }
                let (number, started) = (self.next, Instant::now());
                self.next += 1;
                let message = Message::new(self.topic.clone(), number.to_string());
                match self.producer.enqueue(message).await {
                    Ok(handle) => under_way.push(handle.map(move |outcome| (number, started, outcome))),
                    Err(error) => self.note((number, started, Err(error))),
                }
            }
            match pace {
                Pace::PerSecond(_) => loop {
                    tokio::select! {
                        biased;
                        _ = ticks.tick() => break,
                        Some(ended) = under_way.next() => self.note(ended),
                    }
                },
                Pace::UnderWay(_) => {
                    if let Some(ended) = under_way.next().await {
                        self.note(ended);
                    }
                    while let Some(Some(ended)) = under_way.next().now_or_never() {
                        self.note(ended);
                    }
                }
            }
        }
        while let Some(ended) = under_way.next().await {
            self.note(ended);
        }
    }

    fn goes_on(&self) -> bool {
        self.next < self.end && !self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, (number, started, outcome): (u64, Instant, Result<SendReceipt, SendError>)) {
        self.ended.lock().push(Sent { number, started, ended: Instant::now(), outcome });
    }
}
