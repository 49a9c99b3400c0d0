//! Measurements of a producer against embedded brokers.
#![allow(unused_imports, reason = "not every test needs all of it")]
#![allow(clippy::print_stdout, reason = "a test shows what it measures")]

pub(crate) mod process;
pub(crate) mod spoiled;
pub(crate) mod usage;

pub(crate) use super::form::{figure, in_form, is_full};
