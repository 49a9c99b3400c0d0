//! The error of a producer that can't be built.

use std::{error::Error as StdError, fmt};

/// The description of a producer lacks something, or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    pub(crate) problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    NoDiscovery,
    Option { option: &'static str, problem: &'static str },
}

impl BuildError {
    pub(crate) fn option(option: &'static str, problem: &'static str) -> Self {
        Self { problem: Problem::Option { option, problem } }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::NoDiscovery => f.write_str(
                "a producer needs to know where brokers are; call discovery(…) or broker(…) on the builder",
            ),
            Problem::Option { option, problem } => write!(f, "the setting {option} {problem}"),
        }
    }
}

impl StdError for BuildError {}
