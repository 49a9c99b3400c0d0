//! The partitions that the messages of one topic can go to at this moment.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use metaq_discovery::TopicWatch;
use metaq_protocol::{BrokerAddr, BrokerId, Partition, Topic};
use metaq_transport::{Connection, ConnectionState, TransportError};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::{
    PartitionSelector,
    config::PartitionSet,
    deadline, health,
    health::TopicHealth,
    route::guarded_selector::GuardedSelector,
    route::wait_queue::WaitQueues,
    route::{followed::Followed, topic_broker::TopicBroker},
    stats::counts::TopicCounts,
};

/// A topic that messages are sent to: its current route, and what belongs to the topic whatever the route is.
pub(crate) struct TopicState {
    pub(crate) topic: Topic,
    pub(crate) counts: Arc<TopicCounts>,
    /// The topic's own selector, or the producer's.
    pub(crate) selector: GuardedSelector,
    /// The messages that wait.
    pub(crate) waits: Arc<WaitQueues>,
    /// Whether there is one message at a time in each partition.
    pub(crate) is_ordered: bool,
    /// The partitions that the selector chooses from, if they are configured.
    partition_set: Option<PartitionSet>,
    /// Sees to it that the topic is followed.
    followed: Followed,
    /// The watch of the task that follows the topic.
    watch: Mutex<Option<TopicWatch>>,
    route: ArcSwap<Route>,
    changed: Notify,
    withdrawn: AtomicBool,
    cooldowns: PartitionCooldowns,
}

impl TopicState {
    pub(crate) fn new(
        topic: Topic,
        counts: Arc<TopicCounts>,
        selector: Arc<dyn PartitionSelector>,
        partition_set: Option<PartitionSet>,
        is_ordered: bool,
        waits: Arc<WaitQueues>,
        followed: Followed,
    ) -> Self {
        let configured = partition_set.as_ref().and_then(|set| set.choices(&[], None));
        Self {
            topic,
            counts,
            selector: GuardedSelector::new(selector),
            waits,
            is_ordered,
            partition_set,
            followed,
            watch: Mutex::default(),
            route: ArcSwap::from_pointee(Route { configured, ..Route::default() }),
            changed: Notify::new(),
            withdrawn: AtomicBool::new(false),
            cooldowns: PartitionCooldowns::default(),
        }
    }

    pub(crate) fn route(&self) -> arc_swap::Guard<Arc<Route>> {
        self.route.load()
    }

    pub(crate) fn set_route(&self, route: Route) {
        self.route.store(Arc::new(route));
        // The follower may be setting its last route while the topic is withdrawn: connections would stay
        // open for it.
        if self.is_withdrawn() {
            self.route.store(Arc::default());
        }
        self.changed.notify_waiters();
    }

    /// The partitions that the selector chooses from when the registry names these, if they are configured.
    pub(crate) fn configured(&self, named: &[Partition]) -> Option<Arc<[Partition]>> {
        self.partition_set.as_ref()?.choices(named, self.route().configured.as_ref())
    }

    /// Waits for another route, from when it is enabled or polled.
    pub(crate) fn route_changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits until the topic is unpublished.
    pub(crate) async fn withdrawn(&self) {
        loop {
            let mut changed = pin!(self.route_changed());
            changed.as_mut().enable();
            if self.is_withdrawn() {
                return;
            }
            changed.await;
        }
    }

