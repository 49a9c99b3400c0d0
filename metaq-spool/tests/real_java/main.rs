//! A spool beside real Java brokers, whose messages a real Java consumer reads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures are of interest")]

mod extension;
mod form;
mod kills;
mod outages;
mod pair;
mod ported;
mod program;
