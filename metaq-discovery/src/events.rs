//! The events of a registry.

use std::{fmt, sync::Arc};

use metaq_protocol::{BrokerId, Topic};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use crate::{
    TopicView, ViewPublisher,
    supervise::{contain, log},
};

/// The number of events that wait for a reader; older ones are replaced by [`DiscoveryEvent::Missed`].
const CAPACITY: usize = 256;

/// Something that happened to a registry, or to what is read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// The registry answers, for the first time or again.
    Connected,
    /// The registry doesn't answer. All views hold.
    Lost,
    /// The session with the registry has ended; a new one is being opened. All views hold.
    Expired,
    /// The view of a watched topic was replaced by a different one.
    ViewChanged(ViewChange),
    /// An entry can't be used. The others are; it is told once until it changes.
    BadEntry(BadEntry),
    /// The reader was so slow that this many events were dropped.
    Missed(u64),
}

impl fmt::Display for DiscoveryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Lost => f.write_str("lost"),
            Self::Expired => f.write_str("expired"),
            Self::ViewChanged(change) => write!(f, "view changed: {change}"),
            Self::BadEntry(entry) => write!(f, "bad entry: {entry}"),
            Self::Missed(count) => write!(f, "{count} events missed"),
        }
    }
}

/// The difference between a view and the one before. Shown as `orders +1 -0 ~2`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewChange {
    /// The topic whose view changed.
    pub topic: Topic,
    /// The brokers that weren't in the view before.
    pub added: Vec<BrokerId>,
    /// The brokers that are no longer in the view.
    pub removed: Vec<BrokerId>,
    /// The brokers with another address or another number of partitions.
    pub changed: Vec<BrokerId>,
}

impl ViewChange {
    /// The difference of `new`; none if there is none.
    pub(crate) fn between(old: &TopicView, new: &TopicView) -> Option<Self> {
        let topic = new.topic().clone();
        let mut change = Self { topic, added: Vec::new(), removed: Vec::new(), changed: Vec::new() };
        // Both are sorted by id.
        let mut before = old.brokers().iter().peekable();
        for broker in new.brokers() {
            while let Some(gone) = before.next_if(|other| other.id < broker.id) {
                change.removed.push(gone.id);
            }
            match before.next_if(|other| other.id == broker.id) {
                None => change.added.push(broker.id),
                Some(other) if other != broker => change.changed.push(broker.id),
                Some(_) => {}
            }
        }
        change.removed.extend(before.map(|gone| gone.id));
        let differs = !(change.added.is_empty() && change.removed.is_empty() && change.changed.is_empty());
        differs.then_some(change)
    }
}

impl fmt::Display for ViewChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, added, removed, changed } = self;
        write!(f, "{topic} +{} -{} ~{}", added.len(), removed.len(), changed.len())
    }
}

/// An entry of a registry that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct BadEntry {
    /// Its place: a path, or a file and what is meant in it.
    pub path: String,
    /// The fault.
    pub reason: String,
}

impl BadEntry {
    /// An entry at `path`, and why it can't be used.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// The connection of a discovery to its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryState {
    /// The discovery has no registry, or has not reported anything about it yet.
    #[default]
    Unknown,
    /// The registry answers.
    Connected,
    /// The registry does not answer, or its session has expired. All views hold.
    Lost,
}

impl fmt::Display for RegistryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Lost => "lost",
        })
    }
}

/// The state of a registry, and when it was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RegistryStatus {
    state: RegistryState,
    since: Instant,
}

impl RegistryStatus {
    /// Applies an event; returns true when the state is another one now.
    fn apply(&mut self, event: &DiscoveryEvent) -> bool {
        let state = match event {
            DiscoveryEvent::Connected => RegistryState::Connected,
            DiscoveryEvent::Lost | DiscoveryEvent::Expired => RegistryState::Lost,
            _ => return false,
        };
        let changes = state != self.state;
        if changes {
            *self = Self { state, since: Instant::now() };
        }
        changes
    }
}

/// The events of a discovery from the moment of [`Discovery::events`](crate::Discovery::events) on.
#[derive(Debug)]
pub struct DiscoveryEvents {
    receiver: Option<(broadcast::Receiver<DiscoveryEvent>, watch::Receiver<bool>)>,
    status: Option<Arc<Mutex<RegistryStatus>>>,
}

impl DiscoveryEvents {
    /// Events of a discovery that has none.
    #[must_use]
    pub fn none() -> Self {
        Self { receiver: None, status: None }
    }

    /// The state of the registry as of the latest event, read or not, and when it was entered. `None` in place of the time
    /// when there are no events.
    #[must_use]
    pub fn registry(&self) -> (RegistryState, Option<Instant>) {
        self.status.as_ref().map_or((RegistryState::Unknown, None), |status| {
            let RegistryStatus { state, since } = *status.lock();
            (state, Some(since))
        })
    }