    /// The topic was unpublished: follows it no more, and forgets the route, and with it the connections.
    pub(crate) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::SeqCst);
        self.followed.stop();
        self.set_route(Route::default());
    }

    pub(crate) fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Follows the topic, on the caller's runtime, if no task does: none has yet, or it has ended with its
    /// runtime. True if it began by this.
    pub(crate) fn ensure_followed(self: &Arc<Self>) -> bool {
        !self.is_withdrawn() && self.followed.ensure(self)
    }

    /// Replaces the watch that knows the age of the view.
    pub(crate) fn set_watch(&self, watch: Option<TopicWatch>) {
        let old = std::mem::replace(&mut *self.watch.lock(), watch);
        // It may be the last that keeps a discovery's task.
        drop(old);
    }

    /// The health of the topic.
    pub(crate) fn health(&self) -> TopicHealth {
        let route = self.route();
        let connected: Vec<_> =
            route.brokers.iter().filter(|broker| broker.is_open()).map(|broker| broker.id).collect();
        let partitions = route.partitions.iter();
        TopicHealth {
            topic: self.topic.clone(),
            partitions: partitions.filter(|partition| connected.contains(&partition.broker)).count(),
            connected,
            missing: route.missing.iter().map(|(id, _)| *id).collect(),
            view_age: self.watch.lock().as_ref().map(|watch| watch.current().age()),
        }
    }

    /// Whether messages can go to a partition.
    pub(crate) fn is_open(&self) -> bool {
        let route = self.route();
        !route.partitions.is_empty() && route.brokers.iter().any(RouteBroker::is_open)
    }

    /// The reason why they can't.
    pub(crate) fn why_not_open(&self) -> String {
        let route = self.route();
        if route.named().next().is_none() && self.watch.lock().is_none() {
            return "it is being published: its brokers are not known yet".to_owned();
        }
        if route.partitions.is_empty() && route.brokers.iter().any(RouteBroker::is_open) {
            return "its brokers have no partitions".to_owned();
        }
        let (brokers, last) = route.unreachable();
        let last = last.map(|error| format!(": {}", health::reason(&error))).unwrap_or_default();
        format!("no broker is connected: {brokers}{last}")
    }

    /// Whether a broker is connected.
    pub(crate) fn is_reachable(&self) -> bool {
        let route = self.route();
        let mut connections = route.brokers.iter().flat_map(|broker| &broker.connections);
        connections.any(|connection| connection.state().borrow().is_ready())
    }

    /// Whether the topic was unpublished; senders may still hold it then.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    /// A broker refused messages for `partition`, which is left alone for a moment as long as there are
    /// others.
    pub(crate) fn refused(&self, partition: Partition, now: Instant) {
        self.cooldowns.begin(partition, now);
    }

    /// A broker was connected again: its earlier refusals are void.
    pub(crate) fn forget_refusals(&self, broker: BrokerId) {
        self.cooldowns.forget(broker);
    }

    /// Ends the cooldown of a partition.
    pub(crate) fn forget_refusal(&self, partition: Partition) {
        self.cooldowns.end(partition);
    }

    /// Whether `partition` is better left alone for now.
    #[inline]
    pub(crate) fn is_cooling_down(&self, partition: Partition, now: Instant) -> bool {
        self.cooldowns.is_on(partition, now)
    }
}

impl fmt::Debug for TopicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicState")
            .field("topic", &self.topic)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

/// The partitions that were refused lately.
#[derive(Debug, Default)]
struct PartitionCooldowns {
    count: AtomicUsize,
    until: Mutex<HashMap<Partition, Instant>>,
}

/// The cooldown of a partition that a broker refused, until the next message tries it.
const PARTITION_COOLDOWN: std::time::Duration = std::time::Duration::from_secs(10);

impl PartitionCooldowns {
    fn begin(&self, partition: Partition, now: Instant) {
        let mut until = self.until.lock();
        until.insert(partition, deadline::at(now, PARTITION_COOLDOWN));
        self.count.store(until.len(), Ordering::Release);
    }

    fn forget(&self, broker: BrokerId) {
        let mut until = self.until.lock();
        until.retain(|partition, _| partition.broker != broker);
        self.count.store(until.len(), Ordering::Release);
    }

    fn end(&self, partition: Partition) {
        let mut until = self.until.lock();
        until.remove(&partition);
        self.count.store(until.len(), Ordering::Release);
    }

    #[inline]
    fn is_on(&self, partition: Partition, now: Instant) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.has(partition, now)
    }

    #[cold]
    fn has(&self, partition: Partition, now: Instant) -> bool {
        let mut until = self.until.lock();
        until.retain(|_, until| *until > now);
        self.count.store(until.len(), Ordering::Release);
        until.contains_key(&partition)
    }
}

/// What of a partition is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Its broker is not connected.
    Broker,
    /// Its broker is connected, and the registry doesn't name this partition of it.
    Partition,
}

/// The partitions that a message can go to now, and the ways to their brokers. Never changed, only replaced.
#[derive(Debug, Default)]
pub(crate) struct Route {
    pub(crate) partitions: Vec<Partition>,
    /// Those that the selector chooses from in place of these, sorted.
    pub(crate) configured: Option<Arc<[Partition]>>,
    /// The connected brokers, sorted by id.
    pub(crate) brokers: Vec<RouteBroker>,
    /// The number of their connections.
    pub(crate) connections: usize,
    /// The brokers that the registry names but that are not connected.
    pub(crate) missing: Vec<(BrokerId, Arc<dyn Connection>)>,
}

