//! Real Java brokers that are killed and started again, or restarted as planned, under load.

use std::{fs, path::Path, time::Duration};

use metaq_producer::{Message, Outcome};
use metaq_testkit::peers::{JavaBroker, JavaBrokerBuilder, Peers, ZooKeeper};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    common::{alone, topic_named},
    peers::{
        Count, Times,
        account::{account, counted, reasons},
        figure, in_form, is_full,
        load::{Load, Pace, slowest},
        producer,
        registry::Registry,
    },
};

/// Enough that messages are always in flight, and little enough that JVMs can start beside it.
const PACE: Pace = Pace::PerSecond(2000);

/// A broker that is back has to be used so soon. In the short form other work has the machine, too.
fn used_again_within() -> Duration {
    in_form(Duration::from_secs(3), Duration::from_secs(1))
}

/// A broker that acknowledges what is in the system's memory, as by the shipped settings, and writes it to
/// disk later.
fn broker(id: i32, session_timeout: Duration) -> JavaBrokerBuilder {
    let broker = JavaBroker::builder(id).topic("t", 4).session_timeout(session_timeout);
    broker.setting("unflushThreshold", "10000").setting("unflushInterval", "500")
}

/// Waits until a port has a listener. Without connecting to it: such a connection may meet itself.
async fn listens(port: u16) -> Instant {
    let listening = format!(":{port:04X}");
    let is_it = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, state) = (columns.next(), columns.nth(1));
        local.is_some_and(|local| local.ends_with(&listening)) && state == Some("0A")
    };
    loop {
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        if tables.iter().flat_map(|table| table.lines()).any(is_it) {
            return Instant::now();
        }
        sleep(Duration::from_millis(2)).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    /// At once, as by a supervisor: the registry has never missed it.
    AtOnce,
    /// After its session has expired.
    AfterExpiry,
}

/// The number of times that a broker could not register a topic because its own node was there, by its log.
fn registrations_failed(broker: &JavaBroker, topic: &str) -> usize {
    let node = format!("NodeExists for /meta/brokers/topics/{topic}/");
    let log = fs::read_to_string(broker.log()).unwrap();
    // Each is followed by its cause, with the same text.
    log.lines().filter(|line| line.starts_with("org.I0Itec") && line.contains(&node)).count()
}

