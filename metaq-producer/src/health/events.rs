//! The events of a producer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::FutureExt as _;
use metaq_discovery::{BadEntry, DiscoveryEvent, DiscoveryEvents};
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use metaq_transport::TransportError;
use tokio::sync::{broadcast, watch};

use super::reason;
use crate::panics::{contain, with_contained_waker};

/// The number of events that wait for a reader; older ones are replaced by [`ProducerEvent::Missed`].
const CAPACITY: usize = 256;

/// A change of a connection, a route, or the registry.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProducerEvent {
    /// A connection was established, and the broker has proven that it answers.
    #[non_exhaustive]
    Connected {
        /// The broker.
        broker: BrokerAddr,
    },
    /// A broker can't be reached, or does not answer. Reported again when the reason changes.
    #[non_exhaustive]
    Unreachable {
        /// The broker.
        broker: BrokerAddr,
        /// The reason.
        error: TransportError,
    },
    /// A connection was lost; it is being re-established. Also reported when one that was silent is replaced
    /// by another on which the broker answers.
    #[non_exhaustive]
    ConnectionLost {
        /// The broker.
        broker: BrokerAddr,
        /// The reason.
        error: TransportError,
    },
    /// A broker owes answers and is silent; nothing more is sent to it for now.
    #[non_exhaustive]
    Stalled {
        /// The broker.
        broker: BrokerAddr,
    },
    /// A broker that was silent answers again on the same connection.
    #[non_exhaustive]
    Recovered {
        /// The broker.
        broker: BrokerAddr,
    },
    /// A connection was closed: no topic needs it any more, the producer was closed, or the runtime that it
    /// lived on has ended.
    #[non_exhaustive]
    Closed {
        /// The broker.
        broker: BrokerAddr,
    },
    /// The partitions that messages of a topic can go to have changed, or their brokers have.
    #[non_exhaustive]
    RouteChanged {
        /// The topic.
        topic: Topic,
        /// The number of partitions whose brokers are connected.
        partitions: usize,
        /// The brokers that the registry names and that are not connected.
        missing: Vec<BrokerId>,
    },
    /// The registry answers, for the first time or again.
    RegistryConnected,
    /// The registry does not answer. All routes hold.
    RegistryLost,
    /// The session with the registry has expired; another one is being opened. All routes hold.
    RegistryExpired,
    /// An entry of the registry can't be used. The others are.
    BadEntry(BadEntry),
    /// The reader was so slow that this many events were dropped. Changes of views, which are no events of
    /// their own, may be among them.
    Missed(u64),
}

impl ProducerEvent {
    /// The event for one of the discovery's; none for a view, whose effect is reported as a change of the
    /// route.
    fn of_registry(event: DiscoveryEvent) -> Option<Self> {
        match event {
            DiscoveryEvent::Connected => Some(Self::RegistryConnected),
            DiscoveryEvent::Lost => Some(Self::RegistryLost),
            DiscoveryEvent::Expired => Some(Self::RegistryExpired),
            DiscoveryEvent::BadEntry(entry) => Some(Self::BadEntry(entry)),
            DiscoveryEvent::Missed(count) => Some(Self::Missed(count)),
            _ => None,
        }
    }
}

impl fmt::Display for ProducerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { broker } => write!(f, "{broker} connected"),
            Self::Unreachable { broker, error } => write!(f, "{broker} unreachable: {}", reason(error)),
            Self::ConnectionLost { broker, error } => write!(f, "{broker} lost: {}", reason(error)),
            Self::Stalled { broker } => write!(f, "{broker} stalled"),
            Self::Recovered { broker } => write!(f, "{broker} recovered"),
            Self::Closed { broker } => write!(f, "{broker} closed"),
            Self::RouteChanged { topic, partitions, missing } => {
                write!(f, "route of {topic} changed: {partitions} partitions")?;
                missing.iter().try_for_each(|id| write!(f, ", broker {id} missing"))
            }
            Self::RegistryConnected => f.write_str("registry connected"),
            Self::RegistryLost => f.write_str("registry lost"),
            Self::RegistryExpired => f.write_str("registry session expired"),
            Self::BadEntry(entry) => write!(f, "bad entry in the registry: {entry}"),
            Self::Missed(count) => write!(f, "{count} events missed"),
        }
    }
}

