//! Every duration that transactions can be given, however absurd: nothing panics, and the producer goes on.

use std::time::Duration;

use metaq_producer::{
    Outcome, Partition, PartitionSelector, Producer,
    selector::{LatencySelector, StickySelector},
    transaction::TransactionOptions,
    xa::{UniqueQualifier, XaEnd, XaError, XaProducer, XaStart},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::common::{
    cluster::{Cluster, builder},
    message, topic,
};

const ABSURD: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(1),
    Duration::from_secs(u32::MAX as u64),
    Duration::MAX,
];

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => prop::sample::select(&ABSURD),
        1 => (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
    ]
}

async fn local(producer: &Producer, options: TransactionOptions) {
    for committed in [true, false] {
        let mut transaction = producer.begin(options.clone());
        let _ = transaction.send(message("x")).await;
        let _ = transaction.send_all((0..3).map(|n| message(n.to_string()))).await;
        let _ = if committed { transaction.commit().await.map(drop) } else { transaction.rollback().await };
    }
    let mut dropped = producer.begin(options);
    let _ = dropped.send(message("x")).await;
}

async fn xa(xa: &XaProducer, name: &str, timeout: Duration) -> Result<(), XaError> {
    let mut resource = xa.resource()?;
    resource.set_timeout(timeout);
    for (n, committed) in [true, false].into_iter().enumerate() {
        let xid = xa.xid(1, name.as_bytes(), &[n as u8])?;
        resource.start(&xid, XaStart::New).await?;
        let _ = resource.send(message("x")).await;
        resource.end(&xid, XaEnd::Success).await?;
        if committed {
            resource.prepare(&xid).await?;
            resource.commit(&xid, false).await?;
        } else {
            resource.rollback(&xid).await?;
        }
        let _ = resource.recover().await?;
    }
    let xid = xa.xid(1, name.as_bytes(), b"dropped")?;
    resource.start(&xid, XaStart::New).await
}

async fn all(send_timeout: Duration, timeout: Duration, request_timeout: Duration) {
    let cluster = Cluster::new(2, |_| {}).await;
    let absurd = builder(&cluster.registry, |config| config.send_timeout = send_timeout).build();
    // A setting that makes no sense may be refused.
    for producer in absurd.iter().chain([&cluster.producer]) {
        producer.publish_topic(&topic()).await.unwrap();
        let options = TransactionOptions::new().with_timeout(timeout).with_request_timeout(request_timeout);
        local(producer, options).await;
        let xa_producer = XaProducer::new(producer, UniqueQualifier::new("q").unwrap());
        xa_producer.publish_topic(&topic()).await.unwrap();
        let _ = xa(&xa_producer.clone().with_request_timeout(request_timeout), "absurd", timeout).await;
        let _ = xa_producer.with_request_timeout(request_timeout).recover().await;
    }
    // And all is well.
    let mut transaction = cluster.producer.begin(TransactionOptions::new());
    transaction.send(message("x")).await.unwrap();
    transaction.commit().await.unwrap();
    let xa_producer = XaProducer::new(&cluster.producer, UniqueQualifier::new("q").unwrap());
    xa_producer.publish_topic(&topic()).await.unwrap();
    xa(&xa_producer, "well", Duration::from_secs(30)).await.unwrap();
    assert!(cluster.producer.send(message("plain")).await.is_ok());
}

fn paused(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(test);
}

#[test]
fn transactions_stand_any_duration() {
    for duration in ABSURD {
        paused(all(duration, Duration::from_secs(1), Duration::from_secs(1)));
        paused(all(Duration::from_secs(1), duration, Duration::from_secs(1)));
        paused(all(Duration::from_secs(1), Duration::from_secs(1), duration));
        paused(all(duration, duration, duration));
    }
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let durations = (any_duration(), any_duration(), any_duration());
    runner
        .run(&durations, |(send_timeout, timeout, request_timeout)| {
            paused(all(send_timeout, timeout, request_timeout));
            Ok(())
        })
        .unwrap();
}

#[test]
fn selectors_stand_any_duration() {
    let (topic, message) = (topic(), message("x"));
    let partitions = [0, 1, 2].map(|index| Partition::new(0, index));
    for duration in ABSURD {
        let sticky = StickySelector::new().time(duration).for_topic(&topic).unwrap();
        let latency = LatencySelector::new();
        for outcome in [Ok(()), Err(Outcome::Unknown)] {
            latency.observe(partitions[0], duration, outcome);
        }
        for selector in [&*sticky, &latency] {
            for _ in 0..10 {
                assert!(selector.select(&topic, &partitions, &message).is_some());
                assert!(selector.reselect(&topic, &partitions, &message, partitions[0]).is_some());
            }
        }
    }
}