/// A broker that is connected.
#[derive(Clone, Debug)]
pub(crate) struct RouteBroker {
    pub(crate) id: BrokerId,
    pub(crate) topic_broker: Arc<TopicBroker>,
    /// At least one.
    pub(crate) connections: Vec<Arc<dyn Connection>>,
}

impl RouteBroker {
    /// Whether a connection to it isn't closed for good.
    fn is_open(&self) -> bool {
        self.connections.iter().any(|connection| !connection.state().borrow().is_closed())
    }

    /// The connection for a partition: always the same as long as the route holds.
    pub(crate) fn connection(&self, partition: Partition) -> Option<&Arc<dyn Connection>> {
        self.numbered_connection(partition).map(|(_, connection)| connection)
    }

    /// The same, and which one of the broker's it is.
    pub(crate) fn numbered_connection(&self, partition: Partition) -> Option<(usize, &Arc<dyn Connection>)> {
        match self.connections.as_slice() {
            [only] => Some((0, only)),
            several => {
                let number = partition.index.unsigned_abs() as usize % several.len().max(1);
                several.get(number).map(|connection| (number, connection))
            }
        }
    }
}

impl Route {
    /// The broker with this id, if it is connected.
    pub(crate) fn broker(&self, id: BrokerId) -> Option<&RouteBroker> {
        match self.brokers.as_slice() {
            [only] => Some(only).filter(|broker| broker.id == id),
            brokers => {
                let place = brokers.binary_search_by_key(&id, |broker| broker.id).ok()?;
                brokers.get(place)
            }
        }
    }

    pub(crate) fn has(&self, partition: Partition) -> bool {
        self.partitions.binary_search(&partition).is_ok()
    }

    /// The partitions that the selector chooses from.
    #[inline]
    pub(crate) fn choices(&self) -> &[Partition] {
        match &self.configured {
            Some(configured) => configured,
            None => &self.partitions,
        }
    }

    /// Why messages for `partition` have to wait for it, if they do: its broker is away, or the partition is
    /// configured and is not there.
    pub(crate) fn absence(&self, partition: Partition) -> Option<Absence> {
        let is_configured =
            || self.configured.as_ref().is_some_and(|set| set.binary_search(&partition).is_ok());
        match self.broker(partition.broker) {
            Some(_) if !self.has(partition) && is_configured() => Some(Absence::Partition),
            None if is_configured() || self.knows(partition.broker) => Some(Absence::Broker),
            _ => None,
        }
    }

    /// Whether the registry names the broker, connected or not.
    pub(crate) fn knows(&self, id: BrokerId) -> bool {
        self.broker(id).is_some() || self.missing.iter().any(|(waiting, _)| *waiting == id)
    }

    /// The brokers, connected or not, each with its address.
    pub(crate) fn named(&self) -> impl Iterator<Item = (BrokerId, &BrokerAddr)> {
        let connected = self.brokers.iter().map(|broker| (broker.id, &broker.topic_broker.broker.addr));
        let waiting = self.missing.iter().map(|(id, connection)| (*id, connection.broker()));
        connected.chain(waiting)
    }

    /// The brokers that can't be reached, as text with the reasons, and the last reason.
    pub(crate) fn unreachable(&self) -> (String, Option<TransportError>) {
        let (mut text, mut last) = (String::new(), None);
        for (id, connection) in &self.missing {
            let separator = if text.is_empty() { "" } else { ", " };
            let addr = connection.broker();
            // Writing to a string can't fail.
            let _ = match *id {
                BrokerId::UNKNOWN => write!(text, "{separator}{addr}"),
                id => write!(text, "{separator}{addr} (broker {id})"),
            };
            match &*connection.state().borrow() {
                ConnectionState::Connecting { last_error: Some(error), .. } => last = Some(error.clone()),
                ConnectionState::Stalled => text.push_str(" is silent"),
                _ => {}
            }
        }
        if text.is_empty() {
            text.push_str(match self.brokers.is_empty() {
                true => "the registry names no broker",
                false => "the connections have ended, as with the runtime that they were made on, and are being made anew",
            });
        }
        (text, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::RandomSelector;

    #[test]
    fn route_after_withdrawal_holds_no_connection() {
        let topic = Topic::new("t").unwrap();
        let selector = Arc::new(RandomSelector::new());
        let state =
            TopicState::new(topic, Arc::default(), selector, None, false, Arc::default(), Followed::never());
        let route = || Route { partitions: vec![Partition::new(0, 0)], ..Route::default() };
        state.set_route(route());
        assert_eq!(state.route().partitions.len(), 1);
        state.withdraw();
        state.set_route(route());
        assert!(state.route().partitions.is_empty());
    }
}
