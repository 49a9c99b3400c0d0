//! Following the registry: keeps the route of one topic in line with it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::{FutureExt as _, select_all};
use metaq_discovery::{TopicView, TopicWatch, ViewBroker};
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    PublishError, deadline,
    health::ProducerEvent,
    panics::{self, contain},
    route::{
        diff::Difference,
        followed::{FollowerParts, Progress},
        link::Link,
        topic_broker::TopicBroker,
        topic_state::{Route, RouteBroker, TopicState},
    },
};

/// The time for which a broker that the registry no longer names is used as long as it stays connected. One
/// whose partitions change leaves the registry for some milliseconds (registry §8).
const GRACE: Duration = Duration::from_millis(250);

/// The pause of a follower after it has panicked, and before it asks a registry again whose watch has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a registry has to say why no broker offers a topic.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Follows one topic: reads its views, keeps connections to its brokers, and sets the route.
pub(super) struct Follower {
    state: Arc<TopicState>,
    parts: Arc<FollowerParts>,
    /// The last view.
    view: Option<Arc<TopicView>>,
    /// The connections to each address that the view names, or that is used until its successor is ready.
    links: BTreeMap<BrokerAddr, Link>,
    /// The address at which each broker is used now.
    used: BTreeMap<BrokerId, BrokerAddr>,
    /// The brokers of the last view, and those that are kept though the registry no longer names them: until
    /// when.
    last: Vec<ViewBroker>,
    kept: BTreeMap<BrokerId, Instant>,
    /// Whether the topic was published, so that changes are reported.
    is_published: bool,
}

impl Follower {
    pub(super) fn new(state: Arc<TopicState>, parts: Arc<FollowerParts>) -> Self {
        Self {
            state,
            parts,
            view: None,
            links: BTreeMap::new(),
            used: BTreeMap::new(),
            last: Vec::new(),
            kept: BTreeMap::new(),
            is_published: false,
        }
    }

