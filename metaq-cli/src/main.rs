//! The `metaq` command: publishes lines to MetaQ 1.4 (Metamorphosis) brokers, measures the rate at which they
//! accept messages, and runs an embedded broker.
//!
//! One module for each subcommand: `produce`, `tx`, `bench`, `dev_broker` and `inspect`, with its options,
//! its help text and its work. They share `args` (values of options), `input` (lines of files and stdin),
//! `output` and `stderr` (writing without blocking), `report` (one line for each message) and `shutdown`
//! (signals and the orderly end).

mod args;
mod bench;
mod dev_broker;
mod exit_status;
mod input;
mod inspect;
mod output;
mod produce;
mod progress;
mod report;
mod shutdown;
mod stderr;
mod tx;

use std::{
    env::VarError,
    error::Error,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::stderr::{LogWriter, print_error};

/// Publishes messages to MetaQ 1.4 (Metamorphosis) brokers. Not for RocketMQ.
///
/// Exit status: 0 when everything succeeded, 1 when something failed, 2 for wrong usage, 130 or 143 when
/// SIGINT or SIGTERM stopped the command (a running dev-broker exits with 0 then), 141 when the reader of
/// stdout is gone (inspect exits with 0 then). METAQ_LOG=debug writes a log to stderr.
#[derive(Debug, Parser)]
#[command(name = "metaq", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Produce(produce::Args),
    Tx(tx::Args),
    Bench(bench::Args),
    DevBroker(dev_broker::Args),
    Inspect(inspect::Args),
}

/// The environment variable that selects the log's directives.
const LOG_VARIABLE: &str = "METAQ_LOG";

/// Returns the filter of the log. It is off by default, and after a message to stderr also if the directives
/// can't be parsed.
fn log_filter() -> EnvFilter {
    let unusable = |text: &str, error: &dyn Error| {
        print_error(&format!("logging is off, because {LOG_VARIABLE} contains {text:?}"), error);
        EnvFilter::new("off")
    };
    match std::env::var(LOG_VARIABLE) {
        Ok(directives) => EnvFilter::try_new(&directives).unwrap_or_else(|error| {
            let is_unusable = |directive: &&str| EnvFilter::try_new(directive).is_err();
            unusable(directives.split(',').find(is_unusable).unwrap_or(&directives), &error)
        }),
        Err(VarError::NotPresent) => EnvFilter::new("off"),
        Err(VarError::NotUnicode(text)) => {
            unusable(&text.to_string_lossy(), &VarError::NotUnicode(text.clone()))
        }
    }
}

/// Returns whether the log is coloured: on a terminal only, and not if `NO_COLOR` is set.
fn has_colors() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(|| LogWriter)
        .with_ansi(has_colors())
        // By default the subscriber prints events it can't write, and panics if that fails too.
        .log_internal_errors(false)
        .with_env_filter(log_filter())
        .init();
    if let Command::Inspect(args) = &cli.command {
        return ExitCode::from(inspect::run(args));
    }
    let runtime = match &cli.command {
        Command::Bench(_) => bench::runtime(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(print_error("the runtime can't be started", &error)),
    };
    let status = runtime.block_on(async {
        match cli.command {
            Command::Produce(args) => produce::run(args).await,
            Command::Tx(args) => tx::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::DevBroker(args) => Box::pin(dev_broker::run(args)).await,
            Command::Inspect(args) => inspect::run(&args),
        }
    });
    // A read of stdin that is still blocked is abandoned.
    runtime.shutdown_background();
    ExitCode::from(status)
}
