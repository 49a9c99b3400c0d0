//! The handle of a broker, [`Broker`]: one file for each purpose of its methods.
//!
//! - `broker`: the type itself, and what it knows at any time.
//! - `start`: [`BrokerBuilder::start`](super::BrokerBuilder::start). `shutdown`: shutting down, killing,
//!   dropping.
//! - `client`: discoveries, transports and connections that reach the broker.
//! - `admin`: an operator's actions: topics, partitions, the disk, decisions about transactions,
//!   registration.
//! - `messages`: reading stored messages. `wait`: waiting for them, or for any condition.
//! - `watch`: recording requests, and counting unanswered puts.
//!
//! A method belongs here if a test calls it; the state that it reads or changes belongs to the other rooms.

mod admin;
mod broker;
mod client;
mod messages;
mod shutdown;
mod start;
mod wait;
mod watch;

pub use broker::Broker;
pub use messages::Stored;
