//! A producer and the tokio runtimes that it is used on: several one after another, one that isn't driven,
//! and none.

use std::{
    error::Error as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::LazyLock,
    time::{Duration, Instant},
};

use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, Producer, ProducerConfig, SendErrorKind, Topic,
    error::PublishErrorKind,
    selector::select_fn,
    transaction::TransactionOptions,
    xa::{UniqueQualifier, XaProducer, XaStart},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::runtime::{Builder, Runtime};

use crate::common::{
    message, topic,
    watchdog::{block_on, watched},
};

/// The least that a message is given; what comes on top is the machine's.
const SHORT: Duration = Duration::from_millis(300);
/// The allowance for a machine under load.
const SLACK: Duration = Duration::from_secs(3);

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn several_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

/// A broker on a runtime of its own, which outlives all others.
fn broker(registry: &EmbeddedRegistry) -> Broker {
    broker_with_id(registry, 0)
}

fn broker_with_id(registry: &EmbeddedRegistry, id: i32) -> Broker {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(several_threads);
    RUNTIME.block_on(Broker::builder().id(id).topic("t", 3).register_with(registry).start()).unwrap()
}

fn cluster(change: impl FnOnce(&mut ProducerConfig)) -> (Broker, Producer) {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let mut config = ProducerConfig::default();
    config.publish_timeout = Duration::from_secs(5);
    change(&mut config);
    let producer = Producer::builder().discovery(registry.discovery()).config(config).build().unwrap();
    (broker, producer)
}

fn stored(broker: &Broker) -> Vec<String> {
    let payloads = broker.messages("t").into_iter();
    payloads.map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect()
}

/// Each of three runtimes, used in turn, ends before the next.
fn on_three_runtimes(new: fn() -> Runtime, mut body: impl AsyncFnMut(usize)) {
    for n in 0..3 {
        new().block_on(body(n));
    }
}

#[test]
fn publishing_on_each_of_three_runtimes_works_on_each() {
    for new in [one_thread, several_threads] {
        watched("three runtimes", move || {
            let (broker, producer) = cluster(|_| {});
            on_three_runtimes(new, async |n| {
                producer.publish_topic(&topic()).await.unwrap();
                for k in 0..10 {
                    producer.send(message(format!("{n} {k}"))).await.unwrap();
                }
                let mut transaction = producer.begin(TransactionOptions::new());
                transaction.send(message(format!("{n} in a transaction"))).await.unwrap();
                transaction.commit().await.unwrap();
            });
            assert_eq!(stored(&broker).len(), 33);
        });
    }
}

#[test]
fn topic_published_on_an_earlier_runtime_works_on_later_ones() {
    for new in [one_thread, several_threads] {
        watched("three runtimes", move || {
            let (broker, producer) = cluster(|_| {});
            on_three_runtimes(new, async |n| {
                if n == 0 {
                    producer.publish_topic(&topic()).await.unwrap();
                }
                let until = Instant::now() + Duration::from_secs(10);
                // Those that met the end of the runtime say so, and none says that the producer was closed.
                while let Err(error) = producer.send(message(n.to_string())).await {
                    assert_ne!(error.kind(), SendErrorKind::Closed, "{error}");
                    assert!(!error.to_string().contains("producer was closed"), "{error}");
                    assert!(Instant::now() < until, "it never works again: {error}");
                }
                producer.flush().await;
                assert!(!producer.stats().await.connections.is_empty());
            });
            assert_eq!(stored(&broker).len(), 3);
        });
    }
}

#[test]
fn messages_for_an_absent_partition_revive_their_topic() {
    for ordered in [false, true] {
        watched("a broker that comes back", move || {
            let registry = EmbeddedRegistry::new();
            let _first = broker(&registry);
            let second = broker_with_id(&registry, 1);
            second.faults().refuse_connections(true);
            let mut config = ProducerConfig::default();
            config.ordered = ordered;
            let builder = Producer::builder().discovery(registry.discovery()).config(config);
            let producer = builder.build().unwrap();
            one_thread().block_on(producer.publish_topic(&topic())).unwrap();
            second.faults().refuse_connections(false);
            let own = || message("x").with_partition(Partition::new(1, 0));
            one_thread().block_on(async {
                for last in [false, false, true] {
                    match producer.send(own()).await {
                        Ok(receipt) => return assert_eq!(receipt.partition, Partition::new(1, 0)),
                        Err(error) => assert!(!last, "it never works again: {error}"),
                    }
                }
            });
            assert_eq!(stored(&second), ["x"]);
        });
    }
}

