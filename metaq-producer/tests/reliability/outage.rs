//! All brokers are down while messages are offered: memory is bounded, little is done, little is said, and it
//! goes on soon after they are back. What it takes is measured in a process of its own, beside the brokers'.

use std::{collections::VecDeque, time::Duration};

use futures_util::FutureExt as _;
use metaq_producer::{
    BrokerId, Message, Outcome, Producer, ProducerConfig, SendHandle, Topic,
    discovery::{StaticDiscovery, TopicView},
};
use metaq_testkit::Broker;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

use crate::common::{
    alone,
    cluster::{Cluster, broker},
    lines::Lines,
    measuring::{
        figure, in_form,
        process::{Measured, Role},
        usage,
    },
    message,
};

/// The interval and the number of messages offered at a time: 10,000 a second.
const TICK: Duration = Duration::from_millis(10);
const AT_A_TIME: usize = 100;

/// With these the limit of bytes is the one that holds.
const PAYLOAD: usize = 16 * 1024;

const LIMIT: usize = 64 << 20;

const PATIENCE: Duration = Duration::from_secs(60);

fn outage() -> Duration {
    in_form(Duration::from_secs(4), Duration::from_secs(60))
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_back_is_used_within_a_second() {
    let _alone = alone().await;
    let mut cluster = Cluster::new(1, |_| {}).await;
    // It stays registered, so that only its answers show that it is there.
    cluster.registry.session_timeout(Duration::from_secs(3600));
    let mut times = Vec::new();
    for away in (0..in_form(200, 5_000)).map(|n| Duration::from_millis(50 + 301 * (n % 200))) {
        cluster.brokers.clear();
        sleep(away).await;
        cluster.brokers.push(broker(&cluster.registry, 0));
        let back = Instant::now();
        cluster.producer.send(message("x")).await.unwrap();
        times.push(back.elapsed());
    }
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    figure(format_args!(
        "a broker away {} times, up to a minute: used p50 {median:?}, max {longest:?} after",
        times.len()
    ));
    assert!(longest <= Duration::from_secs(1), "{longest:?}");
    assert!(median >= Duration::from_millis(50), "it is not tried without pause: {median:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_of_all_brokers_costs_bounded_memory_cpu_and_logs() {
    if let Some(role) = Role::get() {
        return measured(role).await;
    }
    let _alone = alone().await;
    let mut brokers = Vec::new();
    for id in 0..2 {
        brokers.push(Broker::builder().id(id).topic("t", 4).start().await.unwrap());
    }
    let addrs: Vec<_> = brokers.iter().map(|broker| broker.addr().clone()).collect();
    let name = "outage::outage_of_all_brokers_costs_bounded_memory_cpu_and_logs";
    let mut process = Measured::start(name, &addrs);
    process.says("is ready", PATIENCE).await;
    for broker in brokers {
        broker.shut_down().await.unwrap();
    }
    process.order("they are down").await;
    process.says("it was long enough", PATIENCE + 3 * outage()).await;
    let mut again = Vec::new();
    for (id, addr) in (0..).zip(&addrs) {
        again.push(Broker::builder().id(id).port(addr.port()).topic("t", 4).start().await.unwrap());
    }
    process.order("they are back").await;
    assert!(process.end(PATIENCE).await.success());
    let stored: usize = again.iter().map(|broker| broker.messages("t").len()).sum();
    assert!(stored > 0, "what waited was stored");
}

/// The work of the process whose producer is measured.
async fn measured(mut role: Role) {
    let lines = Lines::default();
    tracing_subscriber::fmt().with_writer(lines.clone()).without_time().with_ansi(false).init();
    let topic = Topic::new("t").unwrap();
    let view = (0..).zip(&role.brokers).fold(TopicView::new(topic.clone()), |view, (id, broker)| {
        view.with_broker(BrokerId(id), broker.parse().unwrap(), 4)
    });
    let brokers = role.brokers.len();
    let mut config = ProducerConfig::default();
    config.max_in_flight_bytes = LIMIT;
    let producer =
        Producer::builder().discovery(StaticDiscovery::new([view])).config(config).build().unwrap();
    producer.publish_topic(&topic).await.unwrap();
    // What sending takes by itself is there by now, its code too.
    for _ in 0..1_000 {
        producer.send(Message::new(topic.clone(), "x")).await.unwrap();
    }
    let before = usage::memory_kib();
    let mut offering = Offering::new(&producer);
    offering.run(&topic, Duration::from_millis(500)).await;
    role.say(format_args!("is ready"));
    role.order().await;
    let gone = async {
        while !producer.partitions(&topic).is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    producer.flush().await;

    // What offering itself costs: to a topic that isn't published, so that each message is refused at once.
    let cost = offering.run(&Topic::new("nowhere").unwrap(), outage() / 2).await;
    let idle = Cost::of(outage() / 2, async { sleep(outage() / 2).await }).await;
    usage::forget_peak();
    offering.most_unacknowledged = 0;
    let with_outage = offering.run(&topic, outage()).await;
    let grown = usage::peak_memory_kib().saturating_sub(before);
    let account = offering.most_unacknowledged;
    let used = with_outage.share - cost.share;

    role.say(format_args!("it was long enough"));
    offering.run_until(&topic, role.order()).await;
    let back_at = Instant::now();
    offering.acknowledged = 0;
    offering.run_until_acknowledged(&topic).await;
    let recovery = back_at.elapsed();
    let all_back = async {
        while producer.partitions(&topic).len() < 4 * brokers {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, all_back).await.unwrap();
    let complete = back_at.elapsed();
    producer.close(PATIENCE).await;

    let lines = lines.take();
    #[expect(clippy::print_stdout, reason = "a test shows what it counts")]
    lines.iter().for_each(|line| println!("{line}"));
    let build = if cfg!(debug_assertions) { "an unoptimised build" } else { "a release build" };
    figure(format_args!(
        "all brokers down for {:?} at 10,000 messages of 16 KiB/s, {build}: {} of {} KiB unacknowledged, memory +{grown} KiB; \
         {:.2} % of a core beside the offering, which alone takes {:.2} %, and {:.2} % with nothing offered; {} lines of log; \
         the first message stored {recovery:?} after they were back, all brokers used after {complete:?}",
        outage(),
        account / 1024,
        LIMIT / 1024,
        100.0 * used,
        100.0 * cost.share,
        100.0 * idle.share,
        lines.len(),
    ));
    assert!(account > LIMIT / 5 && account <= LIMIT / 4, "as many wait as may, a quarter: {account}");
    assert!(grown * 1024 <= LIMIT as u64 * in_form(110, 105) / 100, "{grown} KiB");
    // In a short time it counts that the memory is touched for the first time.
    // An unoptimised build on a busy machine takes longer for the offering as well.
    let most = if cfg!(debug_assertions) { (3.0 * cost.share).max(0.4) } else { in_form(0.06, 0.02) };
    assert!(used <= most, "{used} of {most}");
    // Of each broker: that it was connected, was lost, can't be reached, is used no more, is connected again,
    // is used again, and was let go of. In the short form a machine that is too busy may have one stall.
    assert!(lines.len() <= in_form(3, 1) * (7 * brokers + 2), "{} lines", lines.len());
    let unreachable = lines.iter().filter(|line| line.contains("unreachable")).count();
    assert!(unreachable <= brokers, "it is tried on in silence: {unreachable}");
    // In the short form other work has the machine, too.
    assert!(recovery <= in_form(Duration::from_secs(5), Duration::from_secs(1)), "{recovery:?}");
}

/// The share of a core that something took.
struct Cost {
    share: f64,
}

impl Cost {
    async fn of(time: Duration, what: impl Future<Output = ()>) -> Self {
        let before = usage::cpu_time();
        what.await;
        Self { share: (usage::cpu_time() - before).as_secs_f64() / time.as_secs_f64() }
    }
}

/// Offers messages at a steady rate, whatever becomes of them.
struct Offering {
    producer: Producer,
    /// In the order in which they were accepted, in which they also run out of time.
    handles: VecDeque<SendHandle>,
    acknowledged: u64,
    most_unacknowledged: usize,
}

impl Offering {
    fn new(producer: &Producer) -> Self {
        Self { producer: producer.clone(), handles: VecDeque::new(), acknowledged: 0, most_unacknowledged: 0 }
    }

    async fn run(&mut self, topic: &Topic, time: Duration) -> Cost {
        Cost::of(time, async { self.run_until(topic, sleep(time)).await }).await
    }

    async fn run_until<T>(&mut self, topic: &Topic, end: impl Future<Output = T>) -> T {
        let (mut ticks, mut end) = (ticks(), std::pin::pin!(end));
        loop {
            tokio::select! {
                biased;
                ended = &mut end => return ended,
                _ = ticks.tick() => self.offer(topic).await,
            }
        }
    }

    async fn run_until_acknowledged(&mut self, topic: &Topic) {
        let mut ticks = ticks();
        while self.acknowledged == 0 {
            ticks.tick().await;
            self.offer(topic).await;
        }
    }

    async fn offer(&mut self, topic: &Topic) {
        for _ in 0..AT_A_TIME {
            // What has ended is let go of first: an error holds its message, which is the producer's no more.
            self.take_ended();
            let message = Message::new(topic.clone(), vec![b'x'; PAYLOAD]);
            // One that there is no capacity for now is offered no longer.
            if let Some(Ok(handle)) = self.producer.enqueue(message).now_or_never() {
                self.handles.push_back(handle);
            }
        }
        let stats = self.producer.stats().await;
        self.most_unacknowledged = self.most_unacknowledged.max(stats.unacknowledged_bytes);
    }

    fn take_ended(&mut self) {
        while let Some(outcome) = self.handles.front_mut().and_then(|handle| handle.now_or_never()) {
            self.handles.pop_front();
            match outcome {
                Ok(_) => self.acknowledged += 1,
                Err(error) => assert_ne!(error.outcome(), Outcome::Rejected, "{error}"),
            }
        }
    }
}

/// All ticks come, late ones at once.
fn ticks() -> Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}
