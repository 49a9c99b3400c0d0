//! Local transactions, and what they share with XA transactions: their end, their statistics and their
//! requests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod closing;
mod durations;
mod faults;
mod odd_order;
mod own_partition;
mod rollbacks;
mod runtime;
mod stats;
mod steps;
mod wire;