#[test]
fn messages_that_meet_the_end_of_a_runtime_are_told_the_cause() {
    watched("a runtime that ends", || {
        let (broker, producer) = cluster(|_| {});
        let runtime = several_threads();
        runtime.block_on(producer.publish_topic(&topic())).unwrap();
        broker.faults().plan(Requests::puts(), Fault::Swallow);
        let handles: Vec<_> = runtime.block_on(async {
            let mut handles = Vec::new();
            for n in 0..5 {
                let time = Duration::from_secs(15);
                handles.push(producer.enqueue_with_timeout(message(n.to_string()), time).await.unwrap());
            }
            handles
        });
        drop(runtime);
        for handle in handles {
            let error = block_on(handle).unwrap_err();
            assert_ne!(error.outcome(), Outcome::Rejected);
            assert!(!error.to_string().contains("producer was closed"), "{error}");
            assert_ne!(error.kind(), SendErrorKind::Closed, "{error}");
        }
        broker.faults().heal();
        let runtime = several_threads();
        runtime.block_on(producer.publish_topic(&topic())).unwrap();
        runtime.block_on(producer.send(message("again"))).unwrap();
    });
}

#[test]
fn broker_stats_can_come_first_on_another_runtime() {
    watched("a runtime that ends", || {
        let (_broker, producer) = cluster(|_| {});
        on_three_runtimes(one_thread, async |n| {
            if n == 0 {
                producer.publish_topic(&topic()).await.unwrap();
            }
            let told = producer.broker_stats(None, Duration::from_secs(5)).await;
            assert!(matches!(told[..], [(_, Ok(_))]), "on runtime {n}: {told:?}");
        });
    });
}

#[test]
fn message_ends_in_time_on_an_undriven_connection_runtime() {
    watched("a runtime that is not driven", || {
        let (_broker, producer) = cluster(|_| {});
        let asleep = one_thread();
        asleep.block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            producer.send(message("driven")).await.unwrap();
        });
        let awake = several_threads();
        awake.block_on(async {
            let started = Instant::now();
            let sent = producer.send_with_timeout(message("x"), SHORT).await;
            assert!(started.elapsed() < SHORT + SLACK, "{:?}: {sent:?}", started.elapsed());
            if let Err(error) = sent {
                assert_ne!(error.kind(), SendErrorKind::Closed, "{error}");
                let cause = error.source().unwrap().source().unwrap().to_string();
                assert!(cause.contains("the tokio runtime that the connection was made on"), "{cause}");
            }
        });
        drop(asleep);
        awake.block_on(producer.send(message("y"))).unwrap();
    });
}

#[test]
fn flush_ends_on_an_undriven_connection_runtime() {
    watched("a runtime that is not driven", || {
        let (_broker, producer) = cluster(|config| config.send_timeout = SHORT);
        let asleep = one_thread();
        asleep.block_on(producer.publish_topic(&topic())).unwrap();
        let awake = several_threads();
        awake.block_on(async {
            let mut handles = Vec::new();
            for n in 0..10 {
                handles.push(producer.enqueue(message(n.to_string())).await.unwrap());
            }
            let started = Instant::now();
            producer.flush().await;
            assert!(started.elapsed() < SHORT + SLACK, "{:?}", started.elapsed());
            for handle in handles {
                // What is flushed has its outcome.
                let outcome = futures_util::FutureExt::now_or_never(handle);
                assert!(outcome.is_some());
            }
        });
        drop(asleep);
    });
}

