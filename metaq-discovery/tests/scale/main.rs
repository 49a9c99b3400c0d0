//! [`ZooKeeperDiscovery`](metaq_discovery::ZooKeeperDiscovery) with many topics, on old and on slow servers:
//! its costs.
//!
//! The tests run in a short form with all others; `cargo xtask scale` (`METAQ_SCALE=full`) runs them in the
//! full form. Each result is a line that begins with `scale: ` and contains its limit.
#![cfg(feature = "zookeeper")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "figures are read by a person")]

mod closing;
mod figures;
mod large;
mod large_registry;
mod quiet;
mod slow;
mod vanish;
