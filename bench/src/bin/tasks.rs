//! Sends from many tasks, each of which sends one message at a time.

use std::process::ExitCode;

fn main() -> ExitCode {
    metaq_bench::tasks::main(None)
}
