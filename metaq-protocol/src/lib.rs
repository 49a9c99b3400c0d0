//! In construction.
#![no_std]

extern crate alloc;

mod broker_addr;
mod partition;
mod topic;

pub use broker_addr::{BrokerAddr, InvalidBrokerAddr};
pub use partition::{BrokerId, InvalidPartition, Partition};
pub use topic::{InvalidTopic, Topic};

/// The first part of a text that came from outside, short enough for an error message.
pub(crate) fn excerpt(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}
