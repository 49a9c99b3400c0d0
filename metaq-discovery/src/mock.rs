//! A registry that a test controls.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::time::sleep_until;

use crate::{
    Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvent, DiscoveryEvents, EventPublisher,
    TopicView, TopicWatch,
    backend::{
        deadline::after,
        notices::{Notice, Notices},
        publishers::Publishers,
        task::runtime,
    },
};

/// A registry that a test controls: views are set by calls, failures and delays are scripted, and calls are
/// counted. Clones share their state, so a test keeps one and passes another to the producer.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use metaq_discovery::{BrokerId, Discovery, MockDiscovery, Topic, TopicView};
///
/// let orders = Topic::new("orders")?;
/// let mock = MockDiscovery::new();
/// let mut watch = mock.watch(&orders).await?;
/// assert!(watch.current().is_empty());
///
/// mock.set(TopicView::new(orders).with_broker(BrokerId(0), "meta://127.0.0.1:8123".parse()?, 4));
/// assert_eq!(watch.changed().await?.partitions().len(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// Setters called concurrently take effect in some order, at the latest when the last of them returns.
#[derive(Clone, Debug, Default)]
pub struct MockDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    notices: Notices,
    events: EventPublisher,
}

#[derive(Debug, Default)]
struct State {
    views: BTreeMap<Topic, TopicView>,
    watches: Publishers,
    failures: VecDeque<DiscoveryError>,
    delay: Duration,
    watch_calls: usize,
    away: bool,
    closed: bool,
}

impl MockDiscovery {
    /// Creates a registry without topics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes the state, then delivers the notifications that `change` has queued.
    fn change(&self, change: impl FnOnce(&mut State, &Notices)) {
        change(&mut self.inner.state.lock(), &self.inner.notices);
        self.inner.notices.deliver(&self.inner.events);
    }

    /// Sets the view of its topic, and notifies the watches of the topic unless the registry is away.
    pub fn set(&self, view: TopicView) {
        self.change(|state, notices| {
            state.notify(&view, notices);
            state.views.insert(view.topic().clone(), view);
        });
    }

    /// Removes a topic: no broker offers it any more.
    pub fn remove(&self, topic: &Topic) {
        self.change(|state, notices| {
            state.notify(&TopicView::new(topic.clone()), notices);
            state.views.remove(topic);
        });
    }

    /// Queues a failure: the next call without one fails with `error`. May be called repeatedly.
    pub fn fail_next(&self, error: DiscoveryError) {
        self.inner.state.lock().failures.push_back(error);
    }

    /// Delays every call from now on by `delay`.
    pub fn set_delay(&self, delay: Duration) {
        self.inner.state.lock().delay = delay;
    }

    /// Makes the registry unavailable, or available again. While it is away, all views remain valid, calls
    /// fail, and new views become visible only afterwards.
    pub fn set_away(&self, away: bool) {
        self.change(|state, notices| {
            if std::mem::replace(&mut state.away, away) == away {
                return;
            }
            let event = if away { DiscoveryEvent::Lost } else { DiscoveryEvent::Connected };
            notices.push(Notice::Event(event));
            for topic in state.watches.topics() {
                let view = state.views.get(&topic).cloned().unwrap_or_else(|| TopicView::new(topic));
                state.notify(&view, notices);
            }
        });
    }

    /// Sends an event to all subscribers of [`events`](Discovery::events).
    pub fn send_event(&self, event: DiscoveryEvent) {
        self.inner.events.send(event);
    }

    /// The number of calls of [`watch`](Discovery::watch).
    #[must_use]
    pub fn watch_calls(&self) -> usize {
        self.inner.state.lock().watch_calls
    }

    /// The number of watches of a topic that are held; clones of a watch count as one.
    #[must_use]
    pub fn active_watches(&self, topic: &Topic) -> usize {
        self.inner.state.lock().watches.count(topic)
    }

    async fn scripted(&self) -> Result<(), DiscoveryError> {
        let (delay, failure) = {
            let mut state = self.inner.state.lock();
            (state.delay, state.failures.pop_front())
        };
        if !delay.is_zero() {
            runtime()?;
            sleep_until(after(delay)).await;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let state = self.inner.state.lock();
        if state.closed {
            return Err(DiscoveryError::closed());
        }
        if state.away {
            return Err(DiscoveryError::new(DiscoveryErrorKind::Unreachable, "the registry is away"));
        }
        Ok(())
    }
}

impl State {
    /// Queues a view for all watches of its topic, unless the registry is away.
    fn notify(&self, view: &TopicView, notices: &Notices) {
        if !self.away {
            notices.push(Notice::View(self.watches.of(view.topic()), view.clone()));
        }
    }
}

#[async_trait]
impl Discovery for MockDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        self.inner.state.lock().watch_calls += 1;
        self.scripted().await?;
        let mut state = self.inner.state.lock();
        if state.closed {
            // Closed after the check in `scripted`.
            return Err(DiscoveryError::closed());
        }
        let view = state.views.get(topic).cloned().unwrap_or_else(|| TopicView::new(topic.clone()));
        Ok(state.watches.watch(view))
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        self.scripted().await?;
        Ok(self.inner.state.lock().views.keys().cloned().collect())
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        self.change(|state, notices| {
            state.closed = true;
            notices.push(Notice::End(state.watches.take_all(), DiscoveryError::closed()));
        });
        self.inner.events.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DiscoveryErrorKind;

    #[tokio::test(start_paused = true)]
    async fn failures_and_delays_follow_the_script() {
        let mock = MockDiscovery::new();
        let topic = Topic::new("t").unwrap();
        mock.fail_next(DiscoveryError::new(DiscoveryErrorKind::Failed, "scripted"));
        assert_eq!(mock.watch(&topic).await.unwrap_err().to_string(), "scripted");
        mock.set_delay(Duration::from_secs(5));
        let before = tokio::time::Instant::now();
        let watch = mock.watch(&topic).await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        assert_eq!((mock.watch_calls(), mock.active_watches(&topic)), (2, 1));
        drop(watch);
        assert_eq!(mock.active_watches(&topic), 0);
    }

    #[tokio::test]
    async fn closing_ends_the_watches() {
        let mock = MockDiscovery::new();
        let topic = Topic::new("t").unwrap();
        let mut watch = mock.watch(&topic).await.unwrap();
        mock.close().await;
        assert_eq!(watch.changed().await.unwrap_err().kind(), DiscoveryErrorKind::Closed);
        assert_eq!(mock.watch(&topic).await.unwrap_err().kind(), DiscoveryErrorKind::Closed);
    }

    #[test]
    fn no_watch_survives_a_concurrent_close() {
        use futures_util::FutureExt as _;
        let topic = Topic::new("t").unwrap();
        for _ in 0..5_000 {
            let mock = MockDiscovery::new();
            let barrier = std::sync::Barrier::new(2);
            let watch = std::thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    mock.close().now_or_never().unwrap();
                });
                barrier.wait();
                mock.watch(&topic).now_or_never().unwrap()
            });
            if let Ok(mut watch) = watch {
                let end = watch.changed().now_or_never().expect("it has ended").unwrap_err();
                assert_eq!(end.kind(), DiscoveryErrorKind::Closed);
            }
        }
    }
}
