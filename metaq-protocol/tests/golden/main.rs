//! Every case that was recorded from the Java classes of MetaQ 1.4.6.2 (`tests/vectors/README.md`).
#![allow(clippy::unwrap_used, reason = "a case that is not as expected has to fail")]
#![allow(clippy::print_stdout, reason = "says how many cases ran")]

mod bodies;
mod decode;
mod encode;
mod fields;
mod messages;
mod names;
mod refused;
mod run;
