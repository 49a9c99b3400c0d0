//! Health, readiness, events, statistics, and their export as metrics.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "mock")]
mod health;
mod health_ends;
mod inspector;
#[cfg(all(feature = "metrics", feature = "mock"))]
mod metrics;
#[cfg(feature = "mock")]
mod statistics;
