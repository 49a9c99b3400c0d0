//! A spool beside real Java brokers, whose messages a real Java consumer reads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the figures are of interest, and programs report"
)]

mod extension;
mod form;
mod kills;
mod outages;
mod pair;
mod ported;
mod program;
