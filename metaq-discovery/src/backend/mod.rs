//! Machinery that several backends share.
//!
//! - Per topic: `publishers` holds the watches; `notices` delivers views, events and warnings after the lock
//!   is released.
//! - Contents of a registry: `registry` is the layout of the paths and data that brokers write; `bad_entries`
//!   reports each unusable entry once.
//! - Servers: `connect_string`, `credentials` and `tls` are the settings of a connection to them.
//! - Time and tasks: `deadline` limits durations; `task` runs a backend's background task and restarts it.
//!
//! The backends (`static_discovery`, `mock`, `file`, `etcd`, `zookeeper`) use these modules. The modules use
//! the public types of the crate and `panics`, and never a backend.

#[cfg(any(feature = "etcd", feature = "file", feature = "zookeeper"))]
pub(crate) mod bad_entries;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) mod connect_string;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) mod credentials;
#[cfg(any(feature = "etcd", feature = "file", feature = "mock", feature = "zookeeper"))]
pub(crate) mod deadline;
#[cfg(any(feature = "etcd", feature = "file", feature = "mock", feature = "zookeeper"))]
pub(crate) mod notices;
pub(crate) mod publishers;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) mod registry;
#[cfg(any(feature = "etcd", feature = "file", feature = "mock", feature = "zookeeper"))]
#[cfg_attr(
    not(any(feature = "etcd", feature = "file", feature = "zookeeper")),
    allow(dead_code, reason = "a mock has no task")
)]
pub(crate) mod task;
#[cfg(any(all(feature = "_tls", feature = "etcd"), all(feature = "tls", feature = "zookeeper")))]
pub(crate) mod tls;
