//! The events of a registry.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use crate::{
    TopicView, ViewChange, ViewPublisher,
    panics::{contain, log, with_contained_waker},
};

/// The number of events that are kept for a slow reader; older ones are replaced by
/// [`DiscoveryEvent::Missed`].
const CAPACITY: usize = 256;

/// A change of a registry, or of the views that are read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// The registry answers, for the first time or again.
    Connected,
    /// The registry doesn't answer. All views remain valid.
    Lost,
    /// The session with the registry has expired; another one is being opened. All views remain valid.
    Expired,
    /// The view of a watched topic was replaced by a different one.
    ViewChanged(ViewChange),
    /// An entry can't be used; the others are used. Reported once until the entry changes.
    BadEntry(BadEntry),
    /// This many events were dropped because the reader was too slow.
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

/// An entry of a registry that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct BadEntry {
    /// The location of the entry: a path, or a file and a key in it.
    pub path: String,
    /// The reason why the entry can't be used.
    pub reason: String,
}

impl BadEntry {
    /// Creates an entry at `path` that can't be used because of `reason`.
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
    /// The registry does not answer, or its session has expired. All views remain valid.
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

/// The state of a registry, and the time at which it was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RegistryStatus {
    state: RegistryState,
    since: Instant,
    /// How often it was lost.
    losses: u64,
}

impl RegistryStatus {
    /// Applies an event; returns true if it changes the state.
    fn apply(&mut self, event: &DiscoveryEvent) -> bool {
        let state = match event {
            DiscoveryEvent::Connected => RegistryState::Connected,
            DiscoveryEvent::Lost | DiscoveryEvent::Expired => RegistryState::Lost,
            _ => return false,
        };
        let changes = state != self.state;
        if changes {
            let losses = self.losses + u64::from(state == RegistryState::Lost);
            *self = Self { state, since: Instant::now(), losses };
        }
        changes
    }
}

/// The events of a discovery, beginning with the call of [`Discovery::events`](crate::Discovery::events).
#[derive(Debug)]
pub struct DiscoveryEvents {
    receiver: Option<(broadcast::Receiver<DiscoveryEvent>, watch::Receiver<bool>)>,
    status: Option<Arc<Mutex<RegistryStatus>>>,
}

impl DiscoveryEvents {
    /// Returns the events of a discovery that never has any.
    #[must_use]
    pub fn none() -> Self {
        Self { receiver: None, status: None }
    }

    /// The state of the registry after the latest event, including unread ones, and the time at which it was
    /// entered. The time is `None` for a discovery without events.
    #[must_use]
    pub fn registry(&self) -> (RegistryState, Option<Instant>) {
        self.status.as_ref().map_or((RegistryState::Unknown, None), |status| {
            let RegistryStatus { state, since, .. } = *status.lock();
            (state, Some(since))
        })
    }

    /// The number of times that the registry has become [`Lost`](RegistryState::Lost) so far.
    #[must_use]
    pub fn registry_losses(&self) -> u64 {
        self.status.as_ref().map_or(0, |status| status.lock().losses)
    }

    /// Waits for the next event. Returns `None` when there will be no further event, because the discovery
    /// was closed or dropped.
    ///
    /// # Cancel safety
    /// If the future is dropped, no event is lost.
    pub async fn next(&mut self) -> Option<DiscoveryEvent> {
        use broadcast::error::{RecvError, TryRecvError};
        let (events, closed) = self.receiver.as_mut()?;
        loop {
            // Read first, so that events sent before closing are still returned.
            let is_closed = *closed.borrow_and_update();
            match events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(count)) => return Some(DiscoveryEvent::Missed(count)),
                Err(TryRecvError::Closed) => return None,
                Err(TryRecvError::Empty) if is_closed => return None,
                Err(TryRecvError::Empty) => {}
            }
            let next = async {
                tokio::select! {
                    biased;
                    event = events.recv() => Some(event),
                    changed = closed.changed() => changed.err().map(|_| Err(RecvError::Closed)),
                }
            };
            match with_contained_waker(next).await {
                Some(Ok(event)) => return Some(event),
                Some(Err(RecvError::Lagged(count))) => return Some(DiscoveryEvent::Missed(count)),
                Some(Err(RecvError::Closed)) => return None,
                None => {}
            }
        }
    }
}

/// Sends events to [`DiscoveryEvents`]: for implementations of [`Discovery`](crate::Discovery).
#[derive(Clone, Debug)]
pub struct EventPublisher {
    sender: broadcast::Sender<DiscoveryEvent>,
    closed: watch::Sender<bool>,
    status: Arc<Mutex<RegistryStatus>>,
}

