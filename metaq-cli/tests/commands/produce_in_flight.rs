//! `metaq produce` while a broker stands still: the results of the others come all the same.

use std::{collections::BTreeSet, fs, time::Duration};

use metaq_testkit::Broker;
use serde_json::Value;

use crate::common::Metaq;

/// Two brokers with a partition each, and the file that names them.
async fn cluster(folder: &tempfile::TempDir) -> ([Broker; 2], String) {
    let first = Box::pin(Broker::builder().id(0).topic("t", 1).start()).await.unwrap();
    let second = Box::pin(Broker::builder().id(1).topic("t", 1).start()).await.unwrap();
    let file = folder.path().join("brokers.toml");
    let text =
        format!("[brokers]\n0 = \"{}\"\n1 = \"{}\"\n[topics.t]\n0 = 1\n1 = 1\n", first.addr(), second.addr());
    fs::write(&file, text).unwrap();
    ([first, second], format!("file:{}", file.display()))
}

/// Reads the numbers of this many results.
async fn results(metaq: &mut Metaq, count: usize) -> BTreeSet<u64> {
    let read = async {
        let mut numbers = BTreeSet::new();
        while numbers.len() < count {
            let line: Value = serde_json::from_str(&metaq.next_line().await).unwrap();
            assert!(line["error"].is_null() && numbers.insert(line["line"].as_u64().unwrap()), "{line}");
        }
        numbers
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the results come in time")
}

/// Lines of JSON for a broker each.
fn lines(brokers: &[usize]) -> String {
    brokers.iter().map(|id| format!("{{\"data\":\"x\",\"partition\":\"{id}-0\"}}\n")).collect()
}

#[tokio::test]
async fn frozen_broker_holds_no_result_of_another_back() {
    let folder = tempfile::tempdir().unwrap();
    let (brokers, cluster) = cluster(&folder).await;
    // The first and the one in the middle are those whose outcomes are waited for.
    let mut cases: Vec<Vec<usize>> = vec![
        vec![1, 0],
        vec![1, 0, 0],
        vec![1, 1, 0],
        vec![1, 0, 1],
        vec![1, 0, 0, 0, 1, 0, 0, 0, 0],
        [vec![1; 30], vec![0], vec![1; 29]].concat(),
        [vec![0; 100], vec![1; 1], vec![0; 100]].concat(),
        (0..1000).map(|n| usize::from(n % 2 == 0 || n == 501)).collect(),
    ];
    for _ in 0..8 {
        let count = scrambled(cases.len() as u64);
        cases.push((0..count).map(|n| usize::from(scrambled(n * 7 + count).is_multiple_of(3))).collect());
    }
    // No time runs out, and the connection to the frozen broker is kept.
    let patient = ["-X", "connection.stall_after=1h", "-X", "connection.heartbeat_after=1h"];
    let args = ["produce", "-t", "t", "--cluster", &cluster, "--json-lines", "--timeout", "1h"];
    let args = [&args[..], &patient].concat();
    for case in cases {
        let mut metaq = Metaq::start(&args);
        // Connected to both.
        metaq.write(lines(&[0, 1]).as_bytes()).await;
        assert_eq!(results(&mut metaq, 2).await.len(), 2);
        brokers[1].faults().freeze();
        metaq.write(lines(&case).as_bytes()).await;
        let of = |broker| {
            let numbers = case.iter().zip(3..).filter(move |(id, _)| **id == broker);
            numbers.map(|(_, number)| number).collect::<BTreeSet<u64>>()
        };
        assert_eq!(results(&mut metaq, of(0).len()).await, of(0), "{case:?}");
        // More is sent meanwhile.
        metaq.write(lines(&[0, 0, 0]).as_bytes()).await;
        assert_eq!(results(&mut metaq, 3).await.len(), 3, "{case:?}");
        brokers[1].faults().thaw();
        assert_eq!(results(&mut metaq, of(1).len()).await, of(1), "{case:?}");
        let finished = metaq.finish(b"").await;
        assert_eq!((finished.status, &*finished.stdout, &*finished.stderr), (0, "", ""), "{case:?}");
    }
}

/// A number below 256 that follows from another one.
fn scrambled(n: u64) -> u64 {
    n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff
}

#[tokio::test]
async fn people_see_one_line_for_all_that_a_signal_left() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let human = ["produce", "-t", "t", "--cluster", &cluster, "--output", "human"];
    let mut metaq = Metaq::start(&[&human[..], &["--rate", "50"]].concat());
    metaq.write(&b"x\n".repeat(3000)).await;
    crate::common::wait_until(|| broker.messages("t").len() > 2).await;
    metaq.signal(nix::sys::signal::Signal::SIGINT);
    let finished = metaq.wait().await;
    let sent = broker.messages("t").len();
    let said = format!(
        "metaq: lines {} to 3000 (not-sent): the program was stopped before these lines were sent\n",
        sent + 1
    );
    assert_eq!((finished.status, finished.stderr), (130, said));
    let summary =
        format!("3000 messages: {sent} acknowledged, 0 rejected, 0 unknown, {} not sent ", 3000 - sent);
    assert!(finished.stdout.starts_with(&summary), "{}", finished.stdout);
}
