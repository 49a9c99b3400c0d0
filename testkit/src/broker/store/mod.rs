//! The messages of a broker: topics, and one log for each of their partitions, in memory or in a data folder.
//!
//! - `topics`: the table of topics, and the rule which names a broker accepts. `topic`: one of them.
//! - `partition_logs`: opens, appends to, flushes and closes logs within the capacity of the broker.
//! - `log`: one partition: its segments, offsets, and the part that is readable.
//! - `segment`: one segment, in memory or in a file of a Java broker's format.
//! - `data_folder`: the lock of a data folder, and the embedded broker's own files in it.
//!
//! Nothing here knows requests, transactions or connections.

mod data_folder;
mod log;
mod partition_logs;
mod segment;
mod topic;
mod topics;

pub(super) use data_folder::own_file;
pub use log::Flush;
pub(super) use log::{Log, LogSettings};
pub(super) use partition_logs::StoreError;
pub(super) use topic::TopicEntry;
pub(super) use topics::{StoreSettings, Topics};