/// The events of a producer from the moment of [`Producer::events`](crate::Producer::events) on, in the order
/// in which they happened to each broker and to each topic.
///
/// At most 256 wait for their reader; a slower one receives the number that it
/// [missed](ProducerEvent::Missed), and never delays messages. A state that lasted shorter than it took to
/// look at it is skipped.
#[derive(Debug)]
pub struct ProducerEvents {
    own: broadcast::Receiver<ProducerEvent>,
    closed: watch::Receiver<bool>,
    registry: Option<DiscoveryEvents>,
    /// Set once all events were returned.
    has_ended: bool,
}

impl ProducerEvents {
    /// Waits for the next event. None once the producer was closed, or its last clone dropped, and all events
    /// before that were returned.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<ProducerEvent> {
        if self.has_ended {
            return None;
        }
        let next = with_contained_waker(self.next_of_both()).await;
        self.has_ended = next.is_none();
        next
    }

    async fn next_of_both(&mut self) -> Option<ProducerEvent> {
        use broadcast::error::{RecvError, TryRecvError};
        loop {
            // Asked first, so that what was sent before closing is returned.
            let is_closed = *self.closed.borrow_and_update();
            match self.own.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(count)) => return Some(ProducerEvent::Missed(count)),
                Err(TryRecvError::Closed) => return self.next_of_registry(),
                Err(TryRecvError::Empty) if is_closed => return self.next_of_registry(),
                Err(TryRecvError::Empty) => {}
            }
            let registry = async {
                match &mut self.registry {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.own.recv() => return match event {
                    Ok(event) => Some(event),
                    Err(RecvError::Lagged(count)) => Some(ProducerEvent::Missed(count)),
                    Err(RecvError::Closed) => self.next_of_registry(),
                },
                event = registry => match event {
                    Some(event) => {
                        if let Some(event) = ProducerEvent::of_registry(event) {
                            return Some(event);
                        }
                    }
                    None => self.registry = None,
                },
                // That the sender is gone is seen by the next look as well.
                _ = self.closed.changed() => {}
            }
        }
    }

    /// The next event of the registry that was sent already.
    fn next_of_registry(&mut self) -> Option<ProducerEvent> {
        loop {
            let event = self.registry.as_mut()?.next().now_or_never()??;
            if let Some(event) = ProducerEvent::of_registry(event) {
                return Some(event);
            }
        }
    }
}

/// The number of events of each kind since the producer was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounts {
    /// [`Connected`](ProducerEvent::Connected).
    pub connected: u64,
    /// [`Unreachable`](ProducerEvent::Unreachable).
    pub unreachable: u64,
    /// [`ConnectionLost`](ProducerEvent::ConnectionLost).
    pub connection_lost: u64,
    /// [`Stalled`](ProducerEvent::Stalled).
    pub stalled: u64,
    /// [`Recovered`](ProducerEvent::Recovered).
    pub recovered: u64,
    /// [`Closed`](ProducerEvent::Closed).
    pub closed: u64,
    /// [`RouteChanged`](ProducerEvent::RouteChanged).
    pub route_changed: u64,
    /// The registry was lost, or its session expired. A discovery that several producers share counts for
    /// each of them, and from its beginning.
    pub registry_lost: u64,
}

/// Sends the events of one producer to all who have subscribed, and counts them.
#[derive(Clone, Debug)]
pub(crate) struct EventSender {
    sender: broadcast::Sender<ProducerEvent>,
    closed: watch::Sender<bool>,
    /// In the order of [`place`](Self::place).
    counts: Arc<[AtomicU64; 7]>,
}

impl Default for EventSender {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(CAPACITY),
            closed: watch::Sender::new(false),
            counts: Arc::default(),
        }
    }
}

