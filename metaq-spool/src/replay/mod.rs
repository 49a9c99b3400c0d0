//! The task that sends spooled messages when their brokers are back, and publishes their topics.

mod attempts;
mod backoff;
mod outcomes;
mod queue;
mod reader;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use metaq_producer::{
    Topic,
    error::PublishErrorKind,
    health::{ProducerEvent, ProducerEvents},
};
use tokio::{sync::mpsc, time::Instant};

use self::{
    attempts::Attempts,
    backoff::Backoff,
    queue::{End, replay_queue},
};
use crate::{
    events::{SpoolEvent, contain},
    shared::{Orphan, Shared, closed},
    storage::index::Queue,
};

/// What is known about a queue while it is not replayed.
#[derive(Default)]
struct Paused {
    backoff: Backoff,
    attempts: Attempts,
}

/// The time between two looks at all queues, for each of them: those that fill one after the other share a
/// look.
const PER_QUEUE: Duration = Duration::from_micros(2);

/// With less than this between them, looks are not delayed.
const NOTEWORTHY: Duration = Duration::from_millis(1);

/// The queues that are tried again at the next look.
#[derive(Default)]
struct Resumed {
    all: bool,
    topics: HashSet<Topic>,
}

type Running = BoxFuture<'static, (Arc<Queue>, Attempts, End)>;

/// The state of the task.
struct Replay {
    shared: Arc<Shared>,
    paused: HashMap<u32, Paused>,
    active: HashMap<u32, Backoff>,
    running: FuturesUnordered<Running>,
    resumed: Resumed,
    /// Set when queues may be due.
    is_look_due: bool,
    is_health_due: bool,
    /// There is no other look at all queues before.
    next_look: Instant,
    /// The time at which the next queue is due.
    next_due: Instant,
}

/// Replays until the spool is closed. `_end` is dropped then.
pub(crate) async fn run(shared: Arc<Shared>, mut events: ProducerEvents, _end: EndOfReplay) {
    let mut closing = shared.closing.subscribe();
    let common = Arc::clone(&shared.storage.common);
    let mut replay = Replay {
        shared: Arc::clone(&shared),
        paused: HashMap::new(),
        active: HashMap::new(),
        running: FuturesUnordered::new(),
        resumed: Resumed::default(),
        is_look_due: true,
        is_health_due: false,
        next_look: Instant::now(),
        next_due: Instant::now(),
    };
    let mut has_events = true;
    loop {
        let next = replay.look();
        tokio::select! {
            biased;
            () = closed(&mut closing) => break,
            Some((queue, attempts, end)) = replay.running.next(), if !replay.running.is_empty() => {
                replay.ended(&queue, attempts, end);
                replay.go_on(queue);
            }
            event = events.next(), if has_events => match event {
                Some(event) => replay.hear(&event),
                None => has_events = false,
            },
            () = shared.replay_now.notified() => (replay.resumed.all, replay.is_look_due) = (true, true),
            () = common.replay.notified() => replay.is_look_due = true,
            () = tokio::time::sleep_until(next) => replay.is_look_due = true,
        }
    }
    // Their last removals are handed over.
    while let Some((queue, attempts, end)) = replay.running.next().await {
        replay.ended(&queue, attempts, end);
    }
}

/// Replays a queue once it has a place.
async fn in_turn(shared: &Shared, queue: &Arc<Queue>, attempts: Attempts) -> (Attempts, End) {
    let mut closing = shared.closing.subscribe();
    let place = tokio::select! {
        biased;
        () = closed(&mut closing) => return (attempts, End::Stuck),
        place = shared.places.take() => place,
    };
    // Many may wait, and the rest is large.
    Box::pin(replay_queue(shared, queue, attempts, place)).await
}

/// Tells those who close the spool that the task has ended, also with its runtime.
pub(crate) struct EndOfReplay(pub(crate) Arc<Shared>);

impl Drop for EndOfReplay {
    fn drop(&mut self) {
        contain(|| _ = self.0.replay_ended.send_replace(true));
    }
}

impl Replay {
    /// Looks at all queues if there is a reason and the last time was not just now, and returns the time of
    /// the next look.
    fn look(&mut self) -> Instant {
        if self.is_look_due && Instant::now() >= self.next_look {
            self.is_look_due = false;
            if std::mem::take(&mut self.is_health_due) {
                self.shared.update_health();
            }
            let filled = self.shared.storage.common.index.filled();
            let count = u32::try_from(filled.len()).unwrap_or(u32::MAX);
            self.resume(&filled);
            self.start_due(filled);
            let pause = PER_QUEUE.saturating_mul(count);
            self.next_look = Instant::now() + if pause < NOTEWORTHY { Duration::ZERO } else { pause };
        }
        if self.is_look_due { self.next_look } else { self.next_due }
    }

    /// Starts the queues that are due.
    fn start_due(&mut self, filled: Vec<Arc<Queue>>) {
        let now = Instant::now();
        self.next_due = now + Duration::from_secs(60);
        // What is known about queues that were emptied meanwhile is of no use.
        if self.paused.len() > filled.len() {
            let ids: HashSet<_> = filled.iter().map(|queue| queue.id).collect();
            self.paused.retain(|id, _| ids.contains(id));
        }
        let mut due: Vec<_> =
            filled.into_iter().filter(|queue| !self.active.contains_key(&queue.id)).collect();
        // Those that were tried longest ago come first.
        due.sort_by_key(|queue| self.paused.get(&queue.id).map(|paused| paused.backoff.tried_at()));
        for queue in due {
            self.start_if_due(queue, now);
        }
    }

