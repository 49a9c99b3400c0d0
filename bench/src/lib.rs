//! The benchmarks of metaq. `cargo xtask bench` runs them; the programs can also be run by hand:
//!
//! - `null-broker`: a broker that stores nothing and answers immediately, so that only the client is
//!   measured;
//! - `raw-limits`: the rate of a client without a runtime, features and guarantees that sends the same bytes;
//! - `tasks` and `allocations`: many tasks that send one message at a time each, the latter with an allocator
//!   that counts;
//! - `keep-awake`: keeps processors from halting when it runs at the lowest priority;
//! - `compare`: runs the others and the real Java client in turns, and writes the tables of results.

pub mod compare;
pub mod limits;
pub mod null_broker;
mod request;
pub mod tasks;
pub mod usage;
