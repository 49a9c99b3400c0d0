//! The examples that have tests of their own. As a target of tests, an example would not be built as a
//! program as well.
#![allow(dead_code, reason = "the programs' main functions are not called")]

#[cfg(feature = "http")]
#[path = "../health_endpoint/main.rs"]
mod health_endpoint;
#[path = "../trace_context/main.rs"]
mod trace_context;
