//! What watches and readers of events are to be told, in order, once no lock is held.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

#[cfg(any(feature = "etcd", feature = "file"))]
use crate::BadEntry;
#[cfg(any(feature = "file", feature = "mock"))]
use crate::DiscoveryEvent;
use crate::{DiscoveryError, EventPublisher, TopicView, ViewPublisher};

/// Something to tell.
#[derive(Debug)]
pub(crate) enum Notice {
    #[cfg(any(feature = "file", feature = "mock"))]
    Event(DiscoveryEvent),
    #[cfg(feature = "file")]
    Warning(String),
    #[cfg(any(feature = "etcd", feature = "file"))]
    BadEntry(BadEntry),
    /// The view of all these, who watch the same topic; the change is told once.
    View(Vec<Arc<ViewPublisher>>, TopicView),
    /// There will be no other view.
    End(Vec<Arc<ViewPublisher>>, DiscoveryError),
}

/// A queue of notices. They are queued while the state that they are about is locked, and delivered after that, because
/// whoever is woken may call the discovery at once.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Notice>,
    delivering: bool,
}

/// Ends the delivery also when a waker panics.
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

    /// Tells what waits. When somebody is doing that already, this returns at once, and it is told in its turn.
    pub(crate) fn deliver(&self, events: &EventPublisher) {
        loop {
            let Some(delivering) = self.begin() else { return };
            while let Some(notice) = self.next() {
                notice.deliver(events);
            }
            drop(delivering);
            // Something may have been queued after the last look.
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
    fn deliver(self, events: &EventPublisher) {
        match self {
            #[cfg(any(feature = "file", feature = "mock"))]
            Self::Event(event) => events.send(event),
            #[cfg(feature = "file")]
            Self::Warning(text) => crate::supervise::log(|| tracing::warn!("{text}")),
            #[cfg(any(feature = "etcd", feature = "file"))]
            Self::BadEntry(entry) => crate::reports::tell(&entry, events),
            Self::View(publishers, view) => {
                let mut publishers = publishers.iter();
                if let Some(first) = publishers.next() {
                    events.publish(first, view.clone());
                }
                publishers.for_each(|publisher| {
                    publisher.publish(view.clone());
                });
            }
            Self::End(publishers, reason) => {
                publishers.iter().for_each(|publisher| publisher.set_end(reason.clone()));
            }
        }
    }
}
