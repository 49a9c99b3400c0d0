//! Every public duration with values that make little sense: nothing panics, nothing hangs, and a producer
//! works afterwards.

use std::{cell::Cell, panic, sync::Once, time::Duration};

use futures_util::future::join_all;
use metaq_producer::{
    Outcome, Producer, ProducerConfig, SendErrorKind,
    selector::StickySelector,
    transaction::TransactionOptions,
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart},
};
use metaq_testkit::{EmbeddedRegistry, Fault, Requests};
use tokio::time::timeout;

use crate::common::{
    cluster::{Cluster, broker, builder},
    message, topic, until,
};

const ODD: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(1),
    Duration::from_secs(u32::MAX as u64),
    Duration::MAX,
];

/// The time within which a call ends that has nothing to wait for.
const SOON: Duration = Duration::from_secs(60);

thread_local! {
    /// The number of panics on this thread, which is that of a whole test with its runtime.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Counts panics from now on, also those of tasks, which are not seen otherwise.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

fn no_panic(what: &str) {
    assert_eq!(PANICS.get(), 0, "{what}: something has panicked");
}

async fn works(producer: &Producer, what: &str) {
    let sent = producer.send_with_timeout(message("normal"), Duration::from_secs(30)).await;
    assert!(sent.is_ok(), "{what}: {sent:?}");
    no_panic(what);
}

#[tokio::test(start_paused = true)]
async fn messages_may_have_any_time() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let cluster = Cluster::new(2, |_| {}).await;
        let producer = &cluster.producer;
        let is_enough = time >= Duration::from_secs(1);
        let sent = producer.send_with_timeout(message("x"), time).await;
        assert!(sent.is_ok() || !is_enough, "{what}: {sent:?}");
        match producer.enqueue_with_timeout(message("x"), time).await {
            Ok(handle) => assert!(handle.await.is_ok() || !is_enough, "{what}"),
            Err(error) => assert!(!is_enough && error.outcome() == Outcome::NotSent, "{what}: {error}"),
        }
        works(producer, &what).await;
        // One that waits, and others beside it.
        cluster.brokers.iter().for_each(|broker| broker.faults().refuse_connections(true));
        cluster.brokers.iter().for_each(|broker| broker.faults().close_connections());
        until(async || producer.partitions(&topic()).is_empty()).await;
        let waits = producer.enqueue_with_timeout(message("waits"), time).await;
        let short = producer.send_with_timeout(message("short"), Duration::from_millis(100)).await;
        assert_eq!(short.unwrap_err().kind(), SendErrorKind::NotConnected, "{what}");
        cluster.brokers.iter().for_each(|broker| broker.faults().heal());
        if let Ok(handle) = waits {
            assert!(handle.await.is_ok() || !is_enough, "{what}");
        }
        works(producer, &what).await;
        let flushed = timeout(SOON, producer.flush()).await;
        assert!(flushed.is_ok(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_may_have_any_time_if_there_may_be_several() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let cluster = Cluster::new(1, |config| {
            config.retry.at_least_once = true;
            config.ordered = true;
        })
        .await;
        cluster.brokers[0].faults().plan(Requests::puts().first(1), Fault::refuse(503, "busy"));
        let sent = cluster.producer.send_with_timeout(message("x"), time).await;
        assert!(sent.is_ok() || time < Duration::from_secs(1), "{what}: {sent:?}");
        works(&cluster.producer, &what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn closing_may_have_any_time() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let cluster = Cluster::new(2, |_| {}).await;
        let mut handles = Vec::new();
        for n in 0..10 {
            handles.push(cluster.producer.enqueue(message(n.to_string())).await.unwrap());
        }
        let report = timeout(SOON, cluster.producer.close(time)).await.expect("closing ends");
        let all = report.acknowledged + report.rejected + report.unknown + report.unsent.len() as u64;
        assert_eq!(all, 10, "{what}: {report:?}");
        assert!(report.acknowledged == 10 || time < Duration::from_secs(1), "{what}: {report:?}");
        assert_eq!(join_all(handles).await.len(), 10);
        no_panic(&what);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_may_have_any_time_while_a_broker_is_silent() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let cluster = Cluster::new(1, |_| {}).await;
        cluster.brokers[0].faults().freeze();
        let handle = cluster.producer.enqueue(message("x")).await.unwrap();
        // The message has its own time.
        let report = timeout(SOON, cluster.producer.close(time)).await.expect("closing ends");
        assert_eq!(report.unknown + report.unsent.len() as u64, 1, "{what}: {report:?}");
        assert!(handle.await.is_err());
        no_panic(&what);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_for_statistics_may_have_any_time() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let cluster = Cluster::new(1, |_| {}).await;
        let asked = timeout(SOON, cluster.producer.broker_stats(None, time)).await.unwrap();
        assert!(asked[0].1.is_ok() || time < Duration::from_secs(1), "{what}: {asked:?}");
        works(&cluster.producer, &what).await;
    }
}

#[test]
fn a_request_timeout_in_which_nothing_is_answered_is_lengthened() {
    for (given, taken) in [(0, 10), (1, 10), (9, 10), (10, 10), (5000, 5000)] {
        let options = TransactionOptions::new().with_request_timeout(Duration::from_millis(given));
        assert_eq!(options.request_timeout(), Duration::from_millis(taken));
    }
}

#[tokio::test(start_paused = true)]
async fn transactions_may_have_any_time() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let cluster = Cluster::new(1, |_| {}).await;
        let producer = &cluster.producer;
        for options in [
            TransactionOptions::new().with_timeout(time),
            TransactionOptions::new().with_request_timeout(time),
        ] {
            let mut transaction = producer.begin(options);
            let sent = timeout(SOON, transaction.send(message("x"))).await.unwrap();
            assert!(sent.is_ok() || time < Duration::from_secs(1), "{what}: {sent:?}");
            let committed = timeout(SOON, transaction.commit()).await.unwrap();
            assert!(committed.is_ok() || time < Duration::from_secs(1), "{what}: {committed:?}");
            works(producer, &what).await;
        }
        let xa = XaProducer::new(producer, UniqueQualifier::new("q").unwrap()).with_request_timeout(time);
        xa.publish_topic(&topic()).await.unwrap();
        let mut resource = xa.resource().unwrap();
        for set in [false, true] {
            if set {
                resource.set_timeout(time);
            }
            let xid = xa.xid(1, format!("x{set}").as_bytes(), b"").unwrap();
            let started = timeout(SOON, resource.start(&xid, XaStart::New)).await.unwrap();
            assert!(started.is_ok() || time < Duration::from_secs(1), "{what}: {started:?}");
            if started.is_ok() {
                let sent = timeout(SOON, resource.send(message("x"))).await.unwrap();
                assert!(sent.is_ok() || time < Duration::from_secs(1), "{what}: {sent:?}");
                drop(timeout(SOON, resource.end(&xid, XaEnd::Success)).await.unwrap());
                drop(timeout(SOON, resource.commit(&xid, true)).await.unwrap());
            }
        }
        drop(timeout(SOON, xa.recover()).await.unwrap());
        works(producer, &what).await;
    }
}

