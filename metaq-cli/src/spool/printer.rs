//! The output of the commands that look into a folder.

use std::io;

use serde::Serialize;

use crate::{
    exit_status::of_output_error,
    output::Output,
    stderr::{print_error, print_message},
};

/// Lines on their way to stdout.
#[derive(Debug)]
pub(super) struct Printer(Output);

impl Printer {
    /// A failure is printed; the error is the exit status.
    pub(super) fn new() -> Result<Self, u8> {
        let output = Output::stdout();
        output.map(Self).map_err(|error| print_error("the output can't be set up", &error))
    }

    /// Appends text, and waits until the output takes more.
    ///
    /// # Errors
    /// The exit status, when writing has failed.
    pub(super) async fn bytes(&mut self, text: &[u8]) -> Result<(), u8> {
        self.0.text().extend_from_slice(text);
        while !self.0.has_capacity() && !self.0.has_failed() {
            self.0.changed().await;
        }
        self.check()
    }

    /// Appends text, as [`bytes`](Self::bytes) does.
    pub(super) async fn text(&mut self, text: &str) -> Result<(), u8> {
        self.bytes(text.as_bytes()).await
    }

    /// Appends a line of JSON, as [`bytes`](Self::bytes) does.
    pub(super) async fn json(&mut self, line: &impl Serialize) -> Result<(), u8> {
        // Numbers and texts always serialize.
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        self.bytes(&text).await
    }

    /// Waits until all is written.
    pub(super) async fn finish(mut self) -> Result<(), u8> {
        self.0.written().await;
        self.check()
    }

    fn check(&mut self) -> Result<(), u8> {
        match self.0.take_failure() {
            None => Ok(()),
            Some(error) => {
                // A reader of stdout that is gone has seen enough.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    print_message(&format!("the output can't be written: {error}"));
                }
                Err(of_output_error(&error))
            }
        }
    }
}
