//! A thousand topics of 64 partitions and ten thousand senders at once: little memory, and no sender waits
//! longer than others. What it takes is measured in a process of its own, beside the brokers'.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use metaq_producer::{
    BrokerId, Message, Producer, SendError, Topic,
    discovery::{StaticDiscovery, TopicView},
};
use metaq_testkit::Broker;
use tokio::time::{Instant, sleep};

use crate::common::{
    alone,
    measuring::{
        figure, in_form,
        process::{Measured, Role},
        usage,
    },
};

const TOPICS: usize = 1_000;

/// Of each topic on each of two brokers.
const PARTITIONS: u32 = 32;

const SENDERS: usize = 10_000;

/// The most memory, in KiB.
const MEMORY: u64 = 150 * 1024;

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_senders_share_fairly_in_bounded_memory() {
    if let Some(role) = Role::get() {
        return measured(role).await;
    }
    let _alone = alone().await;
    let mut brokers = Vec::new();
    for id in 0..2 {
        let builder = Broker::builder().id(id).topic("t*", PARTITIONS).default_partitions(PARTITIONS);
        brokers.push(builder.start().await.unwrap());
    }
    let name = "scale::ten_thousand_senders_share_fairly_in_bounded_memory";
    let process = Measured::start(name, brokers.iter().map(Broker::addr));
    assert!(process.end(PATIENCE).await.success());
}

/// The work of the process whose producer is measured.
async fn measured(role: Role) {
    let topics: Vec<_> = (0..TOPICS).map(|n| Topic::new(&format!("t{n}")).unwrap()).collect();
    let view = |topic: &Topic| {
        (0..).zip(&role.brokers).fold(TopicView::new(topic.clone()), |view, (id, broker)| {
            view.with_broker(BrokerId(id), broker.parse().unwrap(), PARTITIONS)
        })
    };
    let discovery = StaticDiscovery::new(topics.iter().map(view));
    // On a slow machine a turn takes long, which is not what is measured.
    let builder = Producer::builder().discovery(discovery).send_timeout(PATIENCE);
    let producer = builder.build().unwrap();
    let before = usage::memory_kib();
    let started = Instant::now();
    for published in join_all(topics.iter().map(|topic| producer.publish_topic(topic))).await {
        published.unwrap();
    }
    let publishing = started.elapsed();
    let with_topics = usage::memory_kib();
    assert_eq!(producer.partitions(&topics[TOPICS - 1]).len(), 64);

    let phase = Arc::new(Phase::default());
    let senders: Vec<_> = (0..SENDERS)
        .map(|n| tokio::spawn(send(producer.clone(), topics[n % TOPICS].clone(), Arc::clone(&phase))))
        .collect();
    sleep(in_form(Duration::from_secs(2), Duration::from_secs(10))).await;
    phase.is_measured.store(true, Ordering::Release);
    let begun = Instant::now();
    sleep(in_form(Duration::from_secs(3), Duration::from_secs(30))).await;
    // Enough on a machine of any speed to compare the shares.
    let enough = SENDERS * in_form(20, 100);
    while phase.messages.load(Ordering::Relaxed) < enough {
        assert!(begun.elapsed() < PATIENCE, "{} messages", phase.messages.load(Ordering::Relaxed));
        sleep(Duration::from_millis(10)).await;
    }
    phase.is_over.store(true, Ordering::Release);
    let window = begun.elapsed();
    let mut waited = Vec::new();
    for sender in senders {
        waited.push(sender.await.unwrap());
    }
    let peak = usage::peak_memory_kib();
    let failures: Vec<_> = waited.iter().filter_map(|waited| waited.failure.as_ref()).collect();
    assert!(failures.is_empty(), "{} senders fail, such as by {}", failures.len(), failures[0]);
    let report = producer.close(PATIENCE).await;
    assert_eq!((report.unknown, report.unsent.len()), (0, 0));

    let messages: u32 = waited.iter().map(|waited| waited.messages).sum();
    let fewest = waited.iter().map(|waited| waited.messages).min().unwrap();
    let mean = |waited: &Waited| waited.sum / waited.messages.max(1);
    let shortest = waited.iter().map(mean).min().unwrap();
    let longest = waited.iter().map(mean).max().unwrap();
    let ratio = longest.as_secs_f64() / shortest.as_secs_f64();
    figure(format_args!(
        "{TOPICS} topics of 64 partitions and {SENDERS} senders: {:.1} MiB resident, of it {:.1} before the topics, which took \
         {:.1} and {publishing:?}; {:.0} messages a second, at least {fewest} of each sender; a sender waited {shortest:?} \
         to {longest:?} for a message on average, the longest {ratio:.2} times the shortest, and {:?} at most",
        mib(peak),
        mib(before),
        mib(with_topics - before),
        f64::from(messages) / window.as_secs_f64(),
        waited.iter().map(|waited| waited.longest).max().unwrap(),
    ));
    assert!(peak <= MEMORY, "{peak} KiB");
    assert!(fewest >= in_form(3, 50), "{fewest}");
    // In a short time chance has more to say, and in the short form other work has the machine, too.
    assert!(ratio <= in_form(6.0, 2.0), "{ratio}");
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The work of all senders.
#[derive(Default)]
struct Phase {
    is_measured: AtomicBool,
    is_over: AtomicBool,
    /// Those that were measured.
    messages: AtomicUsize,
}

/// The times that one sender waited for its messages.
#[derive(Default)]
struct Waited {
    messages: u32,
    sum: Duration,
    longest: Duration,
    failure: Option<SendError>,
}

/// Sends one message after the other until it is over; returns what was measured.
async fn send(producer: Producer, topic: Topic, phase: Arc<Phase>) -> Waited {
    let mut waited = Waited::default();
    while !phase.is_over.load(Ordering::Acquire) {
        let started = Instant::now();
        let measured = phase.is_measured.load(Ordering::Acquire);
        let sent = producer.send(Message::new(topic.clone(), "a message of some bytes")).await;
        waited.failure = waited.failure.or_else(|| sent.err());
        if measured {
            let took = started.elapsed();
            phase.messages.fetch_add(1, Ordering::Relaxed);
            waited.messages += 1;
            waited.sum += took;
            waited.longest = waited.longest.max(took);
        }
    }
    waited
}
