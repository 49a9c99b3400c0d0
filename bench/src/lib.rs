//! The benchmarks of metaq. `cargo xtask bench` runs them; the programs can be used by hand, too:
//!
//! - `null-broker`: a broker that stores nothing and answers at once, so that the client is what is measured;
//! - `raw-limits`: what a client without a runtime, without features and without promises reaches over the same bytes;
//! - `tasks` and `allocations`: many tasks that send one message at a time each, the latter with every allocation counted;
//! - `keep-awake`: keeps processors from halting, when it is run at the lowest priority;
//! - `compare`: all of it beside the real Java client, and the tables of the results.

pub mod compare;
pub mod limits;
pub mod null_broker;
mod request;
pub mod tasks;
pub mod usage;
