//! Compares the Java client and metaq, in turns, over the same brokers.

use std::process::ExitCode;

fn main() -> ExitCode {
    metaq_bench::compare::main()
}
