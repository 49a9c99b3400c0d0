//! Random faults without end: memory, open files and tasks stay what they were, every message ends, and the
//! counts balance. What it takes is measured in a process of its own, beside the brokers'. A test
//! program of its own for its allocator.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{alloc::System, time::Duration};

use fastrand::Rng;
use futures_util::FutureExt as _;
use metaq_producer::{
    BrokerAddr, BrokerId, Message, Producer, ProducerConfig, Topic,
    discovery::{MockDiscovery, TopicView},
    stats::MessageCounts,
};
use metaq_testkit::{Broker, Fault, Requests};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use crate::common::measuring::{
    figure, in_form, is_full,
    process::{Measured, Role},
    usage,
};

/// Counts what is allocated, since what is resident also shows the allocator's habits.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BROKERS: i32 = 3;

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

const PATIENCE: Duration = Duration::from_secs(60);

/// The first part, in which everything becomes as large as it ever will be.
fn warm_up() -> Duration {
    in_form(Duration::from_secs(5), Duration::from_secs(180))
}

/// The rest, in which nothing grows.
fn soak() -> Duration {
    in_form(Duration::from_secs(9), Duration::from_secs(1020))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_and_nothing_is_forgotten_under_random_faults() {
    if let Some(role) = Role::get() {
        return Load::measured(role).await;
    }
    let mut cluster = Cluster::start().await;
    let name = "nothing_grows_and_nothing_is_forgotten_under_random_faults";
    let mut process = Measured::start(name, &cluster.addrs);
    // All are away for longer than messages have time, so that as many wait as ever can.
    process.says("is ready", PATIENCE).await;
    for index in 0..cluster.brokers.len() {
        cluster.kill(index).await;
    }
    sleep(Duration::from_secs(4)).await;
    cluster.spoil(&mut process, "has warmed up", warm_up() + PATIENCE).await;
    process.order("calm").await;
    process.says("was measured", PATIENCE).await;
    process.order("go on").await;
    cluster.spoil(&mut process, "has soaked", soak() + PATIENCE).await;
    process.order("calm").await;
    let said = process.says("counts", PATIENCE).await;
    let counts: Vec<usize> = said.split(' ').map(|count| count.parse().unwrap()).collect();
    let [acknowledged, unknown] = counts[..] else { panic!("{said}") };
    assert!(process.end(PATIENCE).await.success());
    for index in 0..cluster.brokers.len() {
        cluster.kill(index).await;
    }
    let stored = cluster.stored;
    figure(format_args!(
        "the brokers met {} faults and stored {stored} messages: {acknowledged} acknowledged, {unknown} unknown",
        cluster.faults
    ));
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&stored),
        "what was acknowledged is stored, once"
    );
}

/// The brokers, to which things happen.
struct Cluster {
    brokers: Vec<Option<Broker>>,
    addrs: Vec<BrokerAddr>,
    rng: Rng,
    faults: usize,
    /// The number of messages stored by brokers that are gone.
    stored: usize,
}

impl Cluster {
    async fn start() -> Self {
        let mut brokers = Vec::new();
        for id in 0..BROKERS {
            brokers.push(Some(broker(id, 0).await));
        }
        let addrs = brokers.iter().flatten().map(|broker| broker.addr().clone()).collect();
        Self { brokers, addrs, rng: Rng::new(), faults: 0, stored: 0 }
    }

    /// Spoils things until the process says so; then all is mended.
    async fn spoil(&mut self, process: &mut Measured, until: &str, within: Duration) {
        let mut said = std::pin::pin!(process.says(until, within));
        while timeout(Duration::from_millis(self.rng.u64(..500)), &mut said).await.is_err() {
            self.happen().await;
        }
        for index in 0..self.brokers.len() {
            match &self.brokers[index] {
                Some(broker) => broker.faults().heal(),
                None => self.restart(index).await,
            }
        }
    }

