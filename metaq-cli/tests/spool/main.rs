//! `metaq produce --spool` and `metaq spool` as processes, beside embedded brokers that come and go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures are of interest")]

#[path = "../common/mod.rs"]
mod common;

mod copies;
mod edges;
mod ends;
mod folder;
mod form;
mod kills;
mod options;
mod outages;
mod replay;
mod signals;
mod starts;
