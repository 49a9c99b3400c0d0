//! The warning of a producer that is dropped with messages outstanding. A test program of its own: another
//! test's thread without a log could have the events of both switched off.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use tokio::time::sleep;
use tracing_subscriber::EnvFilter;

use crate::common::{cluster::Cluster, lines::Lines, message, topic, until};

fn log(lines: &Lines, of: &str) -> tracing::subscriber::DefaultGuard {
    let log = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_env_filter(EnvFilter::new(format!("{of}=warn")))
        .finish();
    tracing::subscriber::set_default(log)
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_warns_once_of_messages_that_have_no_outcome() {
    let lines = Lines::default();
    let _log = log(&lines, "metaq_producer");
    let cluster = Cluster::new(1, |_| {}).await;
    let Cluster { brokers, producer, .. } = cluster;
    brokers[0].faults().freeze();
    for n in 0..7 {
        drop(producer.enqueue(message(n.to_string())).await.unwrap());
    }
    let clone = producer.clone();
    drop(producer);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(lines.take(), [""; 0], "a clone is left");
    drop(clone);
    sleep(Duration::from_secs(20)).await;
    let told = lines.take();
    let warnings: Vec<_> = told.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{told:?}");
    assert!(warnings[0].contains('7'), "{told:?}");
}

/// As with a producer in a `static`, which is never dropped.
#[test]
fn a_runtime_that_ends_warns_of_messages_that_have_no_outcome() {
    let lines = Lines::default();
    let _log = log(&lines, "metaq_transport");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let cluster = runtime.block_on(async {
        let cluster = Cluster::new(1, |_| {}).await;
        cluster.brokers[0].faults().freeze();
        for n in 0..7 {
            drop(cluster.producer.enqueue(message(n.to_string())).await.unwrap());
        }
        sleep(Duration::from_millis(10)).await;
        cluster
    });
    assert_eq!(lines.take(), [""; 0]);
    drop(runtime);
    let told = lines.take();
    let warnings: Vec<_> =
        told.iter().filter(|line| line.contains("WARN") && line.contains("outstanding=7")).collect();
    assert_eq!(warnings.len(), 1, "{told:?}");
    drop(cluster);
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_a_broker_are_told_of_as_well() {
    let lines = Lines::default();
    let _log = log(&lines, "metaq_producer");
    let mut cluster = Cluster::new(1, |_| {}).await;
    drop(cluster.brokers.pop());
    let Cluster { producer, .. } = cluster;
    until(async || producer.partitions(&topic()).is_empty()).await;
    for n in 0..5 {
        drop(producer.enqueue(message(n.to_string())).await.unwrap());
    }
    drop(lines.take());
    drop(producer);
    sleep(Duration::from_secs(20)).await;
    let told = lines.take();
    let warnings: Vec<_> = told.iter().filter(|line| line.contains("WARN") && line.contains('5')).collect();
    assert_eq!(warnings.len(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn producer_with_nothing_outstanding_ends_without_warning() {
    let lines = Lines::default();
    let _log = log(&lines, "metaq_producer");
    let cluster = Cluster::new(1, |_| {}).await;
    cluster.producer.send(message("stored")).await.unwrap();
    let Cluster { brokers, producer, .. } = cluster;
    drop(producer);
    sleep(Duration::from_secs(1)).await;
    let cluster = Cluster::new(1, |_| {}).await;
    drop(cluster.producer.enqueue(message("closed")).await.unwrap());
    cluster.producer.close(Duration::from_secs(1)).await;
    drop(cluster);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(lines.take(), [""; 0]);
    drop(brokers);
}
