//! Real peers, and the embedded broker beside them.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../wire/mod.rs"]
mod wire;

#[cfg(feature = "zookeeper")]
mod java_client;
mod java_program;
mod real_peers;
#[cfg(feature = "zookeeper")]
mod registration;
#[cfg(feature = "etcd")]
mod registration_etcd;
