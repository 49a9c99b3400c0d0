//! Writing the figures.

use std::io;

use super::figures::{Failures, Figures};
use crate::{
    display::{OutputForm, wrapped},
    exit_status::{self, FailureCounts},
    output::Output,
    report::{count_messages, describe_send_error},
    shutdown::{self, PendingResults, Shutdown},
    stderr::{describe, print_error, print_message, print_text},
};

/// The figures that are being written to stdout.
struct FiguresOutput<'a>(&'a mut Output);

impl PendingResults for FiguresOutput<'_> {
    async fn complete(&mut self) {
        self.0.written().await;
    }

    fn stop_waiting(&mut self, _: bool) {}

    fn output(&mut self) -> &mut Output {
        self.0
    }
}

/// Prints the figures in this form, and as a line of JSON too if `json` is set; returns the exit status.
pub(super) async fn report(
    output: &mut Output,
    figures: &Figures,
    warmup: &Failures,
    workload: &str,
    comparison: &str,
    (form, json): (OutputForm, bool),
    shutdown: &mut Shutdown,
) -> u8 {
    let text = output.text();
    match form {
        OutputForm::Human => {
            text.extend_from_slice(wrapped(&figures.table(workload), 15).as_bytes());
            text.extend_from_slice(comparison.as_bytes());
        }
        OutputForm::Plain => text.extend_from_slice(figures.plain(workload).as_bytes()),
        OutputForm::Json => {}
    }
    if form != OutputForm::Human {
        // It is for people.
        print_text(comparison);
    }
    if json || form == OutputForm::Json {
        match figures.json() {
            Ok(line) => text.extend_from_slice(format!("{line}\n").as_bytes()),
            Err(error) => return print_error("the figures can't be written", &error),
        }
    }
    shutdown.extend_deadline_for_writing();
    shutdown::finish(&mut FiguresOutput(output), shutdown).await;
    let is_written = output.has_failed() && output.take_unwritten().is_empty();
    // Writing may complete just when it is given up.
    let failure = output.take_failure();
    let failure = failure.filter(|error| error.kind() != io::ErrorKind::TimedOut || !is_written);
    // If the reader of stdout is gone, no more messages are printed.
    let is_unread = failure.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if let Some(error) = failure.as_ref().filter(|_| !is_unread) {
        let (failed, all) = (figures.failures().count, figures.messages());
        let acknowledged = all - failed;
        print_message(&format!(
            "the figures can't be written: {}; {acknowledged} of {all} messages were acknowledged",
            describe(error)
        ));
    }
    if !is_unread {
        let measured = figures.failures();
        for (failures, summary) in [
            (warmup, format!("{} failed during the warm-up", count_messages(warmup.count))),
            (measured, format!("{} of {} failed", measured.count, count_messages(figures.messages()))),
        ] {
            if let Some(error) = &failures.first {
                print_message(&format!("{summary}, the first: {}", describe_send_error(error)));
            }
        }
    }
    shutdown.status().unwrap_or_else(|| match failure {
        Some(error) => exit_status::of_output_error(&error),
        None => FailureCounts::sum_of([warmup.outcomes, figures.failures().outcomes]).exit_status(),
    })
}
