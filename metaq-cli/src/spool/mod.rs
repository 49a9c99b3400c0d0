//! `metaq spool`: what a spool's folder holds, while no program uses it.
//!
//! `select` are the options by which messages are chosen, `list`, `show`, `export`, `drop` and `replay` the
//! commands, and `printer` their output.

mod drop;
mod export;
mod list;
mod printer;
mod replay;
mod select;
mod show;

use std::{io, path::Path, time::Duration};

use clap::Subcommand;
use metaq_spool::SpoolFolder;

use self::printer::Printer;
use crate::{
    args::ConnectionArgs,
    display::OutputForm,
    exit_status::{EXIT_LOCAL_IO, EXIT_USAGE, EXIT_VERIFICATION},
    report::count_messages,
    spooling::not_opened,
    stderr::{print_error, print_message},
};

/// Lists, shows, sends, exports and drops what a spool's folder holds.
///
/// The folder is that of produce --spool, or of a program. One process can use it
/// at a time: while one does, these commands name it, and do nothing. The status
/// is 2 then, and for a folder that holds no spool.
///
/// Examples:
///   metaq spool ls /var/spool/orders
///   metaq spool show /var/spool/orders --set-aside
///   metaq spool replay /var/spool/orders -b zk://zk1:2181,zk2:2181/meta
///   metaq spool export /var/spool/orders --topic orders > orders.jsonl
///   metaq spool drop /var/spool/orders --set-aside --yes
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(list::Args),
    Show(show::Args),
    Replay(Box<replay::Args>),
    Export(export::Args),
    Drop(drop::Args),
}

pub(crate) async fn run(args: Args) -> u8 {
    let done = match args.command {
        Command::Ls(args) => list::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Replay(args) => replay::run(*args).await,
        Command::Export(args) => export::run(args).await,
        Command::Drop(args) => drop::run(args).await,
    };
    done.unwrap_or_else(|status| status)
}

/// Opens a folder. A failure is printed; the error is the exit status.
fn open(path: &Path) -> Result<SpoolFolder, u8> {
    crate::spooling::ensure_exists(path)?;
    SpoolFolder::open(path).map_err(|error| not_opened(&error))
}

/// Returns the form of results that the display's options or the settings ask for.
fn form() -> Result<Option<OutputForm>, u8> {
    let settings = ConnectionArgs::default().settings(&[])?;
    settings.output_form().map_err(|text| usage(&text))
}

fn usage(text: &str) -> u8 {
    print_message(text);
    EXIT_USAGE
}

/// Prints that a folder can't be read or written; returns the exit status.
fn failed(path: &Path, error: &io::Error) -> u8 {
    print_error(&format!("spool {} can't be read or written", path.display()), error);
    EXIT_LOCAL_IO
}

/// Prints that messages could not be read, if there are any; returns the exit status.
fn unreadable(count: u64, status: u8) -> u8 {
    if count == 0 {
        return status;
    }
    let are = if count == 1 { "is" } else { "are" };
    print_message(&format!("{} {are} damaged, and can't be read", count_messages(count)));
    EXIT_VERIFICATION
}

/// Formats an age in whole seconds, such as `2h3m1s`.
fn age(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string().replace(' ', "")
}

/// An age in seconds, to the millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