impl EventSender {
    pub(crate) fn subscribe(&self, registry: DiscoveryEvents) -> ProducerEvents {
        ProducerEvents {
            own: self.sender.subscribe(),
            closed: self.closed.subscribe(),
            registry: Some(registry),
            has_ended: false,
        }
    }

    /// Whether the streams end, which they do once the producer has closed.
    #[cfg(feature = "metrics")]
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// The place of the event's kind in the counts; none for those of the registry.
    fn place(event: &ProducerEvent) -> Option<usize> {
        Some(match event {
            ProducerEvent::Connected { .. } => 0,
            ProducerEvent::Unreachable { .. } => 1,
            ProducerEvent::ConnectionLost { .. } => 2,
            ProducerEvent::Stalled { .. } => 3,
            ProducerEvent::Recovered { .. } => 4,
            ProducerEvent::Closed { .. } => 5,
            ProducerEvent::RouteChanged { .. } => 6,
            _ => return None,
        })
    }

    /// The numbers of events, with that of losses of the registry.
    pub(crate) fn counts(&self, registry_lost: u64) -> EventCounts {
        let [connected, unreachable, connection_lost, stalled, recovered, closed, route_changed] =
            [0, 1, 2, 3, 4, 5, 6].map(|place: usize| self.counts[place].load(Ordering::Relaxed));
        EventCounts {
            connected,
            unreachable,
            connection_lost,
            stalled,
            recovered,
            closed,
            route_changed,
            registry_lost,
        }
    }

    /// Sends an event. Readers may be woken on this thread, whose wakers are anybody's code.
    pub(crate) fn send(&self, event: ProducerEvent) {
        if let Some(place) = Self::place(&event) {
            self.counts[place].fetch_add(1, Ordering::Relaxed);
        }
        // There may be no reader.
        contain(|| drop(self.sender.send(event)));
    }

    /// Ends the streams once they have returned what was sent before.
    pub(crate) fn close(&self) {
        contain(|| {
            self.closed.send_replace(true);
        });
    }
}

#[cfg(test)]
mod tests {
    use metaq_discovery::EventPublisher;

    use super::*;

    fn stalled() -> ProducerEvent {
        ProducerEvent::Stalled { broker: "meta://h:1".parse().unwrap() }
    }

    #[tokio::test]
    async fn events_of_both_sources_come_until_the_end() {
        let (sender, registry) = (EventSender::default(), EventPublisher::default());
        let mut events = sender.subscribe(registry.subscribe());
        sender.send(stalled());
        registry.send(DiscoveryEvent::Lost);
        assert_eq!(events.next().await.unwrap().to_string(), "meta://h:1 stalled");
        assert_eq!(events.next().await.unwrap().to_string(), "registry lost");
        registry.close();
        sender.send(stalled());
        assert!(matches!(events.next().await, Some(ProducerEvent::Stalled { .. })));
        sender.send(stalled());
        sender.close();
        assert!(matches!(events.next().await, Some(ProducerEvent::Stalled { .. })));
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_returned() {
        for closes in [true, false] {
            let (sender, registry) = (EventSender::default(), EventPublisher::default());
            let mut events = sender.subscribe(registry.subscribe());
            registry.send(DiscoveryEvent::Lost);
            sender.send(stalled());
            if closes {
                sender.close();
            }
            drop(sender);
            assert!(matches!(events.next().await, Some(ProducerEvent::Stalled { .. })));
            assert!(matches!(events.next().await, Some(ProducerEvent::RegistryLost)));
            assert!(events.next().await.is_none() && events.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_slow_reader_learns_how_many_events_it_missed() {
        let sender = EventSender::default();
        let mut events = sender.subscribe(DiscoveryEvents::none());
        (0..CAPACITY + 3).for_each(|_| sender.send(stalled()));
        assert!(matches!(events.next().await, Some(ProducerEvent::Missed(3))));
        assert!(matches!(events.next().await, Some(ProducerEvent::Stalled { .. })));
    }
}