async fn killed_over_and_over(peers: &Peers, back: Back, times: usize) {
    let (at_once, longest) = (back == Back::AtOnce, Duration::from_secs(3600));
    let zookeeper =
        ZooKeeper::builder().session_timeouts(Duration::from_secs(1), longest).start(peers).await.unwrap();
    let session_timeout = if at_once { longest } else { Duration::from_secs(2) };
    let (stays, dies) = tokio::join!(
        broker(0, Duration::from_secs(30)).start(peers, &zookeeper),
        broker(1, session_timeout).start(peers, &zookeeper)
    );
    let (stays, mut dies) = (stays.unwrap(), dies.unwrap());
    let (topic, producer) = (topic_named("t"), producer(&zookeeper, |_| {}));
    producer.publish_topic(&topic).await.unwrap();
    let load = Load::start(&producer, &topic, PACE);
    load.reaches(&dies.addr(), Instant::now()).await;
    load.reaches(&stays.addr(), Instant::now()).await;
    let connections = stays.client_ports();
    let quiet = Instant::now();
    let time = Duration::from_secs(2);
    load.first(quiet + time, |_| true).await;
    let before = load.rate(&stays.addr(), quiet, time);

    let addr = dies.addr();
    let mut used_again = Times::default();
    let mut lowest = f64::MAX;
    for _ in 0..times {
        // Not always at the same moment after it was back.
        sleep(Duration::from_millis(fastrand::u64(0..200))).await;
        dies.kill().await.unwrap();
        let killed = Instant::now();
        let restart = async {
            match back {
                Back::AtOnce => dies.restart_at_once().await,
                Back::AfterExpiry => dies.restart(&zookeeper).await,
            }
        };
        let (restarted, listens) = tokio::join!(restart, listens(addr.port()));
        restarted.unwrap();
        lowest = lowest.min(load.rate(&stays.addr(), killed, listens - killed));
        used_again.push(load.reaches(&addr, listens).await);
    }
    assert_eq!(stays.client_ports(), connections, "nobody touched the other's connection");
    let all = load.end().await;
    counted(&producer, &all).await;
    let account = account(peers, &zookeeper, "t", &all).await;
    // While its former session lives it can't register, and may refuse its first message for that.
    let refusals = registrations_failed(&dies, "t");
    let back = if at_once { "restarted at once" } else { "restarted after its session expired" };
    figure(format_args!(
        "kill -9 ×{times}, {back}: 0 lost of {}, 0 rejected ({} registrations failed), {} unknown, of which {} are stored; first success after it listens {used_again}; \
         the other broker took {before:.0} messages a second before, and {lowest:.0} or more meanwhile; slowest {} ms",
        Count(account.acknowledged),
        refusals,
        account.unknown,
        account.stored_all_the_same,
        slowest(&all).as_millis(),
    ));
    assert_eq!(account.not_sent, 0, "there was always another broker");
    assert!(at_once || refusals == 0, "{refusals} refusals");
    assert!(!is_full() || !at_once || refusals > 0, "no refusal in {times} restarts");
    assert_eq!(account.rejected, 0, "{:?}", reasons(&all, Outcome::Rejected));
    assert!(used_again.max() <= used_again_within(), "used again after {used_again}");
    assert!(!is_full() || lowest >= 0.95 * before, "{lowest:.0} of {before:.0}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_killed_and_restarted_at_once_keeps_acknowledged() {
    let test = "broker_killed_and_restarted_at_once_keeps_acknowledged";
    let Some(peers) = Peers::get(test) else { return };
    let _alone = alone().await;
    killed_over_and_over(&peers, Back::AtOnce, in_form(3, 50)).await;
}

/// Whether any file below the folder contains the text.
fn is_in_files(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return is_in_files(&path, text);
        }
        fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_refused_by_failed_registration_are_not_stored() {
    let test = "puts_refused_by_failed_registration_are_not_stored";
    let Some(peers) = Peers::get(test) else { return };
    let _alone = alone().await;
    let (topics, times) = (in_form(3, 10), in_form(2, 12));
    let longest = Duration::from_secs(3600);
    let zookeeper =
        ZooKeeper::builder().session_timeouts(Duration::from_secs(1), longest).start(&peers).await.unwrap();
    let topics: Vec<_> = (0..topics).map(|n| topic_named(&format!("t{n}"))).collect();
    let builder = JavaBroker::builder(1).session_timeout(longest);
    let builder = topics.iter().fold(builder, |builder, topic| builder.topic(topic, 2));
    let mut broker = builder.start(&peers, &zookeeper).await.unwrap();
    // Nothing is sent again, so that each payload goes to the broker once.
    let once = producer(&zookeeper, |config| {
        config.retry.max_attempts = 1;
        config.send_timeout = Duration::from_secs(30);
    });
    let (mut refused, mut acknowledged) = (Vec::new(), Vec::new());
    for time in 0..times {
        broker.kill().await.unwrap();
        broker.restart_at_once().await.unwrap();
        for topic in &topics {
            once.publish_topic(topic).await.unwrap();
            for n in 0..6 {
                let text = format!("message {n} to {topic} after restart {time}, to the end");
                match once.send(Message::new(topic.clone(), text.clone())).await {
                    Ok(_) => acknowledged.push(text),
                    Err(error) => {
                        assert!(error.to_string().contains("NodeExists"), "{error}");
                        assert_eq!(error.outcome(), Outcome::Rejected);
                        refused.push(text);
                    }
                }
            }
        }
    }
    assert_eq!(refused.len(), topics.len() * times, "the first one to each topic each time: {refused:?}");
    // A producer as it is by default sends it again.
    let again = producer(&zookeeper, |config| config.send_timeout = Duration::from_secs(30));
    broker.kill().await.unwrap();
    broker.restart_at_once().await.unwrap();
    for topic in &topics {
        again.publish_topic(topic).await.unwrap();
        let text = format!("first message to {topic}, to the end");
        let receipt = again.send(Message::new(topic.clone(), text.clone())).await.unwrap();
        assert_eq!(receipt.attempts, 2, "refused once");
        acknowledged.push(text);
    }
    // Whatever waits to be written is.
    broker.shut_down().await.unwrap();
    let data = broker.log().with_file_name("data");
    assert!(acknowledged.iter().all(|text| is_in_files(&data, text)), "acknowledged and not stored");
    assert!(!refused.iter().any(|text| is_in_files(&data, text)), "refused and stored");
    figure(format_args!(
        "{} messages refused because the broker could not register the topic: 0 stored; {} others to it: all stored",
        refused.len(),
        acknowledged.len(),
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_killed_and_registered_anew_keeps_acknowledged() {
    let test = "broker_killed_and_registered_anew_keeps_acknowledged";
    let Some(peers) = Peers::get(test) else { return };
    let _alone = alone().await;
    killed_over_and_over(&peers, Back::AfterExpiry, in_form(1, 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_restarts_fail_nothing_but_what_was_under_way() {
    let test = "planned_restarts_fail_nothing_but_what_was_under_way";
    let Some(peers) = Peers::get(test) else { return };
    let _alone = alone().await;
    let times = in_form(2, 20);
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    let session = Duration::from_secs(6);
    let (stays, restarts) = tokio::join!(
        broker(0, session).start(&peers, &zookeeper),
        broker(1, session).start(&peers, &zookeeper)
    );
    let (stays, mut restarts) = (stays.unwrap(), restarts.unwrap());
    let (topic, producer) = (topic_named("t"), producer(&zookeeper, |_| {}));
    producer.publish_topic(&topic).await.unwrap();
    let load = Load::start(&producer, &topic, PACE);
    let addr = restarts.addr();
    load.reaches(&addr, Instant::now()).await;
    let connections = stays.client_ports();
    let mut used_again = Times::default();
    // First as an operator does who has time: its topic is withdrawn, and it is stopped when no client is
    // connected any more.
    for withdrawn in [true, false] {
        for _ in 0..times {
            sleep(Duration::from_millis(fastrand::u64(0..200))).await;
            if withdrawn {
                registry.withdraw(&topic, 1).await;
                let left = async {
                    while !restarts.client_ports().is_empty() {
                        sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(Duration::from_secs(5), left).await.expect("the producer leaves it");
            }
            // By itself it takes its nodes out, and cuts its connections in the same moment.
            restarts.shut_down().await.unwrap();
            let (restarted, listens) = tokio::join!(restarts.restart(&zookeeper), listens(addr.port()));
            restarted.unwrap();
            used_again.push(load.reaches(&addr, listens).await);
        }
        assert!(!withdrawn || load.failures() == [0; 3], "{:?}", load.failures());
    }
    assert_eq!(stays.client_ports(), connections, "nobody touched the other's connection");
    let all = load.end().await;
    counted(&producer, &all).await;
    let account = account(&peers, &zookeeper, "t", &all).await;
    figure(format_args!(
        "planned restart, topic withdrawn first ×{times}: no message failed; by SIGTERM alone ×{times}: {} unknown, of which {} are \
         stored; in both 0 lost of {}, 0 rejected, 0 not sent; first success after it listens {used_again}; slowest {} ms",
        account.unknown,
        account.stored_all_the_same,
        Count(account.acknowledged),
        slowest(&all).as_millis(),
    ));
    assert_eq!((account.rejected, account.not_sent), (0, 0), "there was always another broker");
    // What the broker had and did not answer before it cut the connection.
    let unknown = reasons(&all, Outcome::Unknown);
    assert!(unknown.keys().all(|text| text.contains("the connection was lost before")), "{unknown:?}");
    assert!(used_again.max() <= used_again_within(), "used again after {used_again}");
}
