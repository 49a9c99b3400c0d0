//! The errors: of building a producer, of publishing a topic, and of sending a message.

pub(crate) mod build;
pub(crate) mod publish;
pub(crate) mod send;