    fn start_if_due(&mut self, queue: Arc<Queue>, now: Instant) {
        let until = self.paused.get(&queue.id).and_then(|paused| paused.backoff.until());
        match until {
            Some(until) if until > now => self.next_due = self.next_due.min(until),
            _ => {
                let Paused { mut backoff, attempts } = self.paused.remove(&queue.id).unwrap_or_default();
                backoff.begin(now);
                self.active.insert(queue.id, backoff);
                let shared = Arc::clone(&self.shared);
                self.running.push(Box::pin(async move {
                    let (attempts, end) = in_turn(&shared, &queue, attempts).await;
                    (queue, attempts, end)
                }));
            }
        }
    }

    /// Goes on with a queue that has ended, without a look at the others.
    fn go_on(&mut self, queue: Arc<Queue>) {
        if queue.held() > 0 {
            self.start_if_due(queue, Instant::now());
        }
    }

    fn ended(&mut self, queue: &Queue, attempts: Attempts, end: End) {
        let mut backoff = self.active.remove(&queue.id).unwrap_or_default();
        match end {
            End::Emptied => {
                self.shared.failing.clear(queue.id);
                if !self.shared.is_healthy() {
                    (self.is_health_due, self.is_look_due) = (true, true);
                }
                backoff.succeeded();
            }
            End::Stuck => backoff.failed(Instant::now()),
            End::Crowded => backoff.pause(Instant::now()),
            End::Failed { reason, has_progress } => {
                if has_progress {
                    backoff.succeeded();
                }
                backoff.failed(Instant::now());
                if self.shared.failing.set(queue.id, &reason) {
                    let (topic, partition) = (queue.key.topic.clone(), queue.key.partition);
                    let event = SpoolEvent::ReplayFailed { topic, partition, reason };
                    self.shared.storage.common.events.send(event);
                }
            }
        }
        self.paused.insert(queue.id, Paused { backoff, attempts });
    }

    /// Tries queues again at once whose brokers may be back.
    fn hear(&mut self, event: &ProducerEvent) {
        self.shared.update_health();
        match event {
            ProducerEvent::RouteChanged { topic, .. } => _ = self.resumed.topics.insert(topic.clone()),
            ProducerEvent::Connected { .. } | ProducerEvent::Recovered { .. } | ProducerEvent::Missed(_) => {
                self.resumed.all = true;
            }
            _ => return,
        }
        self.is_look_due = true;
    }

    /// Has the queues tried at once that are to be.
    fn resume(&mut self, filled: &[Arc<Queue>]) {
        let Resumed { all, topics } = std::mem::take(&mut self.resumed);
        let is_meant = |queue: &&Arc<Queue>| topics.contains(&queue.key.topic);
        let of_topics: HashSet<_> = if topics.is_empty() {
            HashSet::new()
        } else {
            filled.iter().filter(is_meant).map(|queue| queue.id).collect()
        };
        if !all && of_topics.is_empty() {
            return;
        }
        let meant = self.paused.iter_mut().filter(|(id, _)| all || of_topics.contains(id));
        meant.for_each(|(_, paused)| paused.backoff.reset());
        // One that fails at this moment is tried again soon.
        let meant = self.active.iter_mut().filter(|(id, _)| all || of_topics.contains(id));
        meant.for_each(|(_, backoff)| backoff.reset());
    }
}

/// Publishes topics in the background until each is published, or the spool is closed.
pub(crate) async fn publish(shared: Arc<Shared>, mut topics: mpsc::UnboundedReceiver<Topic>) {
    let mut closing = shared.closing.subscribe();
    let mut publishing = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = closed(&mut closing) => return,
            topic = topics.recv() => match topic {
                Some(topic) => publishing.push(publish_topic(&shared, topic)),
                None => return,
            },
            Some(()) = publishing.next(), if !publishing.is_empty() => {}
        }
    }
}

async fn publish_topic(shared: &Shared, topic: Topic) {
    let mut backoff = Backoff::default();
    loop {
        match shared.producer.publish_topic(&topic).await {
            Ok(()) => {
                shared.replay_now.notify_one();
                return;
            }
            Err(error) if error.kind() == PublishErrorKind::Closed => return,
            Err(error) => {
                if error.kind() == PublishErrorKind::NoSuchTopic {
                    // From now until the next attempt, its messages go to the default topic, if there is one.
                    shared.replay_now.notify_one();
                }
                backoff.failed(Instant::now());
                tracing::debug!(%topic, %error, "publishing is tried again");
            }
        }
        let pause =
            backoff.until().map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        tokio::time::sleep(pause.max(Duration::from_millis(200))).await;
    }
}

/// Takes handles that were dropped to their outcomes, until the spool ends.
pub(crate) async fn drive(mut orphans: mpsc::UnboundedReceiver<Orphan>) {
    let mut driven = FuturesUnordered::new();
    loop {
        tokio::select! {
            orphan = orphans.recv() => match orphan {
                Some(orphan) => driven.push(orphan),
                None => break,
            },
            Some(()) = driven.next(), if !driven.is_empty() => {}
        }
    }
    while driven.next().await.is_some() {}
}
