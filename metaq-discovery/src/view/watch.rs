//! The channel by which the views of one topic are followed.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tokio::sync::watch;

use super::{TopicView, ViewChange};
use crate::{DiscoveryError, DiscoveryErrorKind};

/// A watch of one topic. The topic is followed until the watch is dropped.
///
/// The watch isn't bound to the runtime on which it was created. When that has shut down,
/// [`changed`](Self::changed) continues on the caller's runtime, provided the discovery runs its own task.
#[derive(Clone)]
pub struct TopicWatch {
    views: watch::Receiver<Arc<TopicView>>,
    end: Arc<OnceLock<DiscoveryError>>,
    source: Option<Arc<dyn ViewSource>>,
}

/// A publisher of views whose task can be restarted.
pub(crate) trait ViewSource: Send + Sync {
    /// Starts the task on the caller's runtime unless it runs. Returns a receiver that holds whether it runs.
    ///
    /// # Errors
    /// When the task doesn't run and can't be started: the discovery was closed, or there is no runtime.
    fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError>;
}

impl TopicWatch {
    /// Creates a watch that begins with `first`, and the publisher of later views: for implementations of
    /// [`Discovery`](crate::Discovery).
    #[must_use]
    pub fn channel(first: TopicView) -> (ViewPublisher, Self) {
        let (publisher, views) = watch::channel(Arc::new(first));
        let end = Arc::new(OnceLock::new());
        (ViewPublisher { views: publisher, end: Arc::clone(&end) }, Self { views, end, source: None })
    }

    /// Sets the source, which the watch starts again when it has stopped.
    #[cfg(any(feature = "etcd", feature = "file", feature = "zookeeper"))]
    pub(crate) fn with_source(mut self, source: Arc<dyn ViewSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// The latest view.
    #[must_use]
    pub fn current(&self) -> Arc<TopicView> {
        Arc::clone(&self.views.borrow())
    }

    /// Waits for a view that this method of this watch hasn't returned yet, and returns it. Views that were
    /// replaced in the meantime are skipped.
    ///
    /// # Errors
    /// [`Closed`](DiscoveryErrorKind::Closed) when there will be no further view because the discovery was
    /// closed; [`NoRuntime`](DiscoveryErrorKind::NoRuntime) when the runtime that followed the registry has
    /// shut down: watch the topic again. The current view stays available.
    ///
    /// # Cancel safety
    /// If the future is dropped, no view is missed.
    pub async fn changed(&mut self) -> Result<Arc<TopicView>, DiscoveryError> {
        loop {
            let running = match &self.source {
                // A view that is already published needs no running source.
                Some(source) if matches!(self.views.has_changed(), Ok(false)) => {
                    Some(Arc::clone(source).ensure_followed()?)
                }
                _ => None,
            };
            let stopped = async {
                match running {
                    // Never an error: the source holds the sender.
                    Some(mut running) => drop(running.wait_for(|running| !running).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.views.changed() => {
                    changed.map_err(|_| self.end.get().cloned().unwrap_or_else(|| self.abandoned()))?;
                    return Ok(Arc::clone(&self.views.borrow_and_update()));
                }
                () = stopped => {}
            }
        }
    }

    /// The error when the publisher was dropped without a reason.
    fn abandoned(&self) -> DiscoveryError {
        let text = format!(
            "no views of topic {} are published any more; the Tokio runtime that followed the registry may have shut down: \
             watch the topic again",
            self.views.borrow().topic
        );
        DiscoveryError::new(DiscoveryErrorKind::NoRuntime, text)
    }
}

impl fmt::Debug for TopicWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicWatch").field("current", &self.current()).finish_non_exhaustive()
    }
}

/// Publishes the views of one topic to a [`TopicWatch`] and its clones. Dropping the publisher ends the
/// watches; [`end`](Self::end) also gives them a reason.
#[derive(Debug)]
pub struct ViewPublisher {
    views: watch::Sender<Arc<TopicView>>,
    end: Arc<OnceLock<DiscoveryError>>,
}

impl ViewPublisher {
    /// Replaces the current view. If the new view differs, notifies the watches and returns the difference.
    pub fn publish(&self, view: TopicView) -> Option<ViewChange> {
        let (mut change, mut view) = (None, Arc::new(view));
        self.views.send_if_modified(|current| {
            change = ViewChange::between(current, &view);
            std::mem::swap(current, &mut view);
            change.is_some()
        });
        change
    }

    /// Ends the watches: their [`changed`](TopicWatch::changed) fails with `reason` from now on.
    pub fn end(self, reason: DiscoveryError) {
        self.set_end(reason);
    }

    /// Sets the error that watches return once the publisher is dropped.
    pub(crate) fn set_end(&self, reason: DiscoveryError) {
        // The first reason is kept.
        let _ = self.end.set(reason);
    }

    /// The latest view.
    #[must_use]
    pub fn current(&self) -> Arc<TopicView> {
        Arc::clone(&self.views.borrow())
    }

    /// Returns true when all watches were dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.views.is_closed()
    }

    /// Waits until all watches were dropped.
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing changes.
    pub async fn closed(&self) {
        self.views.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use metaq_protocol::{BrokerAddr, BrokerId, Topic};

    use super::*;

    fn addr(port: u16) -> BrokerAddr {
        BrokerAddr::new("127.0.0.1", port).unwrap()
    }

    fn view() -> TopicView {
        TopicView::new(Topic::new("t").unwrap())
    }

    #[tokio::test]
    async fn a_watch_is_notified_only_of_differences() {
        let (publisher, mut watch) = TopicWatch::channel(view());
        assert_eq!(publisher.publish(view()), None);
        let change = publisher.publish(view().with_broker(BrokerId(0), addr(1), 1)).unwrap();
        assert_eq!(change.added, [BrokerId(0)]);
        assert_eq!(watch.changed().await.unwrap().brokers().len(), 1);
        drop(publisher);
        let error = watch.changed().await.unwrap_err();
        assert!(
            error.kind() == DiscoveryErrorKind::NoRuntime
                && error.to_string().contains("watch the topic again")
        );
        let (publisher, mut ended) = TopicWatch::channel(view());
        publisher.end(DiscoveryError::closed());
        assert_eq!(ended.changed().await.unwrap_err().kind(), DiscoveryErrorKind::Closed);
        assert_eq!(watch.current().brokers().len(), 1, "the last view stays");
    }

    #[tokio::test]
    async fn dropping_the_watch_closes_the_publisher() {
        let (publisher, watch) = TopicWatch::channel(view());
        assert!(!publisher.is_closed());
        drop(watch);
        publisher.closed().await;
        assert!(publisher.is_closed());
    }
}
