//! Publishing and sending: the fate of messages, their order, waiting and capacity, and the code of users
//! that runs within.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "mock")]
mod auto_publish;
mod capacity;
mod configured;
mod durations;
mod failover;
mod failure_handler;
mod failure_handler_odd;
mod interceptors;
#[cfg(feature = "mock")]
mod java_rules;
#[cfg(feature = "json")]
mod json;
mod odd_order;
mod ordered;
mod outcomes;
#[cfg(feature = "mock")]
mod producer;
#[cfg(feature = "mock")]
mod promises;
mod purging;
mod recovery;
mod retried;
mod runtimes;
mod selectors;
mod troubled;
mod user_code;
mod waiting;
mod waiting_odd;
