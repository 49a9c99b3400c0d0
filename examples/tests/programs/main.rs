//! Tests that run the examples as programs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// `outputs` compares what examples print with `examples/README.md`, `registries` does so for those that need
// a real ZooKeeper or etcd, `documents` checks the document itself, and `xa_sqlite` kills the example of that
// name at every step. They use `program`, which runs an example, `document`, which reads the document, and
// `pattern`, which compares.
mod document;
mod documents;
mod outputs;
mod pattern;
mod program;
#[cfg(all(feature = "zookeeper", feature = "etcd", feature = "peers"))]
mod registries;
#[cfg(all(feature = "sqlite", feature = "peers"))]
mod xa_sqlite;
