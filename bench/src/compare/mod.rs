//! The Java client and ours, in turns, over the same brokers.

mod against;
mod contest;
mod figures;
mod java;
mod machine;
mod measures;
mod metaq;
mod plan;
mod program;
mod report;
mod stage;

use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use self::{
    contest::{Contest, Results},
    plan::Plan,
    stage::Stage,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Compares the real Java client 1.4.6.2 with metaq, in turns, over a null broker and a real one, and writes tables.
///
/// Takes what it runs from the folder that it is in: metaq, null-broker, raw-limits, tasks, allocations and keep-awake.
#[derive(Debug, Parser)]
struct Args {
    /// Fewer cases, fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Where the tables go
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results/latest.md"))]
    output: PathBuf,
    /// Compare with this former build of metaq instead of Java, and print the ratios
    #[arg(long, value_name = "PROGRAM", conflicts_with = "output")]
    against: Option<PathBuf>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("compare: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut plan = if args.quick { Plan::quick() } else { Plan::full() };
    if let Some(only) = &args.only {
        plan.retain(only);
    }
    let stage = Stage::set()?;
    if let Some(former) = &args.against {
        return against::run(&stage, &plan.against(), former);
    }
    let results = Contest::new(&stage, plan).run()?;
    write(&args.output, &results)?;
    say(&format!("the results are in {}", args.output.display()));
    Ok(())
}

fn write(path: &Path, results: &Results) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, report::markdown(results))
}

/// Says what is going on.
fn say(text: &str) {
    // A stderr that is gone can't be told about.
    let _ = writeln!(io::stderr(), "{text}");
}
