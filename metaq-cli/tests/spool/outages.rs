//! Brokers that are away at the start, or in the middle.

use std::collections::BTreeSet;

use metaq_testkit::{Broker, Fault, Requests};
use serde_json::Value;

use crate::{
    common::{Metaq, line_numbers, restart, wait_until},
    form::{Registry, Reported, counts, fill, messages, nowhere, produce, reported, stored},
};

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[tokio::test]
async fn lines_are_spooled_without_a_registry_and_replayed_later() {
    let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("made/spool");
    let cluster = registry.cluster();
    let mut metaq = Metaq::start(&produce(&cluster, &path, &["-a", "tag"]));
    metaq.write(b"1\n2\n3\n").await;
    let mut lines: Vec<Value> = Vec::new();
    for _ in 0..3 {
        lines.push(parse(&metaq.next_line().await));
    }
    assert_eq!((counts(&lines), line_numbers(&lines)), ([0, 3, 0, 0], vec![1, 2, 3]));
    let broker = Broker::builder().topic("t", 2).start().await.unwrap();
    registry.add(&broker, 2);
    for _ in 0..3 {
        let line = parse(&metaq.next_line().await);
        assert_eq!(reported(&line), Reported::Replayed);
        assert!(line["id"].as_str().unwrap().parse::<i64>().is_ok(), "{line}");
        lines.push(line);
    }
    let ids = |lines: &[Value]| lines.iter().map(|line| line["spooled"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!(ids(&lines[..3]), ids(&lines[3..]));
    let finished = metaq.finish(b"4\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (0, [1, 0, 0, 0]), "{}", finished.stderr);
    let said = "metaq: messages are spooled until they can be sent: ";
    assert!(finished.stderr.starts_with(said), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert_eq!(stored(&broker).into_values().collect::<Vec<_>>(), [1; 4]);
    assert!(broker.messages("t").iter().all(|stored| stored.attribute.as_deref() == Some("tag")));
}

#[tokio::test]
async fn what_a_folder_holds_is_replayed_beside_live_lines() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(500)).await;
    let broker = Broker::builder().topic("t", 2).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let finished = Metaq::start(&produce(&cluster, folder.path(), &["--drain", "60s"]));
    let finished = finished.finish(b"a\nb\n").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(counts(&finished.json()), [2, 0, 0, 500]);
    let stored = stored(&broker);
    assert!(stored.len() == 502 && stored.values().all(|count| *count == 1), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_dies_and_returns_costs_no_line() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut broker = Broker::builder().topic("t", 2).data_dir(data.path()).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let args = produce(&cluster, folder.path(), &["--drain", "60s", "--spool-fsync", "never"]);
    let mut metaq = Metaq::start(&args);
    let (mut lines, mut number) = (Vec::new(), 0);
    for phase in 0..3 {
        for _ in 0..300 {
            metaq.write(format!("{number}\n").as_bytes()).await;
            number += 1;
        }
        // Nothing is in flight when the broker dies.
        while line_numbers(&lines).len() < number {
            lines.push(parse(&metaq.next_line().await));
        }
        match phase {
            0 => broker = restart_later(broker, &mut metaq, &mut lines, &mut number).await,
            1 => broker = restart(broker).await,
            _ => {}
        }
    }
    let finished = metaq.finish(b"").await;
    lines.extend(finished.json());
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    assert_eq!(line_numbers(&lines), (1..=number as u64).collect::<Vec<_>>());
    let [live, spooled, failed, replayed] = counts(&lines);
    assert!(failed == 0 && spooled > 0 && live > 0 && replayed == spooled, "{:?}", counts(&lines));
    let stored = stored(&broker);
    assert!(stored.len() == number && stored.values().all(|count| *count == 1), "{}", stored.len());
}

/// Writes lines while the broker is away, and starts it again when all are spooled.
async fn restart_later(
    broker: Broker,
    metaq: &mut Metaq,
    lines: &mut Vec<Value>,
    number: &mut usize,
) -> Broker {
    let builder = broker.kill().await;
    for _ in 0..200 {
        metaq.write(format!("{number}\n").as_bytes()).await;
        *number += 1;
    }
    while line_numbers(lines).len() < *number {
        lines.push(parse(&metaq.next_line().await));
    }
    let mut attempts = 100;
    loop {
        match builder.clone().start().await {
            Ok(broker) => return broker,
            Err(error) if attempts > 0 => {
                assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
                attempts -= 1;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn order_survives_an_outage() {
    let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
    let cluster = registry.cluster();
    let args =
        produce(&cluster, folder.path(), &["--ordered", "-k", "key", "--drain", "60s", "--timeout", "20s"]);
    let mut metaq = Metaq::start(&args);
    let input = |from: usize, to: usize| (from..to).map(|n| format!("{n:04}\n")).collect::<String>();
    metaq.write(input(0, 200).as_bytes()).await;
    let mut lines = vec![parse(&metaq.next_line().await)];
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    broker.faults().plan(Requests::puts().only(50), Fault::refuse(503, "busy"));
    registry.add(&broker, 1);
    // The first ones are replayed by then, and others may still be spooled.
    wait_until(|| !broker.messages("t").is_empty()).await;
    let finished = metaq.finish(input(200, 400).as_bytes()).await;
    lines.extend(finished.json());
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    let payloads: Vec<_> = broker.messages("t").into_iter().map(|stored| stored.payload).collect();
    assert_eq!(payloads, input(0, 400).lines().collect::<Vec<_>>());
    let [live, spooled, failed, replayed] = counts(&lines);
    assert_eq!((live + spooled, failed, replayed), (400, 0, spooled));
}

#[tokio::test]
async fn keys_and_partitions_are_kept_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, path) = (nowhere(), folder.path());
    let input =
        b"{\"data\":\"a\",\"key\":\"k\"}\n{\"data_b64\":\"/w==\",\"key_b64\":\"/w==\",\"attribute\":\"x\"}\n\
                  {\"data\":\"b\",\"partition\":\"0-1\"}\n{\"data\":\"c\",\"key\":\"k\"}\n";
    let finished = Metaq::start(&produce(&cluster, path, &["--json-lines"])).finish(input).await;
    assert_eq!((finished.status, counts(&finished.json())), (0, [0, 4, 0, 0]), "{}", finished.stdout);
    let finished = Metaq::start(&produce(&cluster, path, &["-p", "0-5", "-a", "y"])).finish(b"d\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (0, [0, 1, 0, 0]), "{}", finished.stdout);
    let broker = Broker::builder().id(0).topic("t", 8).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let finished = Metaq::start(&produce(&cluster, path, &["--drain", "60s"])).finish(b"").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let stored = broker.messages("t");
    let find = |payload: &[u8]| stored.iter().find(|stored| stored.payload == payload).unwrap();
    assert_eq!(find(b"a").partition, find(b"c").partition);
    assert_eq!((find(b"b").partition.index, find(b"d").partition.index, stored.len()), (1, 5, 5));
    assert_eq!(find(b"d").attribute.as_deref(), Some("y"));
    assert_eq!(find(b"\xff").attribute.as_deref(), Some("x"));
}
