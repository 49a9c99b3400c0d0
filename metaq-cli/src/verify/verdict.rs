//! The result of a run.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::{collect::Problem, counts::Counts, ledger::Ledger};
use crate::{
    exit_status::{EXIT_DONE, EXIT_NOT_SENT, EXIT_VERIFICATION, FailureCounts},
    look::{Failure, Look, Table},
    stderr::print_message,
};

/// The line of JSON.
#[derive(Serialize)]
struct Line {
    verdict: &'static str,
    #[serde(flatten)]
    counts: Counts,
    elapsed_s: f64,
    msgs_per_s: Option<f64>,
    rate: Option<f64>,
}

/// What is known at the end of a run.
pub(super) struct Account<'a> {
    pub(super) ledger: &'a Ledger,
    /// What kept parts of partitions from being read.
    pub(super) problems: &'a [Problem],
    pub(super) elapsed: Duration,
    /// The messages each second while they were sent.
    pub(super) achieved: Option<f64>,
    /// Those of `--rate`.
    pub(super) asked: Option<f64>,
    /// The file by which the run can be resumed.
    pub(super) state: Option<&'a Path>,
}

impl Account<'_> {
    fn verdict(&self, counts: &Counts) -> &'static str {
        match () {
            // What was not read may be stored.
            () if !self.problems.is_empty() => "incomplete",
            () if counts.is_wrong() => "wrong",
            () if counts.acknowledged == 0 => "nothing verified",
            () => "ok",
        }
    }

    /// Adds the result to the output; returns the exit status.
    pub(super) fn print(&self, look: &mut Look, json: bool) -> Result<u8, Failure> {
        let (counts, wrong) = self.ledger.verdict();
        for (kind, wrong) in wrong.iter().filter(|(_, wrong)| wrong.count > 0) {
            let more = if wrong.count > wrong.examples.len() as u64 { ", …" } else { "" };
            print_message(&format!("{} {kind}: {}{more}", wrong.count, wrong.examples.join(", ")));
        }
        let verdict = self.verdict(&counts);
        if let Some(state) = self.state.filter(|_| verdict == "incomplete") {
            let state = state.display();
            print_message(&format!("to go on, and compare everything again: metaq verify --resume {state}"));
        }
        let elapsed_s = self.elapsed.as_secs_f64();
        if json {
            let (msgs_per_s, rate) = (self.achieved, self.asked);
            look.json(&Line { verdict, counts, elapsed_s, msgs_per_s, rate })?;
        } else {
            look.table(&self.table(verdict, &counts, elapsed_s));
        }
        Ok(self.status(&counts))
    }

    fn table(&self, verdict: &str, counts: &Counts, elapsed_s: f64) -> Table {
        let mut table = Table::without_names();
        let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
        row("verdict", verdict.to_owned());
        row("sent", format!("{} in {elapsed_s:.1} s", counts.sent));
        if let Some(achieved) = self.achieved {
            let asked = self.asked.map(|asked| format!(", of {asked} asked for")).unwrap_or_default();
            row("sent each second", format!("{achieved:.1}{asked}"));
        }
        row("acknowledged", counts.acknowledged.to_string());
        row("not sent", counts.not_sent.to_string());
        row("rejected", counts.rejected.to_string());
        let unknown = match counts.unknown {
            0 => "0".to_owned(),
            unknown => format!("{unknown}, of which {} are stored", counts.unknown_stored),
        };
        row("unknown", unknown);
        if counts.possibly_sent > 0 {
            let Counts { possibly_sent, possibly_sent_stored, .. } = counts;
            row("possibly sent", format!("{possibly_sent}, of which {possibly_sent_stored} are stored"));
        }
        row("found", counts.found.to_string());
        row("unverified", counts.unverified.to_string());
        row("lost", counts.lost.to_string());
        row("duplicated", counts.duplicated.to_string());
        row("reordered", counts.reordered.to_string());
        row("corrupted", counts.corrupted.to_string());
        row("misplaced", counts.misplaced.to_string());
        row("stored, although reported as not stored", counts.stored_unexpectedly.to_string());
        table
    }

    /// Prints the most important counts to stderr, for output that isn't read.
    pub(super) fn print_briefly(&self) {
        let (counts, _) = self.ledger.verdict();
        let Counts { sent, acknowledged, found, unverified, lost, .. } = counts;
        print_message(&format!(
            "the result was not read before the program had to end: {}; of {sent} messages {acknowledged} were \
             acknowledged, {found} found, {unverified} not verified, {lost} lost",
            self.verdict(&counts)
        ));
    }

    fn status(&self, counts: &Counts) -> u8 {
        let Counts { not_sent, rejected, unknown, possibly_sent, .. } = *counts;
        // The errors that were seen, although there may be more in what was not read.
        if counts.is_wrong() {
            return EXIT_VERIFICATION;
        }
        if let Some(problem) = self.problems.first() {
            return problem.status;
        }
        if counts.acknowledged > 0 {
            return EXIT_DONE;
        }
        let unknown = unknown + possibly_sent;
        match (FailureCounts { not_sent, rejected, unknown }).exit_status() {
            EXIT_DONE => EXIT_NOT_SENT,
            status => status,
        }
    }
}
