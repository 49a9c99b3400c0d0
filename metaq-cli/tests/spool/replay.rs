//! `metaq spool replay`.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::Duration,
};

use metaq_producer::{Message, Partition};
use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    common::{Running, json_lines, wait_until},
    form::{Registry, counts, fill, fill_aside, messages, nowhere, spool, stored, text, topic},
};

#[tokio::test]
async fn everything_is_sent_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(1000)).await;
    let broker = Broker::builder().topic("t", 4).start().await.unwrap();
    let (path, cluster) = (text(folder.path()), broker.addr().to_string());
    let finished = spool(&["replay", path, "-b", &cluster]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(counts(&finished.json()), [0, 0, 0, 1000]);
    let stored = stored(&broker);
    assert!(stored.len() == 1000 && stored.values().all(|count| *count == 1));
    // An empty one needs no broker.
    drop(broker);
    let finished = spool(&["replay", path, "-b", &cluster]).await;
    assert_eq!((finished.status, &*finished.stdout, &*finished.stderr), (0, "", ""));
}

#[tokio::test]
async fn results_of_a_replay_have_three_forms() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().id(3).topic("t", 1).start().await.unwrap();
    let (path, cluster) = (text(folder.path()), broker.addr().to_string());
    let mut out = Vec::new();
    for form in ["plain", "human", "json"] {
        fill(folder.path(), messages(2)).await;
        broker.faults().plan(Requests::puts().only(2), Fault::refuse(400, "a\tb"));
        let finished = spool(&["replay", path, "-b", &cluster, "--ordered", "--output", form]).await;
        assert_eq!(finished.status, 7, "{form}: {}", finished.stderr);
        broker.faults().heal();
        out.push(finished);
    }
    let words: Vec<Vec<_>> = out[0].stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((words[0][..4].to_vec(), words[0].len()), (vec!["replayed", "0", "3-0", "0"], 5));
    assert!(words[1][..2] == ["set-aside", "1"] && words[1][2].contains("a b"), "{words:?}");
    assert_eq!(
        out[1].stdout,
        format!(
            "spool {path}: 0 spooled, 1 replayed, 1 set aside; 2 left in the folder, 2 of them set aside\n"
        )
    );
    assert!(out[1].stderr.starts_with("metaq: the spooled message 3 was set aside: "), "{}", out[1].stderr);
    assert!(out[1].stderr.contains("holds 2 messages that were set aside"), "{}", out[1].stderr);
    let lines = out[2].json();
    assert_eq!((&lines[0]["spooled"], &lines[0]["partition"]), (&json!("4"), &json!("3-0")));
    assert_eq!((&lines[1]["spooled"], &lines[1]["error"]["kind"]), (&json!("5"), &json!("set-aside")));
}

#[tokio::test]
async fn what_was_set_aside_is_sent_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    fill_aside(folder.path(), messages(1500)).await;
    let broker = Broker::builder().topic("t", 4).start().await.unwrap();
    let (path, cluster) = (text(folder.path()), broker.addr().to_string());
    let finished = spool(&["replay", path, "-b", &cluster]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, ""));
    assert!(finished.stderr.contains("holds 1500 messages that were set aside"), "{}", finished.stderr);
    let finished = spool(&["replay", path, "-b", &cluster, "--set-aside"]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!((finished.json().len(), stored(&broker).len()), (1500, 1500));
}

