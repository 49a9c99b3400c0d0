//! Notifications of watches and readers of events, delivered in order after the lock is released.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

#[cfg(any(feature = "etcd", feature = "file", feature = "zookeeper"))]
use crate::BadEntry;
#[cfg(any(feature = "file", feature = "mock"))]
use crate::DiscoveryEvent;
use crate::{DiscoveryError, EventPublisher, TopicView, ViewPublisher, panics::contain};

/// A pending notification.
#[derive(Debug)]
pub(crate) enum Notice {
    #[cfg(any(feature = "file", feature = "mock"))]
    Event(DiscoveryEvent),
    #[cfg(feature = "file")]
    Warning(String),
    #[cfg(any(feature = "etcd", feature = "file", feature = "zookeeper"))]
    BadEntry(BadEntry),
    /// A new view for all these watches of one topic. The change is reported once.
    View(Vec<Arc<ViewPublisher>>, TopicView),
    /// The end of these watches.
    End(Vec<Arc<ViewPublisher>>, DiscoveryError),
}

/// A queue of notifications. A notification is queued while the state that it describes is locked, and
/// delivered after the lock is released, because a waker may call the discovery immediately.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Notice>,
    delivering: bool,
}

/// Marks the delivery as finished, also when a waker panics.
struct Delivering<'a>(&'a Notices);

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().delivering = false;
    }
}

impl Notices {
    pub(crate) fn push(&self, notice: Notice) {
        self.queue.lock().waiting.push_back(notice);
    }

    /// Delivers the queued notifications. Returns immediately while another thread delivers: that thread
    /// delivers these as well.
    pub(crate) fn deliver(&self, events: &EventPublisher) {
        loop {
            let Some(delivering) = self.begin() else { return };
            while let Some(notice) = self.next() {
                notice.deliver(events);
            }
            drop(delivering);
            // A notification may have been queued after the queue was found empty.
        }
    }

    fn begin(&self) -> Option<Delivering<'_>> {
        let mut queue = self.queue.lock();
        if queue.waiting.is_empty() || std::mem::replace(&mut queue.delivering, true) {
            return None;
        }
        Some(Delivering(self))
    }

    fn next(&self) -> Option<Notice> {
        self.queue.lock().waiting.pop_front()
    }
}

impl Notice {
    /// Notifies every recipient, even if the waker of one of them panics.
    fn deliver(self, events: &EventPublisher) {
        match self {
            #[cfg(any(feature = "file", feature = "mock"))]
            Self::Event(event) => contain(|| events.send(event)),
            #[cfg(feature = "file")]
            Self::Warning(text) => crate::panics::log(|| tracing::warn!("{text}")),
            #[cfg(any(feature = "etcd", feature = "file", feature = "zookeeper"))]
            Self::BadEntry(entry) => contain(|| super::bad_entries::publish_bad_entry(&entry, events)),
            Self::View(publishers, view) => {
                let mut publishers = publishers.into_iter();
                if let Some(first) = publishers.next() {
                    contain(|| {
                        events.publish(&first, view.clone());
                        drop(first);
                    });
                }
                publishers.for_each(|publisher| {
                    contain(|| {
                        publisher.publish(view.clone());
                        drop(publisher);
                    });
                });
            }
            // Dropping the last handle of a publisher also wakes its watches.
            Self::End(publishers, reason) => publishers.into_iter().for_each(|publisher| {
                contain(|| {
                    publisher.set_end(reason.clone());
                    drop(publisher);
                });
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Wake, Waker},
    };

    use super::*;
    use crate::{DiscoveryErrorKind, TopicWatch};

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker panics");
        }
    }

    #[tokio::test]
    async fn a_panicking_waker_does_not_stop_notifications() {
        let topic: metaq_protocol::Topic = "t".parse().unwrap();
        let view = |port: u16| {
            let addr = metaq_protocol::BrokerAddr::new("h", port).unwrap();
            TopicView::new(topic.clone()).with_broker(metaq_protocol::BrokerId(0), addr, 1)
        };
        let (events, notices) = (EventPublisher::default(), Notices::default());
        let (publishers, mut watches): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| TopicWatch::channel(view(1)))
            .map(|(publisher, watch)| (Arc::new(publisher), watch))
            .unzip();
        let waker = Waker::from(Arc::new(Panics));
        let mut context = Context::from_waker(&waker);
        let mut listening = events.subscribe();
        let (mut first, mut second) = (watches[0].clone(), watches[1].clone());
        for port in 2..4 {
            let (mut first, mut second) = (pin!(first.changed()), pin!(second.changed()));
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert!(second.as_mut().poll(&mut context).is_pending());
            let mut event = pin!(listening.next());
            assert!(event.as_mut().poll(&mut context).is_pending());
            notices.push(Notice::View(publishers.clone(), view(port)));
            notices.deliver(&events);
            assert!(watches.iter().all(|watch| watch.current().brokers()[0].addr.port() == port));
            assert!(event.await.is_some());
            first.await.unwrap();
            second.await.unwrap();
        }
        let (mut first, mut second) = (pin!(first.changed()), pin!(second.changed()));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        notices.push(Notice::End(publishers, DiscoveryError::closed()));
        notices.deliver(&events);
        for watch in &mut watches {
            let end = loop {
                if let Err(end) = watch.changed().await {
                    break end;
                }
            };
            assert_eq!(end.kind(), DiscoveryErrorKind::Closed);
        }
    }
}
