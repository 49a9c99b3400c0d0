//! Why a layer can't be built.

use std::{error::Error as StdError, fmt, io};

/// A layer could not be built.
#[derive(Debug)]
pub struct BuildError {
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Option { option: &'static str, problem: String },
    Thread(io::Error),
}

impl BuildError {
    pub(crate) fn option(option: &'static str, problem: impl Into<String>) -> Self {
        Self { problem: Problem::Option { option, problem: problem.into() } }
    }

    pub(crate) fn thread(error: io::Error) -> Self {
        Self { problem: Problem::Thread(error) }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::Option { option, problem } => write!(f, "the option {option} of a MetaqLayer {problem}"),
            Problem::Thread(error) => write!(
                f,
                "the thread of a MetaqLayer and its runtime can't be started: {error}; see the limits of threads and \
                 of open files of the process"
            ),
        }
    }
}

impl StdError for BuildError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.problem {
            Problem::Option { .. } => None,
            Problem::Thread(error) => Some(error),
        }
    }
}
