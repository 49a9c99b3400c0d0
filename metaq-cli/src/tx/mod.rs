//! `metaq tx`: all lines of the input are one transaction; and what brokers hold prepared.

mod prepared;
mod run;

use std::{path::PathBuf, sync::Arc, time::Duration};

use metaq_producer::{Topic, transaction::TransactionOptions};

use self::run::Run;
use crate::{
    args::{ConnectionArgs, TransactionTimeout},
    connect::connect,
    display::OutputForm,
    exit_status::EXIT_USAGE,
    input::{Framing, Lines, checked_sources},
    report::{Destination, Report},
    shutdown::{Shutdown, StopSignals, close},
    stderr::{print_error, print_message},
};

/// Limit on writing results after the first signal, unless the transaction's timeout is shorter.
const WRITE_LIMIT: Duration = Duration::from_secs(3);

/// Sends all lines of the input in one local transaction, one after the other, then commits it or rolls it
/// back. One broker stores all of them, or none. An empty line is an empty message.
///
/// Prints one JSON line for each message that the broker accepted, as metaq produce does; the offset is -1,
/// since brokers don't report it. The last line is decisive and has the outcome of the transaction:
/// {"transaction":"TX:…","outcome":"committed|rolled-back|unknown","messages":N}, with "error" if it is not
/// the one asked for. When a line can't be sent, the transaction is rolled back.
///
/// The status is 0 when the outcome is the one asked for, and the broker has confirmed it. SIGINT and SIGTERM
/// roll the transaction back, unless its commit was sent; lines that were read and not sent are reported, if
/// the report is read within 3s. During commit or rollback, the first signal sets the exit status, and the
/// second one ends the program immediately, or after 1s if the report is not read: the outcome is unknown
/// then. The transaction is committed after the lines of all messages are written, and rolled back when they
/// can't be written; stderr reports the outcome then.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("end").args(["commit", "rollback"]).required(true)))]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<prepared::Command>,
    /// The topic. When repeated, line N goes to topic (N-1) modulo their number; one broker must have all of
    /// them
    #[arg(short, long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<Topic>,
    /// Commits at the end of the input
    #[arg(long)]
    commit: bool,
    /// Rolls back at the end of the input
    #[arg(long)]
    rollback: bool,
    /// The time after which the broker rolls back on its own, counted from the first message, in whole
    /// seconds. A broker caps it at its setting maxTxTimeoutInSeconds, 60 by default: a longer time has no
    /// effect there. With "never", the messages stay in the broker's memory until it is restarted if this
    /// program is killed
    #[arg(long, value_parser = TransactionTimeout::parse, default_value = "60s")]
    timeout: TransactionTimeout,
    /// An attribute for every message
    #[arg(long)]
    attribute: Option<Arc<str>>,
    /// Files to read; stdin when there are none, or for -
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(mut args: Args) -> u8 {
    if let Some(command) = args.command.take() {
        return prepared::run(command).await;
    }
    let sources = match checked_sources(&args.files) {
        Ok(sources) => sources,
        Err((name, error)) => {
            print_error(&format!("{name} can't be read"), &error);
            return EXIT_USAGE;
        }
    };
    let settings = match args.connection.settings(&[]) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let form = match settings.output_form() {
        Ok(form) => form.unwrap_or(OutputForm::Json),
        Err(text) => {
            print_message(&text);
            return EXIT_USAGE;
        }
    };
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let producer = match connect(settings, &args.topics, None, |builder| builder, &mut signals).await {
        Ok(producer) => producer,
        Err(status) => return status,
    };
    let options = match args.timeout {
        TransactionTimeout::After(timeout) => TransactionOptions::new().with_timeout(timeout),
        TransactionTimeout::Never => TransactionOptions::new().without_timeout(),
    };
    let transaction = producer.begin(options);
    let started = Report::new(form, Destination::Stdout, None)
        .and_then(|report| Ok((report, Lines::read(sources, Framing::default())?)));
    let (report, lines) = match started {
        Ok(started) => started,
        Err(error) => return print_error("the input and the output can't be set up", &error),
    };
    let limit = match args.timeout {
        TransactionTimeout::After(timeout) => timeout.min(WRITE_LIMIT),
        TransactionTimeout::Never => WRITE_LIMIT,
    };
    let mut shutdown = Shutdown::new(signals, limit);
    let status = Run::new(args, report).run(transaction, lines, &mut shutdown).await;
    // Closing also rolls back a transaction that was not completed.
    close(&producer, &mut shutdown, status).await
}
