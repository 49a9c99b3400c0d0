//! A layer beside embedded brokers that come and go. Each thread that logs has its own subscriber, so that
//! tests don't see each other's events.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ends;
mod form;
mod json;
mod outages;
mod panics;
mod partitions;
mod spans;
mod threads;
