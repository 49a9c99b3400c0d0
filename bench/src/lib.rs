//! The benchmarks of metaq. `cargo xtask bench` runs them; the programs can be used by hand, too:
//!
//! - `null-broker`: a broker that stores nothing and answers at once, so that the client is what is measured;
//! - `raw-limits`: what a client without a runtime, without features and without promises reaches over the same bytes.

pub mod limits;
pub mod null_broker;
mod request;
pub mod usage;
