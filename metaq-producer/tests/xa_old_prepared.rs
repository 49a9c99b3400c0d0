//! Prepared transactions that wait for long. One test in a process of its own: an event of `tracing` on
//! one thread may be missed when other threads emit the same one for the first time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use metaq_producer::xa::XaProducer;
use tokio::time::sleep;
use tracing_subscriber::EnvFilter;

use crate::common::{cluster::Cluster, lines::Lines, topic, xa::prepared};

#[tokio::test(start_paused = true)]
async fn what_is_prepared_for_long_is_warned_of_once() {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .with_env_filter(EnvFilter::new("metaq_producer=warn"))
        .finish();
    let _log = tracing::subscriber::set_default(log);
    let cluster = Cluster::new(1, |_| {}).await;
    let xa = XaProducer::new(&cluster.producer, "q".parse().unwrap());
    xa.publish_topic(&topic()).await.unwrap();
    let mut resource = xa.resource().unwrap();
    let (old, ended) =
        (prepared(&xa, &mut resource, "old").await, prepared(&xa, &mut resource, "ended").await);
    sleep(Duration::from_secs(200)).await;
    resource.commit(&ended, false).await.unwrap();
    let young = prepared(&xa, &mut resource, "young").await;
    assert_eq!(lines.take(), [""; 0]);
    sleep(Duration::from_secs(150)).await;
    let waiting = xa.prepared();
    assert_eq!(waiting.iter().map(|waiting| &waiting.xid).collect::<Vec<_>>(), [&old, &young]);
    assert!(waiting[0].age >= Duration::from_secs(350) && waiting[1].age < Duration::from_secs(200));
    for _ in 0..2 {
        xa.recover().await;
        prepared(&xa, &mut resource, "another").await;
    }
    let told = lines.take();
    let warnings: Vec<_> = told.iter().filter(|line| line.contains("can forget it")).collect();
    assert_eq!(warnings.len(), 1, "{told:?}");
    assert!(warnings[0].contains(old.as_str()), "{told:?}");
}
