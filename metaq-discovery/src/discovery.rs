//! The trait: what a producer asks of a registry.

use std::fmt;

use async_trait::async_trait;
use metaq_protocol::Topic;

use crate::{DiscoveryError, DiscoveryEvents, TopicWatch};

/// Finds the brokers of topics, and tells when they change.
///
/// A discovery belongs to no runtime, and may live in a `static`. Those of this crate run their tasks on the runtime of
/// whoever calls first, and start them again on that of the next caller once it has ended. A call that needs a Tokio
/// runtime and has none fails with [`NoRuntime`](crate::DiscoveryErrorKind::NoRuntime).
#[async_trait]
pub trait Discovery: fmt::Debug + Send + Sync {
    /// Starts to follow a topic. The watch already holds the first complete view when this returns; that view is empty
    /// when no broker offers the topic.
    ///
    /// # Errors
    /// When the registry can't be read.
    ///
    /// # Cancel safety
    /// Nothing is followed when the future is dropped before it is done.
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError>;

    /// All topics that the registry knows, sorted.
    ///
    /// # Errors
    /// When the registry can't be read.
    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError>;

    /// The events of the registry from now on: whether it can be reached, which views change, which entries can't be
    /// used. A discovery that doesn't tell has no events.
    fn events(&self) -> DiscoveryEvents {
        DiscoveryEvents::none()
    }

    /// Ends all watches and leaves the registry. Calling it again does nothing.
    async fn close(&self);
}