type Setting = (&'static str, fn(&mut ProducerConfig, Duration));

const SETTINGS: [Setting; 13] = [
    ("send_timeout", |config, time| config.send_timeout = time),
    ("publish_timeout", |config, time| config.publish_timeout = time),
    ("topic_timeout", |config, time| config.topic_timeout = time),
    ("retry.initial_backoff", |config, time| config.retry.initial_backoff = time),
    ("retry.max_backoff", |config, time| config.retry.max_backoff = time),
    ("connection.connect_timeout", |config, time| config.connection.connect_timeout = time),
    ("connection.initial_backoff", |config, time| config.connection.initial_backoff = time),
    ("connection.max_backoff", |config, time| config.connection.max_backoff = time),
    ("connection.stall_after", |config, time| config.connection.stall_after = time),
    ("connection.heartbeat_after", |config, time| config.connection.heartbeat_after = time),
    ("connection.heartbeat_timeout", |config, time| config.connection.heartbeat_timeout = time),
    ("connection.drain_timeout", |config, time| config.connection.drain_timeout = time),
    ("all", |config, time| {
        for (name, set) in SETTINGS {
            if name != "all" {
                set(config, time);
            }
        }
    }),
];

/// Lives through a publication, a retry, a lost connection, a message to a broker that is away, and the end.
async fn lives(producer: Producer, registry: &EmbeddedRegistry, what: &str, is_enough: bool) {
    let broker = broker(registry, 0);
    let published = timeout(Duration::from_secs(3600), producer.publish_topic(&topic())).await;
    let published = published.unwrap_or_else(|_| panic!("{what}: publishing takes more than an hour"));
    assert!(published.is_ok() || !is_enough, "{what}: {published:?}");
    if published.is_ok() {
        broker.faults().plan(Requests::puts().first(1), Fault::refuse(503, "busy"));
        // A pause between attempts may be longer than the message has time.
        let time = Duration::from_secs(20);
        drop(timeout(2 * time, producer.send_with_timeout(message("retried"), time)).await.unwrap());
        let sent = timeout(SOON, producer.send(message("x"))).await.unwrap();
        assert!(sent.is_ok() || !is_enough, "{what}: {sent:?}");
        broker.faults().close_connections();
        drop(timeout(2 * time, producer.send_with_timeout(message("lost"), time)).await.unwrap());
        assert!(timeout(SOON, producer.flush()).await.is_ok(), "{what}");
    }
    timeout(SOON, producer.close(Duration::from_secs(1))).await.expect("closing ends");
    no_panic(what);
}

#[tokio::test(start_paused = true)]
async fn settings_may_have_any_duration() {
    count_panics();
    for (name, set) in SETTINGS {
        for time in ODD {
            let what = format!("{name} = {time:?}");
            let registry = EmbeddedRegistry::new();
            let mut config = ProducerConfig::default();
            set(&mut config, time);
            match config.validate() {
                Ok(()) => {
                    let producer = builder(&registry, |default| *default = config).build().unwrap();
                    lives(producer, &registry, &what, time >= Duration::from_secs(1)).await;
                }
                Err(error) => {
                    let is_alone = time.is_zero() || name.contains("backoff") || name == "all";
                    assert!(is_alone, "{what} is refused: {error}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settings_may_have_any_duration_with_time_that_passes() {
    count_panics();
    // Connections of the default transport are made of the same settings.
    for (name, set) in SETTINGS {
        for time in ODD {
            let mut config = ProducerConfig::default();
            set(&mut config, time);
            if config.validate().is_ok() {
                let registry = EmbeddedRegistry::new();
                let producer = Producer::builder().discovery(registry.discovery()).config(config);
                drop(producer.build().unwrap());
                no_panic(name);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn selectors_may_have_any_duration() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let registry = EmbeddedRegistry::new();
        let _broker = broker(&registry, 0);
        let producer = builder(&registry, |_| {}).selector(StickySelector::new().time(time));
        let producer = producer.build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        for _ in 0..20 {
            works(&producer, &what).await;
        }
    }
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn figures_may_be_exported_as_often_as_one_likes() {
    count_panics();
    for time in ODD {
        let what = format!("{time:?}");
        let cluster = Cluster::new(1, |_| {}).await;
        let exporting = tokio::spawn(cluster.producer.export_metrics(time));
        for _ in 0..20 {
            works(&cluster.producer, &what).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cluster.producer.close(Duration::from_secs(1)).await;
        drop(cluster);
        tokio::time::sleep(Duration::from_secs(2)).await;
        // It may wait for its next time, which may never come.
        exporting.abort();
        let ended = exporting.await;
        assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()), "{what}");
        no_panic(&what);
    }
}
