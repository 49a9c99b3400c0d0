//! The commands: what they take, print and exit with.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod bench_details;
mod dev_broker;
mod doctor;
mod help;
mod inspect;
mod inspect_limits;
mod inspect_messages;
mod inspect_pcap;
mod json;
mod look;
mod produce;
mod produce_in_flight;
mod produce_input;
mod produce_options;
mod produce_outputs;
mod proxy;
mod read;
mod settings;
mod tx;
mod tx_prepared;
mod tx_reports;
mod verify;
mod verify_run;
