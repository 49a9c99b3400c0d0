//! Refusals, messages that can't be sent, and registries that say what isn't so: each ends as documented,
//! within its deadline, and what isn't stored is given back. Time is paused.

use std::time::Duration;

use metaq_producer::{BrokerId, Message, Outcome, SendErrorKind, Status, Topic};
use metaq_testkit::{Fault, RegistryFault, Requests};
use tokio::time::{Instant, sleep};

use crate::common::{alone, cluster::Cluster, measuring::figure, message, topic};

const TIMEOUT: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_millis(100);

/// The largest message that is accepted by default.
const LARGEST: usize = 1_048_556;

/// The required outcome of a message.
#[derive(Clone, Copy, Debug)]
enum End {
    Stored,
    /// The kind, the broker's status, and the number of attempts in all.
    Failed(SendErrorKind, Outcome, Option<i32>, usize),
}

const STORED: End = End::Stored;

const fn rejected(status: i32, attempts: usize) -> End {
    End::Failed(SendErrorKind::Rejected, Outcome::Rejected, Some(status), attempts)
}

const fn not_sent(kind: SendErrorKind) -> End {
    End::Failed(kind, Outcome::NotSent, None, 1)
}

type Case = (&'static str, fn(&mut Cluster), fn() -> Message, End);

fn refuse(cluster: &Cluster, status: i32) {
    for broker in &cluster.brokers {
        broker.faults().plan(Requests::puts(), Fault::refuse(status, "scripted"));
    }
}

fn wrong(cluster: &Cluster, fault: impl Fn(BrokerId) -> RegistryFault) {
    cluster.brokers.iter().for_each(|broker| cluster.registry.add_fault(fault(broker.id())));
}

fn x() -> Message {
    message("x")
}

const CASES: [Case; 19] = [
    ("nothing", |_| {}, x, STORED),
    // What another partition, or a moment, may mend is tried again.
    ("403", |cluster| refuse(cluster, 403), x, rejected(403, 5)),
    ("404", |cluster| refuse(cluster, 404), x, rejected(404, 5)),
    ("503", |cluster| refuse(cluster, 503), x, rejected(503, 5)),
    ("500", |cluster| refuse(cluster, 500), x, rejected(500, 1)),
    ("a status that there is not", |cluster| refuse(cluster, 999), x, rejected(999, 1)),
    ("an empty message", |_| {}, || message(""), STORED),
    ("an empty message with an attribute", |_| {}, || message("").with_attribute("a"), STORED),
    ("the largest message", |_| {}, || message("x".repeat(LARGEST)), STORED),
    ("a larger one", |_| {}, || message("x".repeat(LARGEST + 1)), not_sent(SendErrorKind::TooLarge)),
    (
        "one that its attribute makes larger",
        |_| {},
        || message("x".repeat(LARGEST - 4)).with_attribute("a"),
        not_sent(SendErrorKind::TooLarge),
    ),
    (
        "a topic that isn't published",
        |_| {},
        || Message::new(Topic::new("other").unwrap(), "x"),
        not_sent(SendErrorKind::NotPublished),
    ),
    (
        "brokers with fewer partitions",
        |cluster| cluster.brokers.iter().for_each(|broker| broker.set_topic(topic(), 1)),
        x,
        STORED,
    ),
    ("a registry that is gone", |cluster| cluster.registry.add_fault(RegistryFault::Unreachable), x, STORED),
    ("a slow registry", |cluster| cluster.registry.add_fault(RegistryFault::Slow(TIMEOUT)), x, STORED),
    (
        "an empty registry",
        |cluster| cluster.registry.add_fault(RegistryFault::Empty),
        x,
        not_sent(SendErrorKind::NotConnected),
    ),
    // It is used where it is, until it is found where it is said to be.
    ("wrong addresses", |cluster| wrong(cluster, RegistryFault::WrongAddress), x, STORED),
    (
        "wrong addresses, and connections that are lost",
        |cluster| {
            wrong(cluster, RegistryFault::WrongAddress);
            cluster.brokers.iter().for_each(|broker| broker.faults().close_connections());
        },
        x,
        not_sent(SendErrorKind::NotConnected),
    ),
    ("one broker of two", |cluster| drop(cluster.brokers.pop()), x, STORED),
];

#[tokio::test(start_paused = true)]
async fn refused_and_unsendable_messages_are_given_back() {
    let _alone = alone().await;
    let (mut latest, mut given_back) = (Duration::ZERO, 0);
    for (name, prepare, message, end) in CASES {
        let mut cluster = Cluster::new(2, |_| {}).await;
        prepare(&mut cluster);
        // Longer than a broker is kept that the registry no longer names.
        sleep(Duration::from_millis(500)).await;
        let started = Instant::now();
        let outcome = cluster.producer.send(message()).await;
        let took = started.elapsed();
        latest = latest.max(took);
        assert!(took <= TIMEOUT + GRACE, "{name}: {took:?}");
        let stored = cluster.brokers.iter().flat_map(|broker| broker.messages("t")).collect::<Vec<_>>();
        match (outcome, end) {
            (Ok(_), End::Stored) => {
                let [one] = &stored[..] else { panic!("{name}: stored {} times", stored.len()) };
                assert_eq!(one.payload, message().payload(), "{name}");
                assert_eq!(one.attribute.as_deref(), message().attribute(), "{name}");
            }
            (Err(error), End::Failed(kind, outcome, status, attempts)) => {
                assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{name}: {error}");
                assert_eq!(
                    (error.status(), error.attempts().len() + 1),
                    (status.map(Status), attempts),
                    "{name}"
                );
                assert_eq!(error.into_message(), Some(message()), "{name}");
                assert!(stored.is_empty(), "{name}");
                given_back += 1;
            }
            (outcome, end) => panic!("{name}: {outcome:?} instead of {end:?}"),
        }
        // When all is mended the next message is stored.
        cluster.registry.heal();
        cluster.brokers.iter().for_each(|broker| {
            broker.faults().heal();
            broker.set_topic(topic(), 2);
        });
        sleep(Duration::from_secs(3)).await;
        cluster.producer.send(x()).await.unwrap_or_else(|error| panic!("after {name}: {error}"));
    }
    figure(format_args!(
        "{} cases of refusals, messages that can't be sent and wrong registries: {given_back} given back, none stored in \
         vain, {latest:?} at the latest of {TIMEOUT:?}",
        CASES.len()
    ));
}

#[tokio::test(start_paused = true)]
async fn messages_for_partitions_unknown_to_brokers_are_given_back() {
    let _alone = alone().await;
    let cluster = Cluster::new(1, |_| {}).await;
    cluster.registry.add_fault(RegistryFault::WrongPartitions(BrokerId(0), 4));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(cluster.producer.partitions(&topic()).len(), 4);
    let (mut stored, mut refused) = (0, 0);
    for _ in 0..40 {
        match cluster.producer.send(x()).await {
            Ok(_) => stored += 1,
            Err(error) => {
                assert_eq!(
                    (error.outcome(), error.status()),
                    (Outcome::Rejected, Some(Status(500))),
                    "{error}"
                );
                assert!(error.to_string().contains("wrong partition"), "{error}");
                assert_eq!(error.into_message(), Some(x()));
                refused += 1;
            }
        }
    }
    figure(format_args!(
        "two of four partitions are only in the registry: of 40 messages {stored} stored, {refused} given back"
    ));
    assert_eq!(cluster.stored().len(), stored);
    assert!((1..=4).contains(&refused), "they are left alone for a while: {refused}");
}
