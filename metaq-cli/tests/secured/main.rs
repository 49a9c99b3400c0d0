//! Registries that demand credentials or certificates, and brokers that are behind TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "tls")]
mod brokers;
#[cfg(feature = "etcd")]
mod etcd;
mod tls;
mod zookeeper;

use std::{fs, path::Path};

use common::{Finished, Metaq};

async fn produce(args: &[&str]) -> Finished {
    Metaq::start(&[&["produce", "-t", "t"], args].concat()).finish(b"x\n").await
}

/// Runs a command that looks at the cluster.
async fn look(command: &str, args: &[&str]) -> Finished {
    Metaq::start(&[&[command], args].concat()).finish(b"").await
}

/// Writes a file, and returns its path.
fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
