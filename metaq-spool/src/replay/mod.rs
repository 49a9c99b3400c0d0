//! The task that sends spooled messages when their brokers are back, and publishes their topics.

mod attempts;
mod backoff;
mod outcomes;
mod queue;
mod reader;

use std::{collections::HashMap, sync::Arc, time::Duration};

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

type Running = BoxFuture<'static, (Arc<Queue>, Attempts, End)>;

/// The state of the task.
struct Replay {
    shared: Arc<Shared>,
    paused: HashMap<u32, Paused>,
    active: HashMap<u32, Backoff>,
    running: FuturesUnordered<Running>,
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
    };
    let mut has_events = true;
    loop {
        let next = replay.start_due();
        tokio::select! {
            biased;
            () = closed(&mut closing) => break,
            Some((queue, attempts, end)) = replay.running.next(), if !replay.running.is_empty() => {
                replay.ended(&queue, attempts, end);
            }
            event = events.next(), if has_events => match event {
                Some(event) => replay.hear(&event),
                None => has_events = false,
            },
            () = shared.replay_now.notified() => replay.resume(|_| true),
            () = common.replay.notified() => {}
            () = tokio::time::sleep(next) => {}
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
    /// Starts the queues that are due, and returns the time until the next one is.
    fn start_due(&mut self) -> Duration {
        let now = Instant::now();
        let mut next = Duration::from_secs(60);
        let filled = self.shared.storage.common.index.filled();
        // What is known about queues that were emptied meanwhile is of no use.
        if self.paused.len() > filled.len() {
            self.paused.retain(|id, _| filled.iter().any(|queue| queue.id == *id));
        }
        let mut due: Vec<_> =
            filled.into_iter().filter(|queue| !self.active.contains_key(&queue.id)).collect();
        // Those that were tried longest ago come first.
        due.sort_by_key(|queue| self.paused.get(&queue.id).map(|paused| paused.backoff.tried_at()));
        for queue in due {
            let until = self.paused.get(&queue.id).and_then(|paused| paused.backoff.until());
            match until {
                Some(until) if until > now => next = next.min(until - now),
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
        next
    }

    fn ended(&mut self, queue: &Queue, attempts: Attempts, end: End) {
        let mut backoff = self.active.remove(&queue.id).unwrap_or_default();
        match end {
            End::Emptied => {
                self.shared.failing.clear(queue.id);
                self.shared.update_health();
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
            ProducerEvent::RouteChanged { topic, .. } => {
                let index = &self.shared.storage.common.index;
                let of_topic: Vec<_> = index
                    .filled()
                    .into_iter()
                    .filter(|queue| queue.key.topic == *topic)
                    .map(|queue| queue.id)
                    .collect();
                self.resume(|id| of_topic.contains(&id));
            }
            ProducerEvent::Connected { .. } | ProducerEvent::Recovered { .. } | ProducerEvent::Missed(_) => {
                self.resume(|_| true);
            }
            _ => {}
        }
    }

    fn resume(&mut self, is_meant: impl Fn(u32) -> bool) {
        let meant = self.paused.iter_mut().filter(|(id, _)| is_meant(**id));
        meant.for_each(|(_, paused)| paused.backoff.reset());
        // One that fails at this moment is tried again soon.
        let meant = self.active.iter_mut().filter(|(id, _)| is_meant(**id));
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
