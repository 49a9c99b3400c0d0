//! The errors of building a producer, of publishing a topic, and of sending a message.

pub(crate) mod build;
pub(crate) mod publish;
pub(crate) mod send;

pub use build::BuildError;
pub use metaq_protocol::{InvalidBrokerAddr, InvalidTopic};
pub use publish::{PublishError, PublishErrorKind};
pub use send::{FailedAttempt, Outcome, SendError, SendErrorKind};
