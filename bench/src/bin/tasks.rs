//! Many tasks that send one message at a time each.

use std::process::ExitCode;

fn main() -> ExitCode {
    metaq_bench::tasks::main(None)
}