    /// Runs until the task is aborted, or the topic could not be published at first. After a panic of
    /// foreign code on it (a discovery's, a transport's, a subscriber's), the topic is followed on.
    pub(super) async fn run(mut self) {
        loop {
            match AssertUnwindSafe(self.follow()).catch_unwind().await {
                Ok(Err(error)) => {
                    // First, so that messages that find it withdrawn find out why.
                    self.state.followed().set_progress(Progress::Failed(error.clone()));
                    self.state.withdraw();
                    self.route_changed();
                    let observer = self.parts.publish_observer.get().and_then(Weak::upgrade);
                    if let Some(observer) = observer {
                        observer.publishing_failed(&self.state, &error);
                    }
                    return;
                }
                Ok(Ok(never)) => match never {},
                Err(panic) => {
                    let (topic, panic) = (&self.state.topic, panics::text(&*panic));
                    contain(
                        || tracing::error!(%topic, panic, "following the topic panicked; it is followed on"),
                    );
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Follows the topic for ever.
    ///
    /// # Errors
    /// When the topic can't be published. Once it is, the last route holds while the registry can't be read.
    async fn follow(&mut self) -> Result<Infallible, PublishError> {
        let watching = Watching(Arc::clone(&self.state));
        let mut watch = if self.state.followed().is_ready() {
            self.is_published = true;
            None
        } else {
            let watch = self.first_route().await?;
            self.state.followed().set_progress(Progress::Ready);
            self.tell_published();
            Some(watch)
        };
        // Before the registry is asked again: none after a watch that has lasted.
        let mut pause = Duration::ZERO;
        loop {
            let mut watch = match watch.take() {
                Some(watch) => watch,
                None => self.watch_again(pause).await,
            };
            watching.0.set_watch(Some(watch.clone()));
            let since = Instant::now();
            loop {
                let view = watch.current();
                self.apply(&view).await;
                if !self.next_change(&mut watch).await {
                    break;
                }
            }
            pause = if since.elapsed() >= LONGEST_PAUSE {
                Duration::ZERO
            } else {
                (2 * pause).clamp(PAUSE, LONGEST_PAUSE)
            };
        }
    }

    /// Reads the first view with a broker in it, and waits until a broker is connected and all others are, or
    /// have failed to be.
    async fn first_route(&mut self) -> Result<TopicWatch, PublishError> {
        let (parts, topic) = (Arc::clone(&self.parts), self.state.topic.clone());
        self.state.followed().begin().await;
        let limits = parts.limits;
        let deadline = deadline::after(limits.total);
        let mut watch = match timeout_at(deadline, parts.discovery.watch(&topic)).await {
            Ok(Ok(watch)) => watch,
            Ok(Err(error)) => return Err(PublishError::discovery(&topic, error)),
            Err(_) => return Err(PublishError::discovery_timeout(&topic, limits.total)),
        };
        let topic_deadline = deadline.min(deadline::after(limits.topic));
        loop {
            let view = watch.current();
            // A transport that doesn't return from `connect` is a broker that can't be reached.
            let _ = timeout_at(deadline, self.apply(&view)).await;
            let settled = self.links.values().all(Link::is_settled);
            let ready = !self.state.route().partitions.is_empty();
            if settled && ready {
                return Ok(watch);
            }
            let limit = if view.is_empty() { topic_deadline } else { deadline };
            match timeout_at(limit, self.next_change(&mut watch)).await {
                Ok(true) => {}
                Ok(false) => return Err(PublishError::discovery_ended(&topic)),
                Err(_) if ready => return Ok(watch),
                Err(_) if view.is_empty() => {
                    let limit = deadline.min(deadline::after(EXPLAIN_TIMEOUT));
                    let reason = timeout_at(limit, parts.discovery.explain_absence(&topic)).await;
                    return Err(PublishError::no_such_topic(&topic, limits.topic, reason.ok().flatten()));
                }
                Err(_) => {
                    let (brokers, last) = self.state.route().unreachable();
                    return Err(PublishError::unreachable(&topic, &brokers, limits.total, last));
                }
            }
        }
    }

    /// Watches the topic again after a pause: its watch has ended, or its task is another. The last route
    /// holds meanwhile.
    async fn watch_again(&mut self, pause: Duration) -> TopicWatch {
        let (parts, topic) = (Arc::clone(&self.parts), self.state.topic.clone());
        self.pause(pause).await;
        let mut pause = PAUSE;
        loop {
            let mut watching = parts.discovery.watch(&topic);
            let watched = loop {
                tokio::select! {
                    biased;
                    watched = &mut watching => break watched,
                    () = self.next_state_change() => self.apply_last().await,
                }
            };
            match watched {
                Ok(watch) => return watch,
                Err(error) => {
                    contain(
                        || tracing::debug!(%topic, %error, "the registry can't be read; the last route holds"),
                    );
                }
            }
            self.pause(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Looks after the connections for a while, and after nothing else.
    async fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        while timeout_at(until, self.next_state_change()).await.is_ok() {
            self.apply_last().await;
        }
    }

    /// Waits until the view or the state of a connection has changed. False when there will be no other view.
    async fn next_change(&mut self, watch: &mut TopicWatch) -> bool {
        tokio::select! {
            biased;
            changed = watch.changed() => changed.is_ok(),
            () = self.next_state_change() => true,
        }
    }

    /// Waits until the state of a connection has changed, or a broker has been kept long enough.
    async fn next_state_change(&mut self) {
        match self.kept.values().min() {
            // That it is over is seen when the view is applied again.
            Some(until) => drop(timeout_at(*until, self.next_link_change()).await),
            None => self.next_link_change().await,
        }
    }

    async fn next_link_change(&mut self) {
        let states = self.links.values_mut().flat_map(|link| &mut link.connections);
        let changes: Vec<_> = states
            .map(|(_, state)| {
                async {
                    // The state of a connection that is gone never changes again.
                    if state.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                .boxed()
            })
            .collect();
        if changes.is_empty() {
            std::future::pending::<()>().await;
        }
        let (_, _, _) = select_all(changes).await;
    }

    /// Brings connections and route in line with the last view.
    async fn apply_last(&mut self) {
        if let Some(view) = self.view.clone() {
            self.apply(&view).await;
        }
    }

    /// Brings connections and route in line with `view`: connects to what is new, uses what is ready, keeps a
    /// moved broker's old connection until the new one is ready, and lets go of the rest.
    async fn apply(&mut self, view: &Arc<TopicView>) {
        self.view = Some(Arc::clone(view));
        let view = &self.with_kept(view);
        // One that is closed for good, as with its runtime, is no use any more.
        self.links.retain(|_, link| !link.has_closed());
        for broker in view.brokers() {
            if !self.links.contains_key(&broker.addr) {
                self.connect(&broker.addr).await;
            }
        }
        for (_, state) in self.links.values_mut().flat_map(|link| &mut link.connections) {
            state.mark_unchanged();
        }
        let anew = self.links.iter_mut().filter_map(|(addr, link)| link.is_anew().then(|| addr.clone()));
        let anew: Vec<_> = anew.collect();
        let mut route = Route::default();
        let mut used = BTreeMap::new();
        for broker in view.brokers() {
            let Some(link) = self.links.get(&broker.addr) else {
                continue;
            };
            // Unless another broker is there now: its receipts would name the wrong one.
            let is_free = |addr: &BrokerAddr| view.brokers().iter().all(|named| named.addr != *addr);
            let old = self.used.get(&broker.id).filter(|addr| **addr != broker.addr && is_free(addr));
            let old = old.and_then(|addr| self.links.get_key_value(addr)).filter(|(_, old)| old.is_ready());
            let (addr, link) = match old {
                Some(old) if !link.is_ready() => {
                    route.missing.extend(link.first().map(|connection| (broker.id, connection)));
                    old
                }
                _ if link.is_ready() => (&broker.addr, link),
                _ => {
                    route.missing.extend(link.first().map(|connection| (broker.id, connection)));
                    continue;
                }
            };
            if anew.contains(addr) {
                // It may be another process. What it refused or left unanswered before, it may do now.
                self.state.forget_refusals(broker.id);
                link.topic_broker.broker.worked();
            }
            let (topic_broker, connections) = (Arc::clone(&link.topic_broker), link.ready());
            route.brokers.push(RouteBroker { id: broker.id, topic_broker, connections });
            used.insert(broker.id, addr.clone());
        }
        route.brokers.sort_unstable_by_key(|broker| broker.id);
        route.connections = route.brokers.iter().map(|broker| broker.connections.len()).sum();
        let is_used = |id: &BrokerId| used.contains_key(id);
        route.partitions.extend(view.partitions().iter().filter(|partition| is_used(&partition.broker)));
        route.configured = self.state.configured(view.partitions());
        let named = |addr: &BrokerAddr| view.brokers().iter().any(|broker| broker.addr == *addr);
        let in_use = |addr: &BrokerAddr| used.values().any(|used| used == addr);
        self.links.retain(|addr, _| named(addr) || in_use(addr));
        self.used = used;
        let change = self.tell_change(&route);
        self.state.set_route(route);
        // A reader of the event finds the route that it is about.
        change.into_iter().for_each(|change| self.parts.events.send(change));
        self.route_changed();
    }

    fn route_changed(&self) {
        if let Some(observer) = self.parts.observer.upgrade() {
            observer.route_changed(&self.state);
        }
    }

    fn tell_published(&mut self) {
        self.is_published = true;
        let route = self.state.route();
        let (topic, brokers) = (&self.state.topic, Difference::new(&route, &Route::default()).to_string());
        let (partitions, missing) = (route.partitions.len(), route.missing.len());
        contain(|| tracing::info!(%topic, brokers, partitions, missing, "topic published"));
        self.parts.events.send(route_changed(topic, &route));
    }

    /// Logs the difference of the new route to the current one, and returns the event about it, if there is
    /// any.
    fn tell_change(&self, new: &Route) -> Option<ProducerEvent> {
        let old = self.state.route();
        let (added, removed) = (Difference::new(new, &old), Difference::new(&old, new));
        if !self.is_published || (added.is_empty() && removed.is_empty()) {
            return None;
        }
        let (topic, partitions, missing) = (&self.state.topic, new.partitions.len(), new.missing.len());
        contain(|| tracing::info!(%topic, %added, %removed, partitions, missing, "route changed"));
        Some(route_changed(topic, new))
    }

    /// The view with the brokers that have just vanished from it but are still connected. A broker whose
    /// topics change deletes its entry and creates it again a few milliseconds later (registry §8), which
    /// must not be felt.
    fn with_kept(&mut self, view: &TopicView) -> TopicView {
        let (now, mut kept) = (Instant::now(), BTreeMap::new());
        let mut merged = view.clone();
        for broker in &self.last {
            if view.brokers().iter().any(|named| named.id == broker.id || named.addr == broker.addr) {
                continue;
            }
            let link = self.used.get(&broker.id).and_then(|addr| self.links.get(addr));
            let until = self.kept.get(&broker.id).copied().unwrap_or_else(|| deadline::at(now, GRACE));
            if now < until && link.is_some_and(Link::is_ready) {
                kept.insert(broker.id, until);
                merged = merged.with(broker.clone());
            }
        }
        self.kept = kept;
        merged.brokers().clone_into(&mut self.last);
        merged
    }

    async fn connect(&mut self, addr: &BrokerAddr) {
        match self.parts.pool.get(addr).await {
            Ok((broker, connections)) => {
                let topic_broker = Arc::new(TopicBroker::new(Arc::clone(&self.state), broker));
                self.links.insert(addr.clone(), Link::new(topic_broker, connections));
            }
            Err(error) => {
                let topic = &self.state.topic;
                contain(|| tracing::warn!(%topic, broker = %addr, %error, "broker can't be used"));
            }
        }
    }
}

/// Has the topic forget its watch when nothing follows it any more.
struct Watching(Arc<TopicState>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.set_watch(None);
    }
}

fn route_changed(topic: &Topic, route: &Route) -> ProducerEvent {
    let missing = route.missing.iter().map(|(id, _)| *id).collect();
    ProducerEvent::RouteChanged { topic: topic.clone(), partitions: route.partitions.len(), missing }
}