    async fn happen(&mut self) {
        self.faults += 1;
        let index = self.rng.usize(..self.brokers.len());
        let Some(broker) = &self.brokers[index] else { return self.restart(index).await };
        let faults = broker.faults();
        let some = Requests::puts().with_chance(self.rng.f64()).first(self.rng.u64(..200));
        match self.rng.u8(..20) {
            0..6 => faults.heal(),
            6 => faults.freeze(),
            7 => faults.close_connections(),
            8 => faults.refuse_connections(true),
            9 => faults.cut(None, self.rng.u64(..20_000)),
            10 => {
                faults.plan(some, Fault::refuse(*self.rng.choice(&[403, 404, 500, 503]).unwrap(), "no"));
            }
            11 => drop(faults.plan(some, Fault::Swallow)),
            12 => drop(faults.plan(some, Fault::Late(Duration::from_millis(self.rng.u64(..4_000))))),
            13 => drop(faults.plan(some, Fault::Garbage(self.rng.usize(1..50)))),
            14 => drop(faults.plan(some, Fault::Twice)),
            15 => drop(faults.plan(some, Fault::Behind(self.rng.usize(1..20)))),
            16 => drop(faults.plan(some, Fault::Cut(self.rng.usize(..40)))),
            _ => self.kill(index).await,
        }
    }

    /// Ends a broker, as if its process were killed.
    async fn kill(&mut self, index: usize) {
        let Some(broker) = self.brokers[index].take() else { return };
        // What is being stored at this moment still is.
        broker.faults().freeze();
        let count = || TOPICS.iter().map(|topic| broker.messages(topic).len()).sum::<usize>();
        let mut stored = count();
        loop {
            sleep(Duration::from_millis(10)).await;
            let now = count();
            if std::mem::replace(&mut stored, now) == now {
                break;
            }
        }
        self.stored += stored;
    }

    async fn restart(&mut self, index: usize) {
        self.brokers[index] = Some(broker(index as i32, self.addrs[index].port()).await);
    }
}

async fn broker(id: i32, port: u16) -> Broker {
    let builder = Broker::builder().id(id).port(port);
    TOPICS.iter().fold(builder, |builder, topic| builder.topic(topic, 4)).start().await.unwrap()
}

/// The work of the process whose producer is measured.
struct Load {
    producer: Producer,
    registry: MockDiscovery,
    brokers: Vec<BrokerAddr>,
    topics: Vec<Topic>,
    rng: Rng,
}

/// The resources that the idle process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    memory_kib: u64,
    allocated: usize,
    files: usize,
    tasks: usize,
}

impl Load {
    async fn measured(mut role: Role) {
        let mut config = ProducerConfig::default();
        config.max_in_flight = 2_000;
        config.max_in_flight_bytes = 4 << 20;
        let registry = MockDiscovery::new();
        let producer = Producer::builder().discovery(registry.clone()).config(config).build().unwrap();
        let mut load = Self {
            producer,
            registry,
            brokers: role.brokers.iter().map(|broker| broker.parse().unwrap()).collect(),
            topics: TOPICS.map(|name| Topic::new(name).unwrap()).to_vec(),
            rng: Rng::new(),
        };
        load.mend_registry();
        for topic in &load.topics {
            load.producer.publish_topic(topic).await.unwrap();
        }
        role.say(format_args!("is ready"));
        load.run(warm_up()).await;
        role.say(format_args!("has warmed up"));
        role.order().await;
        let before = load.calm(None).await;
        role.say(format_args!("was measured"));
        role.order().await;
        load.run(soak()).await;
        role.say(format_args!("has soaked"));
        role.order().await;
        let after = load.calm(Some(before)).await;
        let counts = load.producer.stats().await.messages;
        let report = load.producer.close(PATIENCE).await;
        assert_eq!((report.unknown, report.unsent.len()), (0, 0));
        figure(format_args!(
            "{:?} of random faults: {} KiB allocated after {:?}, {} at the end; {:.1} and {:.1} MiB resident; {} and {} \
             open files; {} and {} tasks; {counts:?}, none unresolved",
            warm_up() + soak(),
            before.allocated / 1024,
            warm_up(),
            after.allocated / 1024,
            before.memory_kib as f64 / 1024.0,
            after.memory_kib as f64 / 1024.0,
            before.files,
            after.files,
            before.tasks,
            after.tasks,
        ));
        // Connections keep buffers that have grown, and may just have been made anew.
        assert!(after.allocated <= before.allocated * 11 / 10 + 256 * 1024, "{before:?} {after:?}");
        assert!(after.memory_kib <= before.memory_kib * 11 / 10 + 2 * 1024, "{before:?} {after:?}");
        let all_happen = counts.unknown > 0 && counts.not_sent > 0 && (counts.rejected > 0 || !is_full());
        assert!(all_happen, "{counts:?}");
        role.say(format_args!("counts {} {}", counts.acknowledged, counts.unknown));
    }

