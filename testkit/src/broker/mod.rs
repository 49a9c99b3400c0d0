//! The embedded broker: a MetaQ broker inside the process of a test.
//!
//! - `handle/`: the methods of [`Broker`], and starting one with a [`BrokerBuilder`].
//! - `connections/`: accepting connections, reading requests and writing responses.
//! - `handlers/`: what each request does, and its response.
//! - `transactions/`: the messages of open transactions, local and XA.
//! - `store/`: topics, the logs of their partitions, and the data folder.
//! - `faults/`: faults on demand. `observe/`: records of the requests that a broker receives.
//! - `registration/`: entries in ZooKeeper and etcd.
//!
//! `shared` is the state that all connections share. Uses point one way: `handle` → `connections` →
//! `handlers` → `shared` → `transactions` → `store`, and `handle` → `registration` → `shared`.

mod builder;
mod config_text;
mod connections;
mod counters;
mod faults;
mod handle;
mod handlers;
mod observe;
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
mod registration;
mod requests;
mod settings;
mod shared;
mod store;
mod transactions;

pub use builder::BrokerBuilder;
pub use faults::{Fault, Faults, PlannedFault};
pub use handle::{Broker, Stored};
pub use observe::{PutMonitor, Record, SeenRequest};
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
pub use registration::Registry;
pub use requests::Requests;
pub use store::Flush;
pub use transactions::Heuristic;
