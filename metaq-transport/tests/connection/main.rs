//! Connections to a scripted broker: requests, capacity, loss, failover, and the code of users that runs
//! within.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod capacity;
mod durations;
mod failover;
mod loss;
mod odd_order;
mod reconnecting;
mod requests;
mod supervision;
mod user_code;
