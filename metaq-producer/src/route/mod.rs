//! The partitions that the messages of a topic can go to at this moment.
//!
//! [`topics`] holds the published topics; [`auto_publish`] publishes one by a message. A [`follower`] for
//! each, [started](followed) when it is needed, brings its [route](topic_state) in line with the view of the
//! discovery and the connections of the [`pool`], with a [`link`] to each address; [`diff`] says what
//! changed. [`topic_broker`] is what is known of a broker and of one topic's messages to it, [`wait_queue`]
//! the messages that wait for one, each for its [reason](wait_reason), [`guarded_selector`] the topic's
//! selector, whose panics are contained. [`single_broker`] is the discovery of a producer that has one broker
//! and no registry.

use std::sync::Arc;

use topic_state::TopicState;

use crate::PublishError;

mod auto_publish;
pub(crate) mod diff;
pub(crate) mod followed;
mod follower;
pub(crate) mod guarded_selector;
mod link;
pub(crate) mod pool;
pub(crate) mod single_broker;
pub(crate) mod topic_broker;
pub(crate) mod topic_state;
pub(crate) mod topics;
pub(crate) mod wait_queue;
mod wait_reason;

/// Learns when a topic could not be published.
pub(crate) trait PublishObserver: Send + Sync {
    /// The topic could not be published; it has been withdrawn.
    fn publishing_failed(&self, topic: &Arc<TopicState>, error: &PublishError);
}

/// Learns when the brokers that a topic has connections to are others.
pub(crate) trait RouteObserver: Send + Sync {
    /// The topic has another route, or was unpublished.
    fn route_changed(self: Arc<Self>, topic: &TopicState);
}
