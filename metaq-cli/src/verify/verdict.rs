//! The result of a run.

use std::time::Duration;

use serde::Serialize;

use super::ledger::{Counts, Ledger};
use crate::{
    exit_status::{EXIT_DONE, EXIT_UNREACHABLE, EXIT_VERIFICATION, FailureCounts},
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
}

/// Prints the result; returns the exit status. `problems` kept partitions from being read.
pub(super) async fn print(
    look: &mut Look,
    ledger: &Ledger,
    problems: &[String],
    elapsed: Duration,
    json: bool,
) -> Result<u8, Failure> {
    let (counts, wrong) = ledger.verdict();
    for (kind, wrong) in wrong.iter().filter(|(_, wrong)| wrong.count > 0) {
        let more = if wrong.count > wrong.examples.len() as u64 { ", …" } else { "" };
        print_message(&format!("{} {kind}: {}{more}", wrong.count, wrong.examples.join(", ")));
    }
    let Counts { sent, acknowledged, not_sent, rejected, unknown, unknown_stored, .. } = counts;
    let verdict = match () {
        // What was not read may be stored.
        () if !problems.is_empty() => "incomplete",
        () if counts.is_wrong() => "wrong",
        () => "ok",
    };
    if json {
        look.json(&Line { verdict, counts, elapsed_s: elapsed.as_secs_f64() })?;
    } else {
        let mut table = Table::new(&["verdict", verdict]);
        let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
        row("sent", format!("{sent} in {:.1} s", elapsed.as_secs_f64()));
        row("acknowledged", acknowledged.to_string());
        row("not sent", not_sent.to_string());
        row("rejected", rejected.to_string());
        row("unknown", format!("{unknown}, of which {unknown_stored} are stored"));
        row("found", counts.found.to_string());
        row("lost", counts.lost.to_string());
        row("duplicated", counts.duplicated.to_string());
        row("reordered", counts.reordered.to_string());
        row("corrupted", counts.corrupted.to_string());
        row("stored, although reported as not stored", counts.stored_unexpectedly.to_string());
        look.table(&table);
    }
    look.written().await?;
    if !problems.is_empty() {
        // Lost messages may be in what was not read, but these errors were seen.
        let is_wrong = Counts { lost: 0, ..counts }.is_wrong();
        return Ok(if is_wrong { EXIT_VERIFICATION } else { EXIT_UNREACHABLE });
    }
    Ok(match counts.is_wrong() {
        true => EXIT_VERIFICATION,
        false if acknowledged > 0 => EXIT_DONE,
        // Nothing was verified.
        false => FailureCounts { not_sent, rejected, unknown }.exit_status(),
    })
}