#[tokio::test]
async fn the_status_names_why_messages_are_left() {
    let registry = Registry::new();
    let broker = Broker::builder().id(0).topic("t", 2).topic("u", 1).start().await.unwrap();
    registry.add(&broker, 2);
    let (away, known) = (nowhere(), registry.cluster());
    let direct = broker.addr().to_string();
    let to = |name: &str| Message::new(name.parse().unwrap(), "x");
    let missing = to("t").with_partition(Partition::new(7, 0));
    for (message, cluster, fault, status, said) in [
        (to("t"), &away, None, 5, "none of its brokers could be reached"),
        (to("u"), &known, None, 4, "topic u"),
        (missing, &direct, None, 4, "7-0"),
        (to("t"), &direct, Some(Fault::refuse(403, "closed")), 7, "closed"),
        (to("t"), &direct, Some(Fault::Ignore), 6, "1 message of t"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), [message]).await;
        if let Some(fault) = fault {
            broker.faults().plan(Requests::puts(), fault);
        }
        let args = ["replay", text(folder.path()), "-b", cluster, "--timeout", "3s", "--wait", "7s"];
        let args = [&args[..], &["-X", "retry.max_attempts=1"]].concat();
        let finished = spool(&args).await;
        assert_eq!((finished.status, &*finished.stdout), (status, ""), "{cluster}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{status}: {}", finished.stderr);
        assert!(finished.stderr.contains("still holds 1 message of"), "{status}: {}", finished.stderr);
        broker.faults().heal();
    }
}

#[tokio::test]
async fn brokers_that_come_back_in_time_get_all() {
    let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
    fill(folder.path(), messages(10)).await;
    let cluster = registry.cluster();
    let path = text(folder.path()).to_owned();
    let replay =
        tokio::spawn(async move { spool(&["replay", &path, "-b", &cluster, "--wait", "60s"]).await });
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    registry.add(&broker, 1);
    let finished = replay.await.unwrap();
    assert_eq!((finished.status, finished.json().len()), (0, 10), "{}", finished.stderr);
}

#[tokio::test]
async fn a_replay_in_order_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(300)).await;
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    broker.faults().plan(Requests::puts().only(20), Fault::refuse(503, "busy"));
    let cluster = broker.addr().to_string();
    let finished = spool(&["replay", text(folder.path()), "-b", &cluster, "--ordered"]).await;
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    let payloads: Vec<_> = broker.messages("t").into_iter().map(|stored| stored.payload).collect();
    assert_eq!(payloads, (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
}

fn start(cluster: &str, folder: &std::path::Path, args: &[&str]) -> Running {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(["spool", "replay", text(folder), "-b", cluster]).args(args);
    Running::start(metaq.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_signal_ends_a_replay_and_leaves_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let placed = |n: usize| Message::new(topic(), n.to_string()).with_partition(Partition::new(0, 0));
    fill(folder.path(), (0..500).map(placed)).await;
    let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let metaq = start(&cluster, folder.path(), &["--rate", "50"]);
    wait_until(|| broker.messages("t").len() > 3).await;
    metaq.signal(Signal::SIGTERM);
    let output = metaq.output().await;
    assert_eq!(output.status.code(), Some(143));
    let stored = broker.messages("t").len();
    assert_eq!(json_lines(&output.stdout).len(), stored);
    let listed = spool(&["ls", text(folder.path()), "--json"]).await.json();
    assert_eq!(listed[0]["messages"], 500 - stored as u64);
    // The second one ends it although nothing is acknowledged.
    let silent = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let mut metaq = start(&cluster, folder.path(), &["--timeout", "60s"]);
    wait_until(|| silent.met() > 0).await;
    let exited = metaq.signal_until_exit(Signal::SIGINT, Duration::from_secs(20)).await;
    assert_eq!(exited.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stuck_reader_stops_the_replay_and_loses_no_line() {
    const COUNT: usize = 60_000;
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(COUNT)).await;
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let mut metaq = start(&broker.addr().to_string(), folder.path(), &[]);
    let mut last = 0;
    // Nothing is read until the replay has come to a stop.
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = broker.messages("t").len();
        if now == last && now > 0 {
            break;
        }
        last = now;
    }
    assert!(last < COUNT / 2, "{last} were replayed without a reader");
    let mut stdout = metaq.stdout.take().unwrap();
    let mut text = Vec::new();
    let read = tokio::task::spawn_blocking(move || {
        stdout.read_to_end(&mut text).unwrap();
        text
    });
    let lines = json_lines(&read.await.unwrap());
    assert_eq!((lines.len(), broker.messages("t").len()), (COUNT, COUNT));
    assert_eq!(metaq.exited(Duration::from_secs(20)).await.code(), Some(0));
}
