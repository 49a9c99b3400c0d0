//! Real Java brokers, real ZooKeeper servers and real Java clients. One test runs at a time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod direct;
mod heap;
#[cfg(feature = "zookeeper")]
mod runtimes;
#[cfg(feature = "zookeeper")]
mod transactions;
mod transactions_left;
#[cfg(feature = "zookeeper")]
mod xa;
#[cfg(feature = "zookeeper")]
mod xa_forgotten;

use std::time::Duration;

/// The longest wait for a Java program.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
