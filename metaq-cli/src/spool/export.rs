//! `metaq spool export`: the messages of a folder as lines of JSON.

use std::path::PathBuf;

use serde::Serialize;

use super::{Printer, failed, open, select::Selection, show::Parts, unreadable};
use crate::exit_status::EXIT_DONE;

/// Prints messages as lines of JSON that produce --json-lines takes.
///
/// A line is
/// {"topic":"orders","partition":"0-1","key":"k","attribute":"a","data":"…"},
/// with data_b64 and key_b64 where these are not UTF-8, and without what a
/// message doesn't have.
///
/// produce sends to the topics of its own options: export one topic at a time
/// with --topic. Messages that were set aside come last; --waiting leaves them
/// out. Nothing is removed from the folder: see drop. Messages that are damaged
/// are counted on stderr, and the status is 9; those that were set aside count
/// for every topic, as theirs is not known.
///
/// Examples:
///   metaq spool export /var/spool/orders --topic orders > orders.jsonl
///   metaq produce -b meta://broker:8123 -t orders --json-lines < orders.jsonl
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The folder
    folder: PathBuf,
    /// Leaves out messages that were set aside
    #[arg(long, conflicts_with_all = ["set_aside", "ids"])]
    waiting: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    #[serde(flatten)]
    parts: Parts<'a>,
}

pub(super) async fn run(args: Args) -> Result<u8, u8> {
    let folder = open(&args.folder)?;
    args.selection.check(&folder)?;
    let selection = Selection { waiting: args.waiting, ..args.selection };
    let mut printer = Printer::new()?;
    let mut damaged = 0;
    for message in selection.messages(&folder) {
        match message.map_err(|error| failed(&args.folder, &error))?.message {
            Ok(message) => {
                let partition = message.partition().map(|partition| partition.to_string());
                let topic = message.topic().as_str();
                printer.json(&Line { topic, partition, parts: Parts::of(&message) }).await?;
            }
            Err(_) => damaged += 1,
        }
    }
    printer.finish().await?;
    if selection.is_by_place() && !selection.waiting {
        // Where they belong is not known.
        for message in folder.set_aside() {
            damaged += u64::from(message.map_err(|error| failed(&args.folder, &error))?.message.is_err());
        }
    }
    Ok(unreadable(damaged, EXIT_DONE))
}