#[test]
fn close_accounts_for_all_on_an_undriven_connection_runtime() {
    watched("a runtime that is not driven", || {
        let (broker, producer) = cluster(|_| {});
        let asleep = one_thread();
        asleep.block_on(producer.publish_topic(&topic())).unwrap();
        let awake = several_threads();
        awake.block_on(async {
            let mut handles = Vec::new();
            for n in 0..10 {
                let time = Duration::from_secs(60);
                handles.push(producer.enqueue_with_timeout(message(n.to_string()), time).await.unwrap());
            }
            let started = Instant::now();
            let report = producer.close(SHORT).await;
            assert!(started.elapsed() < SHORT + SLACK, "{:?}", started.elapsed());
            let all = report.acknowledged + report.rejected + report.unknown + report.unsent.len() as u64;
            assert_eq!(all, 10, "{report:?}");
            let mut acknowledged = 0;
            for handle in handles {
                acknowledged += u64::from(handle.await.is_ok());
            }
            assert_eq!(acknowledged, report.acknowledged);
            assert!(stored(&broker).len() as u64 >= acknowledged);
        });
        drop(asleep);
    });
}

/// Calls every async method, and says which of them panicked.
fn calls(producer: &Producer, closes: bool) -> Vec<String> {
    let mut panicked = Vec::new();
    let mut call = |what: &str, body: &mut dyn FnMut()| {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            panicked.push(what.to_owned());
        }
    };
    call("publish_topic", &mut || {
        if let Err(error) = block_on(producer.publish_topic(&topic())) {
            assert_ne!(error.kind(), PublishErrorKind::Closed, "{error}");
        }
    });
    call("send", &mut || {
        if let Err(error) = block_on(producer.send_with_timeout(message("send_with_timeout"), SHORT)) {
            assert_ne!(error.kind(), SendErrorKind::Closed, "{error}");
        }
        drop(block_on(producer.send(message("send"))));
    });
    call("enqueue", &mut || {
        if let Ok(handle) = block_on(producer.enqueue(message("enqueue"))) {
            drop(block_on(handle));
        }
        if let Ok(handle) = block_on(producer.enqueue_with_timeout(message("enqueue_with_timeout"), SHORT)) {
            drop(block_on(handle));
        }
    });
    call("try_send", &mut || drop(producer.try_send(message("try_send"))));
    call("send_all", &mut || drop(block_on(producer.send_all((0..3).map(|_| message("send_all"))))));
    call("flush", &mut || block_on(producer.flush()));
    call("stats", &mut || drop(block_on(producer.stats())));
    call("broker_stats", &mut || drop(block_on(producer.broker_stats(None, SHORT))));
    call("begin", &mut || {
        let options = TransactionOptions::new().with_request_timeout(SHORT);
        let mut transaction = producer.begin(options.clone());
        if block_on(transaction.send(message("transaction"))).is_ok() {
            drop(block_on(transaction.commit()));
        }
        let mut transaction = producer.begin(options);
        drop(block_on(transaction.send(message("dropped"))));
        drop(transaction);
    });
    call("XaProducer", &mut || {
        let xa = XaProducer::new(producer, UniqueQualifier::new("q").unwrap()).with_request_timeout(SHORT);
        drop(block_on(xa.publish_topic(&topic())));
        drop(block_on(xa.recover()));
        if let Ok(mut resource) = xa.resource() {
            let xid = xa.xid(1, b"x", b"").unwrap();
            if block_on(resource.start(&xid, XaStart::New)).is_ok() {
                drop(block_on(resource.send(message("xa"))));
                drop(block_on(resource.rollback(&xid)));
            }
        }
    });
    if closes {
        call("close", &mut || drop(block_on(producer.close(SHORT))));
    }
    panicked
}

fn works_on_a_runtime(producer: &Producer) {
    several_threads().block_on(async {
        producer.publish_topic(&topic()).await.unwrap();
        producer.send(message("on a runtime")).await.unwrap();
    });
}

#[test]
fn outside_of_a_runtime_no_method_of_a_new_producer_panics() {
    watched("outside of a runtime", || {
        let (_broker, producer) = cluster(|config| config.send_timeout = SHORT);
        assert_eq!(calls(&producer, false), [""; 0]);
        works_on_a_runtime(&producer);
    });
}

#[test]
fn no_method_panics_outside_a_runtime_that_runs() {
    watched("outside of a runtime", || {
        let (_broker, producer) = cluster(|config| config.send_timeout = SHORT);
        let runtime = several_threads();
        runtime.block_on(producer.publish_topic(&topic())).unwrap();
        assert_eq!(calls(&producer, false), [""; 0]);
        runtime.block_on(producer.send(message("x"))).unwrap();
        drop(runtime);
        works_on_a_runtime(&producer);
    });
}

