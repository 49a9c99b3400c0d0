//! A spooling producer beside embedded brokers that come and go.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod form;
mod ordered;
mod outcomes;
mod restarts;