impl Default for EventPublisher {
    fn default() -> Self {
        let status = RegistryStatus { state: RegistryState::Unknown, since: Instant::now(), losses: 0 };
        Self {
            sender: broadcast::Sender::new(CAPACITY),
            closed: watch::Sender::new(false),
            status: Arc::new(Mutex::new(status)),
        }
    }
}

impl EventPublisher {
    /// Subscribes to the events from now on.
    #[must_use]
    pub fn subscribe(&self) -> DiscoveryEvents {
        DiscoveryEvents {
            receiver: Some((self.sender.subscribe(), self.closed.subscribe())),
            status: Some(Arc::clone(&self.status)),
        }
    }

    /// Marks the end of the events: subscribers receive the events sent before, and then `None`.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Sends an event to all subscribers, if there are any. [`Connected`](DiscoveryEvent::Connected) and
    /// [`Lost`](DiscoveryEvent::Lost) are sent only if they change the state of the registry.
    pub fn send(&self, event: DiscoveryEvent) {
        let changes = self.status.lock().apply(&event);
        match event {
            DiscoveryEvent::Connected if changes => log(|| tracing::info!("registry answers")),
            _ if changes => log(|| tracing::warn!("registry doesn't answer; all views hold")),
            DiscoveryEvent::Connected | DiscoveryEvent::Lost => return,
            _ => {}
        }
        // An event without subscribers is not an error.
        let _ = self.sender.send(event);
    }

    /// Publishes a view. If it differs from the current one, the change is sent before the new view becomes
    /// visible. Calls for the same publisher must not overlap, or changes are reported incorrectly.
    pub fn publish(&self, publisher: &ViewPublisher, view: TopicView) {
        if let Some(change) = ViewChange::between(&publisher.current(), &view) {
            log(|| {
                tracing::info!(
                    topic = %change.topic, added = ?change.added, removed = ?change.removed,
                    changed = ?change.changed, "view of the topic changed"
                );
            });
            // A waker may panic; the view is published all the same.
            contain(|| self.send(DiscoveryEvent::ViewChanged(change)));
        }
        publisher.publish(view);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;

    use super::*;

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
        publisher.send(DiscoveryEvent::Lost);
        assert_eq!((events.registry_losses(), DiscoveryEvents::none().registry_losses()), (1, 0));
        assert_eq!((state(), publisher.subscribe().registry().0), (RegistryState::Lost, RegistryState::Lost));
        assert_eq!(DiscoveryEvents::none().registry(), (RegistryState::Unknown, None));
    }

    #[tokio::test]
    async fn states_that_do_not_change_are_not_sent_again() {
        let publisher = EventPublisher::default();
        let mut events = publisher.subscribe();
        let twice = |event: DiscoveryEvent| {
            publisher.send(event.clone());
            publisher.send(event);
        };
        twice(DiscoveryEvent::Connected);
        twice(DiscoveryEvent::Lost);
        publisher.send(DiscoveryEvent::Expired);
        publisher.close();
        for expected in [DiscoveryEvent::Connected, DiscoveryEvent::Lost, DiscoveryEvent::Expired] {
            assert_eq!(events.next().await, Some(expected));
        }
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn a_waker_that_panics_leaves_no_other_reader_asleep() {
        let publisher = EventPublisher::default();
        let mut panicking: Vec<_> = (0..3).map(|_| publisher.subscribe()).collect();
        let mut futures: Vec<_> = panicking.iter_mut().map(|events| Box::pin(events.next())).collect();
        let waker = std::task::Waker::from(Arc::new(PanicsWhenWoken));
        for future in &mut futures {
            assert!(future.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        }
        let mut events = publisher.subscribe();
        let other = tokio::spawn(async move { (events.next().await, events.next().await) });
        tokio::task::yield_now().await;
        publisher.send(DiscoveryEvent::Lost);
        publisher.close();
        assert_eq!(other.await.unwrap(), (Some(DiscoveryEvent::Lost), None));
    }

    struct PanicsWhenWoken;

    impl std::task::Wake for PanicsWhenWoken {
        fn wake(self: Arc<Self>) {
            panic!("woken");
        }
    }

    #[tokio::test]
    async fn a_slow_reader_receives_the_number_of_missed_events() {
        let publisher = EventPublisher::default();
        let mut events = publisher.subscribe();
        (0..CAPACITY + 7).for_each(|_| publisher.send(DiscoveryEvent::Expired));
        assert_eq!(events.next().await, Some(DiscoveryEvent::Missed(7)));
        assert_eq!(events.next().await, Some(DiscoveryEvent::Expired));
        let mut closed = publisher.subscribe();
        publisher.send(DiscoveryEvent::Expired);
        publisher.close();
        assert_eq!((closed.next().await, closed.next().await), (Some(DiscoveryEvent::Expired), None));
        assert_eq!(DiscoveryEvents::none().next().await, None);
    }
}
