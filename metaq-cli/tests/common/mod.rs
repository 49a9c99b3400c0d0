//! Helpers of the tests: the `metaq` command as a process, an embedded broker for it, and its lines.
//!
//! `process` starts the command and talks to it asynchronously; `child` is for tests that hand it files as
//! its standard streams, or leave them unread.
#![allow(dead_code, unused_imports, reason = "each test uses a part of this")]

mod child;
mod process;
pub(crate) mod relay;

use std::time::Duration;

use metaq_testkit::Broker;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use self::{
    child::{Running, command, dev_full},
    process::{Finished, Metaq},
};

/// Starts an embedded broker that has the topic `t` with two partitions.
pub(crate) async fn broker() -> Broker {
    Broker::builder().topic("t", 2).start().await.unwrap()
}

/// Gives SIGHUP its default action in the programs that are started from now on, also when it is ignored
/// here, as under `nohup`: a signal with a handler, such as this one, has its default action after `exec`.
pub(crate) fn stop_ignoring_hangups() {
    drop(signal(SignalKind::hangup()).unwrap());
}

/// Waits until a condition is met; fails after a minute.
pub(crate) async fn wait_until(mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), met).await.expect("the condition is met in time");
}

/// Parses each line as JSON.
pub(crate) fn json_lines(text: &[u8]) -> Vec<Value> {
    str::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the sorted line numbers of reported lines.
pub(crate) fn line_numbers(lines: &[Value]) -> Vec<u64> {
    let mut numbers: Vec<_> = lines.iter().filter_map(|line| line["line"].as_u64()).collect();
    numbers.sort_unstable();
    numbers
}

/// Kills a broker and starts it again on its port. Another process may have taken the port meanwhile, for a
/// moment.
pub(crate) async fn restart(broker: Broker) -> Broker {
    let builder = broker.kill().await;
    let mut attempts = 100;
    loop {
        match Box::pin(builder.clone().start()).await {
            Ok(broker) => return broker,
            Err(error) if attempts > 0 => {
                assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
                attempts -= 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
