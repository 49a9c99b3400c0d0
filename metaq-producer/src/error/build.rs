//! The error of a producer that can't be built.

/// The description of a producer lacks something, or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BuildError {
    pub(crate) problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("a producer needs to know where brokers are; call discovery(…) or broker(…) on the builder")]
    NoDiscovery,
    #[error("the setting {option} {problem}")]
    Option { option: &'static str, problem: &'static str },
}

impl BuildError {
    pub(crate) fn option(option: &'static str, problem: &'static str) -> Self {
        Self { problem: Problem::Option { option, problem } }
    }
}
