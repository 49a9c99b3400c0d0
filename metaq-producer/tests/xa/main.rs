//! XA transactions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod closure;
mod steps;
mod unknown;
