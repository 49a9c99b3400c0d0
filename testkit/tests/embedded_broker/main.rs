//! The embedded broker and the proxy, over the wire.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../wire/mod.rs"]
mod wire;

mod broker;
mod broker_edge_cases;
mod data_dir;
mod faults;
mod proxy;
mod registry;
