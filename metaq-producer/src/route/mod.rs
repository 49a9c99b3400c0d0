//! The partitions that the messages of a topic can go to at this moment.
//!
//! [`topics`] holds the published topics. A [`follower`] for each brings its [route](topic_state) in line with the view of
//! the discovery and the connections of the [`pool`]; [`diff`] says what changed. [`topic_broker`] is what is known of a broker
//! and of one topic's messages to it. [`single_broker`] is the discovery of a producer that has one broker and no registry.

pub(crate) mod diff;
pub(crate) mod follower;
pub(crate) mod pool;
pub(crate) mod single_broker;
pub(crate) mod topic_broker;
pub(crate) mod topic_state;
pub(crate) mod topics;