#[test]
fn no_method_panics_outside_a_runtime_that_has_ended() {
    watched("outside of a runtime", || {
        let (_broker, producer) = cluster(|config| config.send_timeout = SHORT);
        works_on_a_runtime(&producer);
        assert_eq!(calls(&producer, false), [""; 0]);
        works_on_a_runtime(&producer);
    });
}

#[test]
fn a_producer_can_be_closed_and_dropped_outside_of_a_runtime() {
    watched("outside of a runtime", || {
        let (_broker, producer) = cluster(|config| config.send_timeout = SHORT);
        assert_eq!(calls(&producer, true), [""; 0]);
        let (_broker, producer) = cluster(|config| config.send_timeout = SHORT);
        works_on_a_runtime(&producer);
        assert_eq!(calls(&producer, true), [""; 0]);
        let (_broker, producer) = cluster(|config| config.send_timeout = SHORT);
        let runtime = several_threads();
        runtime.block_on(producer.publish_topic(&topic())).unwrap();
        drop(producer);
    });
}

/// Panics where the test has it panic.
struct Panicking;

impl PartitionSelector for Panicking {
    fn select(&self, _: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        assert_ne!(&message.payload()[..], b"panics", "as it was told");
        partitions.first().copied()
    }

    fn wants_outcomes(&self) -> bool {
        true
    }

    fn observe(&self, _: Partition, _: Duration, _: Result<(), Outcome>) {
        panic!("as always");
    }
}

#[test]
fn a_selector_that_panics_harms_only_its_message() {
    watched("a panicking selector", || {
        let registry = EmbeddedRegistry::new();
        let broker = broker(&registry);
        let producer =
            Producer::builder().discovery(registry.discovery()).selector(Panicking).build().unwrap();
        several_threads().block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            for _ in 0..20 {
                producer.send(message("fine")).await.unwrap();
                let error = producer.send(message("panics")).await.unwrap_err();
                assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoPartition, Outcome::NotSent));
            }
            producer.publish_topic(&topic()).await.unwrap();
            producer.flush().await;
        });
        assert_eq!(stored(&broker).len(), 20);
    });
}

#[test]
fn panicking_selector_harms_only_its_waiting_message() {
    watched("a panicking selector", || {
        let registry = EmbeddedRegistry::new();
        let broker = broker(&registry);
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let selector = select_fn(move |_, partitions, message| {
            let again = &message.payload()[..] == b"again";
            assert!(
                !again || asked.fetch_add(1, std::sync::atomic::Ordering::AcqRel) == 0,
                "asked a second time"
            );
            partitions.first().copied()
        });
        let producer =
            Producer::builder().discovery(registry.discovery()).selector(selector).build().unwrap();
        several_threads().block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            broker.faults().plan(Requests::puts().first(1), Fault::refuse(503, "busy"));
            let error = producer.send(message("again")).await.unwrap_err();
            assert_eq!(error.kind(), SendErrorKind::NoPartition, "{error}");
            producer.send(message("fine")).await.unwrap();
        });
    });
}

/// Panics when it wakes.
struct PanickingWaker;

impl std::task::Wake for PanickingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("as always");
    }
}

#[test]
fn a_waker_that_panics_harms_nobody() {
    watched("a panicking waker", || {
        let (broker, producer) = cluster(|_| {});
        several_threads().block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            let late = broker.faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(20)));
            for n in 0..5 {
                let mut handle = Box::pin(producer.enqueue(message(format!("panics {n}"))).await.unwrap());
                let others = producer.enqueue(message(format!("beside {n}"))).await.unwrap();
                let waker = std::task::Waker::from(std::sync::Arc::new(PanickingWaker));
                let mut context = std::task::Context::from_waker(&waker);
                assert!(handle.as_mut().poll(&mut context).is_pending());
                others.await.unwrap();
                handle.await.unwrap();
            }
            late.cancel();
            // Also one that waits for capacity or a broker.
            producer.flush().await;
            producer.publish_topic(&topic()).await.unwrap();
            producer.send(message("afterwards")).await.unwrap();
        });
        assert_eq!(stored(&broker).len(), 11);
    });
}
