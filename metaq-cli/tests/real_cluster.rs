//! The main use: `metaq produce` finds real brokers through a real ZooKeeper, they store its lines, and a
//! real Java client reads them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use common::Metaq;
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};

type Payload = (Vec<u8>, Option<String>);

/// Joins the lines of one run of the command.
fn input(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect()
}

#[tokio::test]
async fn ten_thousand_lines_come_back_byte_for_byte() {
    let Some(peers) = Peers::get("ten_thousand_lines_come_back_byte_for_byte") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let (first, second) = tokio::join!(
        JavaBroker::builder(0).topic("orders", 4).start(&peers, &zookeeper),
        JavaBroker::builder(1).topic("orders", 2).start(&peers, &zookeeper),
    );
    let (_first, _second) = (first.unwrap(), second.unwrap());
    let cluster = format!("zk://{}", zookeeper.connect_string());

    let plain: Vec<_> = (0..8999_u32)
        .map(|n| match n % 3 {
            0 => format!("order {n}").into_bytes(),
            1 => format!("заказ №{n} 订单 🦀").into_bytes(),
            _ => Vec::new(),
        })
        .chain([vec![b'x'; 1_000_000]])
        .collect();
    let tagged: Vec<_> = (0..1000_u32).map(|n| format!("tagged {n}").into_bytes()).collect();
    let mut sent: Vec<Payload> = plain.iter().map(|line| (line.clone(), None)).collect();
    sent.extend(tagged.iter().map(|line| (line.clone(), Some("ключ=значение".to_owned()))));

    let mut per_partition = BTreeMap::<String, usize>::new();
    for (lines, attribute) in [(&plain, None), (&tagged, Some("ключ=значение"))] {
        let mut args = vec!["produce", "--cluster", &cluster, "--topic", "orders"];
        args.extend(attribute.iter().flat_map(|attribute| ["--attribute", attribute]));
        let started = Instant::now();
        let finished = Metaq::start(&args).finish(&input(lines)).await;
        println!("{} lines in {:?}", lines.len(), started.elapsed());
        assert_eq!((finished.status, finished.stderr.as_str()), (0, ""));
        let results = finished.json();
        assert_eq!(results.len(), lines.len());
        let mut numbers: Vec<_> = results.iter().map(|result| result["line"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());
        for result in results {
            *per_partition.entry(result["partition"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert_eq!(per_partition.keys().collect::<Vec<_>>(), ["0-0", "0-1", "0-2", "0-3", "1-0", "1-1"]);
    assert!(per_partition.values().all(|count| (1600..=1734).contains(count)), "{per_partition:?}");

    let read = peers.read_topic(&zookeeper, "orders", sent.len(), Duration::from_secs(60)).await.unwrap();
    let mut read: Vec<Payload> =
        read.into_iter().map(|message| (message.payload, message.attribute)).collect();
    read.sort_unstable();
    sent.sort_unstable();
    assert_eq!(read.len(), sent.len(), "no more and no less");
    assert!(read == sent, "every payload and attribute comes back as it was sent");
}

#[tokio::test]
async fn an_unknown_topic_gives_one_line_that_names_it() {
    let Some(peers) = Peers::get("an_unknown_topic_gives_one_line_that_names_it") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let cluster = format!("zk://{}", zookeeper.connect_string());
    let started = Instant::now();
    let finished =
        Metaq::start(&["produce", "--cluster", &cluster, "--topic", "nosuch"]).finish(b"x\n").await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!((finished.status, finished.stdout.as_str()), (4, ""));
    assert_eq!(
        finished.stderr,
        "metaq: can't send: topic nosuch can't be published: no broker offers it (waited 1s); no broker is registered \
         below the root /meta; check the root, and that brokers run\n"
    );
}

#[tokio::test]
async fn dev_brokers_make_a_cluster_in_a_real_zookeeper() {
    let Some(peers) = Peers::get("dev_brokers_make_a_cluster_in_a_real_zookeeper") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let cluster = format!("zk://{}/dev", zookeeper.connect_string());
    let mut brokers = Vec::new();
    for id in ["0", "1"] {
        let args = ["dev-broker", "--topic", "orders:2", "--id", id, "--register", &cluster];
        let mut broker = Metaq::start(&args);
        assert!(broker.next_line().await.starts_with("meta://127.0.0.1:"));
        brokers.push(broker);
    }
    let produce = ["produce", "--cluster", &cluster, "--topic", "orders"];
    let finished = Metaq::start(&produce).finish(&b"an order\n".repeat(40)).await;
    let used: BTreeMap<_, _> =
        finished.json().iter().map(|line| (line["partition"].to_string(), ())).collect();
    assert_eq!(used.into_keys().collect::<Vec<_>>(), [r#""0-0""#, r#""0-1""#, r#""1-0""#, r#""1-1""#]);

    // A broker that has exited leaves no entries behind.
    for broker in brokers {
        broker.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(broker.wait().await.status, 0);
    }
    assert!(zookeeper.ephemerals().await.is_empty());
}
