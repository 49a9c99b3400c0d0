//! The `metaq` command: publishes lines to MetaQ 1.4 (Metamorphosis) brokers, measures how fast they take messages, and
//! runs an embedded broker.

mod bench;
mod cluster;
mod dev_broker;
mod duration;
mod ending;
mod inspect;
mod lines;
mod output;
mod produce;
mod report;
mod signals;
mod sources;
mod stderr;
mod tx;

use std::{env::VarError, error::Error, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::stderr::{LogWriter, complain};

/// Everything asked for was done.
const EXIT_DONE: u8 = 0;
/// Something failed.
const EXIT_FAILED: u8 = 1;
/// The command line, or a file that it names, can't be used.
const EXIT_USAGE: u8 = 2;
/// The reader of stdout has gone; as of a program that is ended by SIGPIPE.
const EXIT_BROKEN_PIPE: u8 = 128 + 13;

/// Publishes messages to MetaQ 1.4 (Metamorphosis) brokers. Not for RocketMQ.
///
/// Exit status: 0 when everything asked for was done, 1 when something failed, 2 for wrong usage, 130 or 143 when
/// stopped by SIGINT or SIGTERM (a dev-broker that runs is ended by them with 0), 141 when the reader of stdout has gone
/// (which is no failure of inspect). METAQ_LOG=debug shows on stderr what happens inside.
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

/// The environment variable that says what is logged.
const LOG_VARIABLE: &str = "METAQ_LOG";

/// What is logged: nothing unless it is asked for, or if what is asked for can't be understood, which is told.
fn log_filter() -> EnvFilter {
    let unusable = |text: &str, error: &dyn Error| {
        complain(&format!("nothing is logged, since {LOG_VARIABLE} has {text:?}"), error);
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(|| LogWriter)
        // It would print what it can't write, and panic when that fails, too.
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
        Err(error) => return ExitCode::from(complain("the runtime can't be started", &error)),
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
    // A read of stdin that is still blocked is left behind.
    runtime.shutdown_background();
    ExitCode::from(status)
}
