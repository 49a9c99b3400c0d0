//! The tests of `docs/reliability.md`. One runs at a time, as they measure time, memory and CPU time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod accounting;
mod bytes;
mod changes;
mod failover;
mod no_fault;
mod outage;
mod peers;
mod refusals;
mod registry_away;
mod restarts;
mod scale;
mod silence;
