//! A topic that is watched, and the task that follows it.

use std::sync::Arc;

use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Inner, follow::Follower};
use crate::{DiscoveryError, TopicView, TopicWatch, ViewPublisher, supervise::TaskSlot, view::ViewSource};

/// A topic that is watched. It lives as long as its watches and the task that follows it.
pub(super) struct WatchedTopic {
    inner: Arc<Inner>,
    topic: Topic,
    publisher: ViewPublisher,
    task: TaskSlot,
    /// What has read the first view, until the task takes it over with its one-shot watches.
    first: Mutex<Option<Follower>>,
}

/// Counts a follower, so that closing can wait for its end.
struct Counted<'a>(&'a watch::Sender<usize>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl WatchedTopic {
    /// Follows a topic from its first view on.
    ///
    /// # Errors
    /// When there is no runtime, or the discovery was closed.
    pub(super) fn start(
        inner: Arc<Inner>,
        topic: Topic,
        first: Follower,
        view: TopicView,
    ) -> Result<TopicWatch, DiscoveryError> {
        let (publisher, watch) = TopicWatch::channel(view);
        let first = Mutex::new(Some(first));
        let watched = Arc::new(Self { inner, topic, publisher, task: TaskSlot::default(), first });
        Arc::clone(&watched).ensure_followed()?;
        Ok(watch.with_source(watched))
    }

    /// Publishes every change until nobody watches any more or the discovery is closed.
    async fn follow(self: Arc<Self>) {
        self.inner.following.send_modify(|count| *count += 1);
        let _counted = Counted(&self.inner.following);
        let first = self.first.lock().take();
        let mut follower =
            first.unwrap_or_else(|| Follower::new(Arc::clone(&self.inner), self.topic.clone()));
        let mut closed = self.inner.closed.subscribe();
        tokio::select! {
            () = follower.follow(&self.publisher) => {}
            () = self.publisher.closed() => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
    }
}

impl ViewSource for WatchedTopic {
    fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError> {
        if *self.inner.closed.borrow() {
            return Err(DiscoveryError::closed());
        }
        let (followed, watched) = (Arc::clone(&self), Arc::clone(&self));
        let follow = move || Arc::clone(&followed).follow();
        let needed = move || !watched.publisher.is_closed() && !*watched.inner.closed.borrow();
        self.task.ensure("ZooKeeper follower", follow, |_| {}, needed)
    }
}
