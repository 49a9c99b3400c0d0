//! Why a producer can't be made, why a topic can't be published, and why a message isn't known to be stored.

pub(crate) mod build;
pub(crate) mod publish;
pub(crate) mod send;
