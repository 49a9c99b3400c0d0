//! The producer with a spool.

mod close;
mod open;
mod sending;

use std::{fmt, sync::Arc, time::Duration};

use metaq_producer::{Producer, PublishError, Topic, error::PublishErrorKind};

pub use self::close::SpoolCloseReport;
use crate::{events::SpoolEvents, lanes::Lanes, shared::Shared, stats::SpoolStats, unsettled::FORGOTTEN};

/// A [`Producer`] that keeps messages on disk which it can't send now, and sends them when brokers are back.
///
/// Cloning is cheap; clones share the spool. Messages are replayed on the tokio runtime on which it was
/// [opened](Self::open).
///
/// # What is spooled
///
/// A message that was certainly not stored, for a reason that passes: no broker or connection, no time to
/// write it, no capacity, or a refusal with status 403, 404 or 503. While no broker of the topic is
/// connected, nothing is waited for. The options
/// [`spool_unknown`](crate::SpoolOptions::spool_unknown) and
/// [`spool_server_errors`](crate::SpoolOptions::spool_server_errors) add more. A message that no broker would
/// take is never spooled: one that is too large, that a selector or an interceptor refuses, that was
/// [purged](Producer::purge), or whose topic was never [published](Self::publish_topic).
///
/// # End
/// [`close`](Self::close) spools what could not be sent. When the last clone and the last handle are dropped
/// without it, what was handed over is written, for which dropping them waits.
#[derive(Clone)]
pub struct SpoolingProducer {
    inner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    /// The tasks of queues, if messages are sent in order.
    lanes: Option<Lanes>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
        self.shared.pace.end();
    }
}

impl SpoolingProducer {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    #[cfg(test)]
    pub(crate) fn lanes(&self) -> Option<&Lanes> {
        self.inner.lanes.as_ref()
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn weak(&self) -> std::sync::Weak<Shared> {
        Arc::downgrade(&self.inner.shared)
    }

    /// Publishes a topic as [`Producer::publish_topic`] does. When that fails, it is tried again in the
    /// background, and messages to the topic are spooled until then: a program can start without its brokers.
    ///
    /// It waits for the first broker: for
    /// [`publish_timeout`](metaq_producer::ProducerConfig::publish_timeout), 10 s by default, or, where the
    /// registry names none, [`topic_timeout`](metaq_producer::ProducerConfig::topic_timeout), 3 s.
    ///
    /// The topics of messages that were found in the folder are published without this call.
    ///
    /// # Errors
    /// As for `Producer::publish_topic`. Unless the producer was closed, the error is only a piece of news.
    ///
    /// # Cancel safety
    /// Dropping the future once it was polled leaves the topic to be published in the background.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # use metaq_spool::{Sent, SpoolOptions, SpoolingProducer};
    /// use std::time::Duration;
    /// use tokio::time::timeout;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let registry = metaq_testkit::EmbeddedRegistry::new();
    /// # let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    /// # let folder = tempfile::tempdir()?;
    /// # let spool = SpoolingProducer::open(producer.build()?, SpoolOptions::new(&folder)).await?;
    /// # let orders: Topic = "orders".parse()?;
    /// // No broker is there yet.
    /// assert!(timeout(Duration::from_millis(10), spool.publish_topic(&orders)).await.is_err());
    /// let sent = spool.send(Message::new(orders, "one coffee")).await?;
    /// assert!(matches!(sent, Sent::Spooled(_)));
    ///
    /// # let builder = metaq_testkit::Broker::builder().topic("orders", 1).register_with(&registry);
    /// let broker = builder.start_without_port()?;
    /// broker.wait_for("orders", 1).await?;
    /// # spool.close(Duration::from_secs(5)).await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_topic(&self, topic: &Topic) -> Result<(), PublishError> {
        let shared = self.shared();
        shared.topics.declare(topic);
        let mut in_background = PublishLater { shared, topic, is_done: false };
        let published = shared.producer.publish_topic(topic).await;
        match &published {
            Ok(()) => {
                in_background.is_done = true;
                shared.replay_now.notify_one();
            }
            Err(error) => in_background.is_done = error.kind() == PublishErrorKind::Closed,
        }
        published
    }

    /// Replays all queues now, those included that failed a moment ago and would be tried later. Returns at
    /// once; [`drain`](Self::drain) waits.
    pub fn replay_now(&self) {
        self.shared().replay_now.notify_one();
    }

    /// Pauses the replay of all queues, or goes on with it. What was handed to the producer before a pause
    /// gets its outcome, and what comes meanwhile is sent or spooled as always. For a program that can't
    /// keep up with the outcomes that its [listener](crate::ReplayListener) is given.
    pub fn set_replay_paused(&self, is_paused: bool) {
        self.shared().pace.set_paused(is_paused);
    }

    /// Waits until no message waits in the spool, at most for `timeout`, and returns the number of those that
    /// still do. Messages that were set aside don't count.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn drain(&self, timeout: Duration) -> u64 {
        let shared = self.shared();
        let common = &shared.storage.common;
        let waiting = || common.index.filled().iter().map(|queue| queue.held()).sum::<u64>();
        shared.replay_now.notify_one();
        let drained = async {
            loop {
                let mut changed = std::pin::pin!(common.changed.notified());
                changed.as_mut().enable();
                if waiting() == 0 || shared.is_closed() {
                    return;
                }
                changed.await;
            }
        };
        // What is left says more than whether it took too long.
        let _ = tokio::time::timeout(timeout, drained).await;
        waiting()
    }

    /// Waits until all messages that were accepted before the call are stored, spooled or failed, and what
    /// was spooled is as durable as it gets.
    ///
    /// Those whose handles are awaited are waited for, and those whose handles were dropped. A message whose
    /// handle was never polled is waited for until a broker has it; if none takes it, it is spooled when the
    /// handle is polled or dropped. While a handle is kept that was polled and is polled no further, it
    /// returns when nothing has changed for three seconds.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn flush(&self) {
        let shared = self.shared();
        shared.producer.flush().await;
        // Handles may have been polled for the first time, or dropped, until now.
        let (awaited, driven) = (shared.awaited.target(), shared.driven.target());
        // A task that drops its handle meanwhile leaves it counted as awaited.
        shared.awaited.wait(awaited, Some(FORGOTTEN), &shared.storage).await;
        shared.driven.wait(driven, None, &shared.storage).await;
        shared.storage.flush().await;
    }

    /// The counts since the spool was opened.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        self.shared().stats()
    }

    /// The events of the spool from now on. A reader never delays messages.
    #[must_use]
    pub fn events(&self) -> SpoolEvents {
        self.shared().storage.common.events.subscribe()
    }

    /// The producer that sends. Messages that are given to it directly are not spooled.
    #[must_use]
    pub fn producer(&self) -> &Producer {
        &self.shared().producer
    }
}

/// Has a topic published in the background when it is dropped too early.
struct PublishLater<'a> {
    shared: &'a Shared,
    topic: &'a Topic,
    is_done: bool,
}

impl Drop for PublishLater<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            // The task is gone after closing.
            let _ = self.shared.topics.publish.send(self.topic.clone());
        }
    }
}

impl fmt::Debug for SpoolingProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolingProducer")
            .field("options", &self.shared().options)
            .field("counts", &self.shared().storage.common.ledger.counts())
            .finish_non_exhaustive()
    }
}
