//! `metaq verify` while a real Java broker is killed again and again.
//!
//! With METAQ_RELIABILITY=full it is killed ten times, else three times.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::Metaq;
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};

/// The time for which messages are sent, for each kill. The registration of the killed broker has to expire,
/// and starting one takes some seconds.
const TIME_OF_KILL: Duration = Duration::from_secs(12);

#[tokio::test]
async fn killed_java_broker_loses_and_doubles_nothing() {
    let Some(peers) = Peers::get("killed_java_broker_loses_and_doubles_nothing") else { return };
    let is_full = std::env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full");
    let kills = if is_full { 10 } else { 3 };
    let session = Duration::from_secs(1);
    let zookeeper = ZooKeeper::builder().session_timeouts(session, session * 60).start(&peers).await.unwrap();
    let builder = JavaBroker::builder(0).topic("drill", 2).session_timeout(session);
    let mut broker = builder.start(&peers, &zookeeper).await.unwrap();
    let cluster = format!("zk://{}", zookeeper.connect_string());
    let during = format!("{}s", (TIME_OF_KILL * kills).as_secs());
    let args = ["verify", "drill", "--json", "--rate", "300", "--during", &during, "--cluster", &cluster];
    let mut metaq = Metaq::start(&args);
    let (mut killed, mut stored) = (0, 0);
    while killed < kills && metaq.is_running() {
        stored = more_is_stored(&cluster, stored).await;
        broker.kill().await.unwrap();
        killed += 1;
        start_again(&mut broker, &zookeeper).await;
    }
    let finished = metaq.wait().await;
    assert_eq!(killed, kills, "the run ended before the last kill: {}", finished.stdout);
    assert_eq!(finished.status, 0, "{} {}", finished.stdout, finished.stderr);
    let result = &finished.json()[0];
    let count = |key: &str| result[key].as_u64().unwrap();
    assert_eq!(
        count("sent"),
        count("acknowledged") + count("not_sent") + count("rejected") + count("unknown")
    );
    assert_eq!(count("found"), count("acknowledged") + count("unknown_stored"), "{result}");
    assert!(count("acknowledged") > 100 * u64::from(kills), "{result}");
    println!("{kills} kills: {result}");
}

/// Starts the broker, as a supervisor does: a Java broker that gets a message while it registers its topics
/// registers them twice, and gives up.
async fn start_again(broker: &mut JavaBroker, zookeeper: &ZooKeeper) {
    let mut attempts = 3;
    while let Err(error) = broker.restart(zookeeper).await {
        attempts -= 1;
        assert!(attempts > 0, "{error}");
    }
}

/// Waits until more than `stored` bytes are stored; returns how many are.
async fn more_is_stored(cluster: &str, stored: i64) -> i64 {
    let growth = async {
        loop {
            let args = ["partitions", "drill", "--offsets", "--json", "--cluster", cluster];
            let finished = Metaq::start(&args).finish(b"").await;
            let ends = finished.json().iter().map(|line| line["end"].as_i64().unwrap_or(0)).sum();
            if ends > stored {
                return ends;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), growth).await.expect("messages are stored")
}
