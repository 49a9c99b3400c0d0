//! Standard streams, signals and memory of the commands.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod dev_broker_end;
mod input;
mod input_stop;
mod memory;
mod nonblocking;
mod outputs;
mod pipes;
mod signals;
mod stderr;
mod unread;
