//! The memory that a Java broker really uses.

use std::time::Duration;

use metaq_testkit::peers::JavaBroker;
use tokio::{process::Command, time::Instant};

use crate::PATIENCE;

async fn jcmd(broker: &JavaBroker, command: &str) -> String {
    let pid = broker.pid().unwrap().to_string();
    let output = Command::new("jcmd").args([&*pid, command]).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The bytes of a broker's heap that are left after a full collection.
pub(crate) async fn used_heap(broker: &JavaBroker) -> u64 {
    jcmd(broker, "GC.run").await;
    let info = jcmd(broker, "GC.heap_info").await;
    // Of the serial collector: "def new generation   total 6K, used 2K …" and "tenured generation …".
    let generations = info.lines().filter(|line| line.contains(" generation "));
    let used = generations.map(|line| {
        let (_, rest) = line.split_once("used ").unwrap();
        rest.split('K').next().unwrap().parse::<u64>().unwrap() * 1024
    });
    let used: Vec<_> = used.collect();
    assert_eq!(used.len(), 2, "{info}");
    used.iter().sum()
}

/// Waits until a broker uses less than `limit` bytes, and returns how many.
pub(crate) async fn until_heap_is_below(broker: &JavaBroker, limit: u64) -> u64 {
    let started = Instant::now();
    loop {
        let used = used_heap(broker).await;
        if used < limit {
            return used;
        }
        assert!(started.elapsed() < PATIENCE, "{used} bytes of heap are in use, and not less than {limit}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
