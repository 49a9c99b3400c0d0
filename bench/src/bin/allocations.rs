//! The program `tasks` with an allocator that counts, which makes every allocation slower.

use std::{alloc::System, process::ExitCode};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    metaq_bench::tasks::main(Some(COUNTED))
}