    async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for _ in 0..self.rng.usize(..20) {
                self.send();
            }
            if self.rng.u8(..100) == 0 {
                self.change_registry();
            }
            if self.rng.u8(..200) == 0 {
                self.publish_anew();
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a message in one of the possible ways, and does not wait for its outcome.
    fn send(&mut self) {
        let topic = self.rng.choice(&self.topics).unwrap().clone();
        let message = Message::new(topic, vec![b'x'; self.rng.usize(..4_000)]);
        let (producer, patience) = (self.producer.clone(), Duration::from_millis(self.rng.u64(..5_000)));
        match self.rng.u8(..4) {
            0 => drop(producer.try_send(message)),
            1 => drop(producer.enqueue(message).now_or_never()),
            2 => drop(tokio::spawn(async move { timeout(patience, producer.send(message)).await })),
            _ => drop(tokio::spawn(async move { producer.send_with_timeout(message, patience).await })),
        }
    }

    fn change_registry(&mut self) {
        let index = self.rng.usize(..self.brokers.len());
        match self.rng.u8(..5) {
            0 => self.set_registry(Some(index), 4),
            1 => {
                let partitions = self.rng.u32(1..8);
                self.set_registry(None, partitions);
            }
            2 => self.registry.set_away(true),
            _ => self.mend_registry(),
        }
    }

    fn mend_registry(&self) {
        self.registry.set_away(false);
        self.set_registry(None, 4);
    }

    /// Has the registry list all brokers but one, with this number of partitions.
    fn set_registry(&self, without: Option<usize>, partitions: u32) {
        for topic in &self.topics {
            let brokers = self.brokers.iter().enumerate().filter(|(index, _)| Some(*index) != without);
            let view = brokers.fold(TopicView::new(topic.clone()), |view, (index, addr)| {
                view.with_broker(BrokerId(index as i32), addr.clone(), partitions)
            });
            self.registry.set(view);
        }
    }

    /// Has the last topic no longer published for a moment, with messages under way.
    fn publish_anew(&self) {
        let (producer, topic) = (self.producer.clone(), self.topics[TOPICS.len() - 1].clone());
        if producer.unpublish_topic(&topic) {
            tokio::spawn(async move { while producer.publish_topic(&topic).await.is_err() {} });
        }
    }

    /// The resources that are held when all messages are complete and all brokers are used; waits until that
    /// is no more than before.
    async fn calm(&self, before: Option<Held>) -> Held {
        self.mend_registry();
        let held = || Held {
            memory_kib: usage::memory_kib(),
            allocated: {
                let stats = ALLOCATOR.stats();
                stats.bytes_allocated - stats.bytes_deallocated
            },
            files: usage::open_files(),
            tasks: Handle::current().metrics().num_alive_tasks(),
        };
        let all_used = |topic: &Topic| self.producer.partitions(topic).len() == 4 * self.brokers.len();
        let calm = async {
            loop {
                let counts = self.producer.stats().await.messages;
                let over = counts.queued == 0 && counts.in_flight == 0 && self.topics.iter().all(all_used);
                let now = held();
                let settled =
                    before.is_none_or(|before| now.files <= before.files && now.tasks <= before.tasks);
                if over && settled {
                    assert_eq!(counts.offered, sum(counts), "{counts:?}");
                    return now;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        // What the first part leaves behind ends by itself, such as tasks that wait with messages that have
        // ended.
        if before.is_none() {
            sleep(Duration::from_secs(6)).await;
        }
        match timeout(Duration::from_secs(30), calm).await {
            Ok(held) => held,
            Err(_) => panic!("{before:?} {:?} {:?}", held(), self.producer.stats().await),
        }
    }
}

fn sum(counts: MessageCounts) -> u64 {
    counts.acknowledged + counts.rejected + counts.unknown + counts.not_sent
}
