//! `metaq spool drop`: removes messages from a folder.

use std::{io, path::PathBuf};

use metaq_spool::{SpoolFolder, SpooledMessage};
use serde::Serialize;

use super::{Printer, failed, form, open, select::Selection, usage};
use crate::{display::OutputForm, exit_status::EXIT_DONE, report::count_messages};

/// The most messages that are removed at a time, and the most bytes of their payloads.
const PORTION: (usize, usize) = (1000, 8 << 20);

/// Removes messages for good.
///
/// They are named by their numbers, by --set-aside or by --all. Without --yes it
/// only says how many they are. Prints {"dropped":N,"left":M} with --output json,
/// and the two numbers with --output plain. A number that the folder doesn't have
/// is wrong usage, and nothing is removed.
///
/// Examples:
///   metaq spool drop /var/spool/orders 17 18 --yes
///   metaq spool drop /var/spool/orders --set-aside --topic orders --yes
///   metaq spool drop /var/spool/orders --all --yes
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[command(
    override_usage = "metaq spool drop [OPTIONS] <FOLDER> <ID>...\n       metaq spool drop [OPTIONS] --set-aside|--all <FOLDER>"
)]
#[command(group(clap::ArgGroup::new("what").args(["ids", "set_aside", "all"]).required(true)))]
pub(super) struct Args {
    /// The folder
    folder: PathBuf,
    /// All messages, or all of --topic and --partition
    #[arg(long)]
    all: bool,
    /// Removes them; there is no way back
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Serialize)]
struct Dropped {
    dropped: u64,
    left: u64,
}

pub(super) async fn run(args: Args) -> Result<u8, u8> {
    let form = form()?;
    let mut folder = open(&args.folder)?;
    args.selection.check(&folder)?;
    let path = args.folder.display();
    if !args.yes {
        let mut count = 0;
        for message in args.selection.messages(&folder) {
            message.map_err(|error| failed(&args.folder, &error))?;
            count += 1;
        }
        let count = count_messages(count);
        return Err(usage(&format!(
            "{count} of spool {path} would be dropped for good; add --yes to do that"
        )));
    }
    let dropped = drop_all(&mut folder, &args.selection).map_err(|error| failed(&args.folder, &error))?;
    let left = folder.queues().iter().map(|queue| queue.messages).sum::<u64>() + folder.set_aside_count();
    let mut printer = Printer::new()?;
    match form {
        Some(OutputForm::Json) => printer.json(&Dropped { dropped, left }).await?,
        Some(OutputForm::Plain) => printer.text(&format!("{dropped}\t{left}\n")).await?,
        Some(OutputForm::Human) | None => {
            printer.text(&format!("{} dropped, {left} left\n", count_messages(dropped))).await?;
        }
    }
    printer.finish().await?;
    Ok(EXIT_DONE)
}

fn drop_all(folder: &mut SpoolFolder, selection: &Selection) -> io::Result<u64> {
    let mut dropped = 0;
    loop {
        let portion = portion(selection.messages(folder))?;
        match folder.remove(portion)? {
            0 => return Ok(dropped),
            count => dropped += count,
        }
    }
}

/// Takes the first messages.
fn portion(messages: impl Iterator<Item = io::Result<SpooledMessage>>) -> io::Result<Vec<SpooledMessage>> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for message in messages {
        let message = message?;
        bytes += message.message.as_ref().map_or(0, |message| message.payload().len());
        taken.push(message);
        if taken.len() == PORTION.0 || bytes >= PORTION.1 {
            break;
        }
    }
    Ok(taken)
}