    /// Waits for the next event. None when there will be no other, because the discovery was closed or is gone.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<DiscoveryEvent> {
        use broadcast::error::{RecvError, TryRecvError};
        let (events, closed) = self.receiver.as_mut()?;
        loop {
            // Asked first, so that what was sent before closing is returned.
            let is_closed = *closed.borrow_and_update();
            match events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(count)) => return Some(DiscoveryEvent::Missed(count)),
                Err(TryRecvError::Closed) => return None,
                Err(TryRecvError::Empty) if is_closed => return None,
                Err(TryRecvError::Empty) => {}
            }
            tokio::select! {
                biased;
                event = events.recv() => return match event {
                    Ok(event) => Some(event),
                    Err(RecvError::Lagged(count)) => Some(DiscoveryEvent::Missed(count)),
                    Err(RecvError::Closed) => None,
                },
                changed = closed.changed() => changed.ok()?,
            }
        }
    }
}

/// Tells [`DiscoveryEvents`] what happens: for a [`Discovery`](crate::Discovery) of one's own.
#[derive(Clone, Debug)]
pub struct EventPublisher {
    sender: broadcast::Sender<DiscoveryEvent>,
    closed: watch::Sender<bool>,
    status: Arc<Mutex<RegistryStatus>>,
}

impl Default for EventPublisher {
    fn default() -> Self {
        let status = RegistryStatus { state: RegistryState::Unknown, since: Instant::now() };
        Self {
            sender: broadcast::Sender::new(CAPACITY),
            closed: watch::Sender::new(false),
            status: Arc::new(Mutex::new(status)),
        }
    }
}

impl EventPublisher {
    /// The events from now on.
    #[must_use]
    pub fn subscribe(&self) -> DiscoveryEvents {
        DiscoveryEvents {
            receiver: Some((self.sender.subscribe(), self.closed.subscribe())),
            status: Some(Arc::clone(&self.status)),
        }
    }

    /// Says that there will be no other event: those who have subscribed get what was told before, and then None.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Tells an event to all who have subscribed, if anybody has.
    pub fn send(&self, event: DiscoveryEvent) {
        if self.status.lock().apply(&event) {
            match event {
                DiscoveryEvent::Connected => log(|| tracing::info!("registry answers")),
                _ => log(|| tracing::warn!("registry doesn't answer; all views hold")),
            }
        }
        // That nobody listens is no error.
        let _ = self.sender.send(event);
    }

    /// Publishes a view. If it is a change, that is told before anybody can see it. Calls for the same publisher must not
    /// overlap, or changes are told inexactly.
    pub fn publish(&self, publisher: &ViewPublisher, view: TopicView) {
        if let Some(change) = ViewChange::between(&publisher.current(), &view) {
            log(|| {
                tracing::info!(
                    topic = %change.topic, added = ?change.added, removed = ?change.removed,
                    changed = ?change.changed, "view of the topic changed"
                );
            });
            // Whoever is woken by it may panic; the view is published all the same.
            contain(|| self.send(DiscoveryEvent::ViewChanged(change)));
        }
        publisher.publish(view);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(brokers: &[(i32, u16, u32)]) -> TopicView {
        brokers.iter().fold(TopicView::new(Topic::new("orders").unwrap()), |view, (id, port, count)| {
            view.with_broker(BrokerId(*id), format!("meta://h:{port}").parse().unwrap(), *count)
        })
    }

    #[test]
    fn a_change_counts_brokers() {
        let old = view(&[(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)]);
        let new = view(&[(0, 1, 1), (1, 2, 1), (2, 1, 5), (4, 1, 1), (5, 1, 1)]);
        let change = ViewChange::between(&old, &new).unwrap();
        let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect::<Vec<_>>();
        assert_eq!((&change.added, &change.removed), (&ids(&[4, 5]), &ids(&[3])));
        assert_eq!(DiscoveryEvent::ViewChanged(change).to_string(), "view changed: orders +2 -1 ~2");
        assert_eq!(ViewChange::between(&old, &old), None);
    }

    #[test]
    fn the_state_is_that_of_the_latest_event() {
        let publisher = EventPublisher::default();
        let events = publisher.subscribe();
        let state = || events.registry().0;
        assert_eq!(state(), RegistryState::Unknown);
        publisher.send(DiscoveryEvent::BadEntry(BadEntry::new("path", "reason")));
        assert_eq!(state(), RegistryState::Unknown);
        publisher.send(DiscoveryEvent::Connected);
        let since = events.registry().1;
        publisher.send(DiscoveryEvent::Connected);
        assert_eq!(events.registry(), (RegistryState::Connected, since), "nothing has changed");
        publisher.send(DiscoveryEvent::Lost);
        publisher.send(DiscoveryEvent::Expired);
        assert_eq!((state(), publisher.subscribe().registry().0), (RegistryState::Lost, RegistryState::Lost));
        assert_eq!(DiscoveryEvents::none().registry(), (RegistryState::Unknown, None));
    }

    #[tokio::test]
    async fn a_slow_reader_hears_how_much_it_missed() {
        let publisher = EventPublisher::default();
        let mut events = publisher.subscribe();
        (0..CAPACITY + 7).for_each(|_| publisher.send(DiscoveryEvent::Lost));
        assert_eq!(events.next().await, Some(DiscoveryEvent::Missed(7)));
        assert_eq!(events.next().await, Some(DiscoveryEvent::Lost));
        let mut closed = publisher.subscribe();
        publisher.send(DiscoveryEvent::Expired);
        publisher.close();
        assert_eq!((closed.next().await, closed.next().await), (Some(DiscoveryEvent::Expired), None));
        assert_eq!(DiscoveryEvents::none().next().await, None);
    }
}
