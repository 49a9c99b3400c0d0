//! The trait by which a producer finds brokers.

use std::fmt;

use async_trait::async_trait;
use metaq_protocol::Topic;

use crate::{DiscoveryError, DiscoveryEvents, RegisteredBrokers, TopicWatch};

/// Finds the brokers of topics, and reports changes.
///
/// A discovery is not bound to a runtime, and may be stored in a `static`. The discoveries of this crate run
/// their tasks on the runtime of the first caller, and start them again on the runtime of the next caller
/// once that one has shut down. A call that needs a Tokio runtime and has none fails with
/// [`NoRuntime`](crate::DiscoveryErrorKind::NoRuntime).
#[async_trait]
pub trait Discovery: fmt::Debug + Send + Sync {
    /// Starts to follow a topic. The returned watch already holds the first complete view, which is empty
    /// when no broker offers the topic.
    ///
    /// # Errors
    /// When the registry can't be read.
    ///
    /// # Cancel safety
    /// If the future is dropped before it completes, nothing is followed.
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError>;

    /// Returns all topics in the registry, sorted.
    ///
    /// # Errors
    /// When the registry can't be read.
    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError>;

    /// Returns all brokers in the registry: masters and slaves, and also those without topics. `None` where
    /// only the brokers of topics are known, which is the default.
    ///
    /// # Errors
    /// When the registry can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    async fn brokers(&self) -> Result<Option<RegisteredBrokers>, DiscoveryError> {
        Ok(None)
    }

    /// Explains why no broker offers `topic`, as part of an error's text: for instance that the registry has
    /// no brokers at all. `None` if there is nothing to say. The default says nothing.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    async fn explain_absence(&self, topic: &Topic) -> Option<String> {
        let _ = topic;
        None
    }

    /// Subscribes to the events of the registry from now on: loss and return of the connection, changed
    /// views, unusable entries. The default has no events.
    fn events(&self) -> DiscoveryEvents {
        DiscoveryEvents::none()
    }

    /// Ends all watches and disconnects from the registry. Further calls do nothing.
    async fn close(&self);
}
