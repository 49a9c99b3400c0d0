//! Compares the Java client and metaq, in turns, over the same brokers.
//!
//! `plan` lists the cases, `environment` starts the brokers, `comparison` runs the rounds of all clients
//! (`java`, `metaq` and the raw client), `measures` and `figures` evaluate them, and `report` writes the
//! tables. `against` compares two builds of metaq instead.

mod against;
mod comparison;
mod environment;
mod figures;
mod java;
mod machine;
mod measures;
mod metaq;
mod plan;
mod program;
mod report;

use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use self::{
    comparison::{Comparison, Results},
    environment::Environment,
    plan::Plan,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Compares the real Java client 1.4.6.2 with metaq, in turns, over a null broker and a real one, and writes
/// tables.
///
/// Runs programs of the folder that it is in: metaq, null-broker, raw-limits, tasks, allocations and
/// keep-awake.
#[derive(Debug, Parser)]
struct Args {
    /// Runs fewer cases, and fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// The file for the tables
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results/latest.md"))]
    output: PathBuf,
    /// Compares with this former build of metaq instead of Java, and prints the ratios
    #[arg(long, value_name = "PROGRAM", conflicts_with = "output")]
    against: Option<PathBuf>,
    /// Runs only cases whose name contains this text
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_message(&format!("compare: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut plan = if args.quick { Plan::quick() } else { Plan::full() };
    if let Some(only) = &args.only {
        plan.retain(only);
    }
    let environment = Environment::start()?;
    if let Some(former) = &args.against {
        return against::run(&environment, &plan.against(), former);
    }
    let results = Comparison::new(&environment, plan).run()?;
    write(&args.output, &results)?;
    print_message(&format!("the results are in {}", args.output.display()));
    Ok(())
}

fn write(path: &Path, results: &Results) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, report::markdown(results))
}

/// Prints a message to stderr.
fn print_message(text: &str) {
    // Stderr may be closed, and there is no other place to report that.
    let _ = writeln!(io::stderr(), "{text}");
}
