//! The `metaq` command: publishes lines to MetaQ 1.4 (Metamorphosis) brokers, measures the rate at which they
//! accept messages, and runs an embedded broker.
//!
//! One module for each subcommand: `produce`, `tx`, `bench`, `dev_broker`, `inspect`, `read`, `spool`,
//! `doctor`, `verify`, `proxy`, `config_show` and `completions`, with its options, its help text and its
//! work; `look` has those that list: `topics`, `partitions`, `brokers` and `stats`. They share `args`
//! (values of options), `settings` and `connect` (from the settings to published topics), `display`,
//! `input` (lines of files and stdin), `output` and `stderr` (writing without blocking), `report` (one line
//! for each message), `spooling` (a producer with a spool) and `shutdown` (signals and the orderly end).

mod args;
mod bench;
mod completions;
mod config_show;
mod connect;
mod dev_broker;
mod display;
mod doctor;
mod exit_status;
mod input;
mod inspect;
mod look;
mod output;
mod produce;
mod progress;
mod proxy;
mod read;
mod report;
mod settings;
mod shutdown;
mod spool;
mod spooling;
mod stderr;
mod tx;
mod usage;
mod verify;

use std::{
    env::VarError,
    error::Error,
    io,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;

use crate::{
    display::DisplayArgs,
    exit_status::EXIT_FAILED,
    stderr::{LogWriter, print_error, print_message},
};

/// Publishes messages to MetaQ 1.4 (Metamorphosis) brokers. Not for RocketMQ.
///
/// METAQ_LOG=debug writes a log to stderr.
#[derive(Debug, Parser)]
#[command(name = "metaq", version)]
struct Cli {
    #[command(flatten)]
    display: DisplayArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Produce(Box<produce::Args>),
    Tx(Box<tx::Args>),
    Bench(bench::Args),
    DevBroker(dev_broker::Args),
    Inspect(inspect::Args),
    Topics(look::topics::Args),
    Partitions(look::partitions::Args),
    Brokers(look::brokers::Args),
    Stats(look::stats::Args),
    Read(read::Args),
    Spool(spool::Args),
    Doctor(doctor::Args),
    Verify(verify::Args),
    Proxy(proxy::Args),
    Config(config_show::Args),
    Completions(completions::Args),
    Man(completions::ManArgs),
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
    if let Some(directives) = display::log_directives() {
        return EnvFilter::new(directives);
    }
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

/// Has a panic print one line, like any other failure.
fn print_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|location| format!(" at {location}")).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic without a text");
        print_message(&format!("an internal error{place}: {text}"));
    }));
}

/// Checks that descriptors and threads are left: libraries panic, or wait, when there are none.
fn ensure_resources() -> io::Result<()> {
    let pipes: Result<Vec<_>, _> = std::iter::repeat_with(io::pipe).take(DESCRIPTORS / 2).collect();
    pipes?;
    // All of them run at the same time: each ends when `end` is dropped.
    let (end, ended) = mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let spawn = || {
        let ended = Arc::clone(&ended);
        thread::Builder::new().spawn(move || {
            // The end shows as an error.
            let _ = ended.lock().recv();
        })
    };
    let threads: Result<Vec<_>, _> = std::iter::repeat_with(spawn).take(THREADS).collect();
    drop(end);
    threads?.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// Runs a future as a task. A panic of it is one of the program.
async fn in_task(future: impl Future<Output = u8> + Send + 'static) -> u8 {
    match tokio::spawn(future).await {
        Ok(status) => status,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            Err(_) => EXIT_FAILED,
        },
    }
}

/// The number of threads that every command needs: for the input, the output and names.
const THREADS: usize = 3;

/// The number of descriptors that every command needs.
const DESCRIPTORS: usize = 16;

fn main() -> ExitCode {
    print_panics();
    // The hook has printed the panic.
    ExitCode::from(panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(EXIT_FAILED))
}

fn run() -> u8 {
    let parsed = usage::with_statuses(Cli::command())
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage::print(&error),
    };
    cli.display.install();
    tracing_subscriber::fmt()
        .with_writer(|| LogWriter)
        .with_ansi(display::log_has_colors())
        // By default the subscriber prints events it can't write, and panics if that fails too.
        .log_internal_errors(false)
        .with_env_filter(log_filter())
        .init();
    match &cli.command {
        Command::Inspect(args) => return inspect::run(args),
        Command::Config(args) => return config_show::run(args),
        Command::Completions(args) => {
            return completions::run(args, usage::with_statuses(Cli::command()));
        }
        Command::Man(args) => return completions::man(args, usage::with_statuses(Cli::command())),
        _ => {}
    }
    // One thread: a command hands nothing to other cores that would be worth their threads.
    let runtime =
        ensure_resources().and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return print_error("the program can't be started", &error),
    };
    let status = runtime.block_on(async {
        match cli.command {
            // In a task, as the runtime looks at the system's events after each turn of its main future.
            Command::Produce(args) => in_task(produce::run(args)).await,
            Command::Tx(args) => tx::run(*args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::DevBroker(args) => Box::pin(dev_broker::run(args)).await,
            Command::Topics(args) => look::topics::run(args).await,
            Command::Partitions(args) => look::partitions::run(args).await,
            Command::Brokers(args) => look::brokers::run(args).await,
            Command::Stats(args) => look::stats::run(args).await,
            Command::Read(args) => read::run(args).await,
            Command::Spool(args) => Box::pin(spool::run(args)).await,
            Command::Doctor(args) => Box::pin(doctor::run(args)).await,
            Command::Verify(args) => Box::pin(verify::run(args)).await,
            Command::Proxy(args) => proxy::run(args).await,
            _ => EXIT_FAILED,
        }
    });
    // A read of stdin that is still blocked is abandoned.
    runtime.shutdown_background();
    status
}
