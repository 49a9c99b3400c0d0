//! Failures of commands that look at a cluster.

use std::io;

use metaq_producer::{PublishError, inspect::InspectError};

use super::Look;
use crate::{
    exit_status::{of_inspect_error, of_output_error, of_publish_error},
    stderr::{describe, print_message},
};

/// The end of a command that could not do all of its work.
#[derive(Debug)]
pub(crate) enum Failure {
    Inspect(InspectError),
    Output(io::Error),
    /// A message, and the exit status.
    Other(String, u8),
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        Self::Inspect(error)
    }
}

impl Failure {
    /// The failure of a topic that can't be published.
    pub(crate) fn publish(error: &PublishError) -> Self {
        Self::Other(format!("can't send: {}", describe(error)), of_publish_error(error))
    }

    /// Prints the failure of looking at a cluster; returns the exit status.
    pub(crate) fn report_of(self, look: &Look) -> u8 {
        match self {
            Self::Inspect(error) => {
                print_message(&describe(&error));
                look.status_of(&error)
            }
            other => other.report(),
        }
    }

    /// Prints the failure; returns the exit status.
    fn report(self) -> u8 {
        match self {
            Self::Inspect(error) => {
                print_message(&describe(&error));
                of_inspect_error(&error)
            }
            Self::Output(error) => {
                // A reader of stdout that is gone has seen enough.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    print_message(&format!("the output can't be written: {}", describe(&error)));
                }
                of_output_error(&error)
            }
            Self::Other(text, status) => {
                print_message(&text);
                status
            }
        }
    }
}
