//! What happens before the first line is read, and what a replay needs besides the topics that it sends.

use std::{
    fs,
    process::{Command, Stdio},
};

use metaq_producer::{Message, ProducerConfig};
use metaq_testkit::Broker;
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};

use crate::{
    common::{Metaq, Running, json_lines, wait_until},
    form::{Registry, counts, fill, messages, nowhere, produce, spool, stored, text},
};

/// The number of messages that a folder holds.
async fn held(folder: &std::path::Path) -> u64 {
    let listed = spool(&["ls", text(folder), "--json"]).await;
    assert_eq!(listed.status, 0, "{}", listed.stderr);
    listed.json().iter().map(|line| line["messages"].as_u64().unwrap()).sum()
}

/// Has another process send a line: a message of the first one would have been sent by then, too.
async fn send_elsewhere(cluster: &str) {
    let sent = Metaq::start(&["produce", "-b", cluster, "-t", "t"]).finish(b"elsewhere\n").await;
    assert_eq!(sent.status, 0, "{}", sent.stderr);
}

fn start(args: &[&str]) -> Running {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    Running::start(metaq.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// Returns whether a thread of the process has this name.
fn has_thread(metaq: &Running, name: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", metaq.id())).unwrap();
    tasks
        .flatten()
        .any(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_replayed_before_results_can_be_written() {
    const COUNT: u64 = 2000;
    let (folder, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(folder.path(), messages(COUNT as usize)).await;
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let (cluster, pipe) = (broker.addr().to_string(), files.path().join("pipe"));
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    // Nobody reads the pipe, and the command waits for that.
    let metaq = start(&produce(&cluster, folder.path(), &["--ack-log", text(&pipe)]));
    wait_until(|| has_thread(&metaq, "file")).await;
    send_elsewhere(&cluster).await;
    metaq.signal(Signal::SIGTERM);
    let output = metaq.output().await;
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((held(folder.path()).await, stored(&broker).len()), (COUNT, 1), "no line was written");
    // One who reads it gets a line for each.
    let metaq = start(&produce(&cluster, folder.path(), &["--ack-log", text(&pipe), "--drain", "60s"]));
    let read = tokio::task::spawn_blocking(move || fs::read(&pipe).unwrap());
    let output = metaq.output().await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(counts(&json_lines(&read.await.unwrap())), [0, 0, 0, COUNT as usize]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_replayed_while_brokers_are_waited_for() {
    const COUNT: u64 = 3;
    let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
    fill(folder.path(), messages(COUNT as usize)).await;
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    registry.add(&broker, 1);
    let cluster = registry.cluster();
    let path = text(folder.path());
    let args = ["produce", "-b", &cluster, "-t", "missing", "--spool", path, "--wait", "5m"];
    let metaq = start(&args);
    // By then it is open.
    wait_until(|| has_thread(&metaq, "metaq-spool")).await;
    wait_until(|| broker.open_connections() > 0).await;
    send_elsewhere(&cluster).await;
    metaq.signal(Signal::SIGINT);
    let output = metaq.output().await;
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let reported = json_lines(&output.stdout).len();
    assert_eq!(stored(&broker).len(), 1 + reported);
    assert_eq!(held(folder.path()).await, COUNT - reported as u64);
}

#[tokio::test]
async fn topics_that_no_broker_offers_go_to_the_default_topic() {
    let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
    // It takes every topic, and names one.
    let broker = Broker::builder().topic("*", 1).start().await.unwrap();
    registry.add(&broker, 1);
    fill(folder.path(), (0..3).map(|n| Message::new("other".parse().unwrap(), n.to_string()))).await;
    let args = ["replay", text(folder.path()), "-b", &registry.cluster(), "--default-topic", "t"];
    let finished = spool(&args).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""), "{}", finished.stdout);
    assert_eq!((counts(&finished.json()), broker.messages("other").len()), ([0, 0, 0, 3], 3));
}

#[tokio::test]
async fn what_was_small_enough_to_be_spooled_is_sent() {
    let large = ProducerConfig::default().max_message_size + 1;
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let (cluster, away) = (broker.addr().to_string(), nowhere());
    let input = format!("{}\n", "x".repeat(large));
    let spool_it = async |folder: &std::path::Path| {
        let args = produce(&away, folder, &["--max-message-size", "4MiB"]);
        let finished = Metaq::start(&args).finish(input.as_bytes()).await;
        assert_eq!((finished.status, counts(&finished.json())), (0, [0, 1, 0, 0]), "{}", finished.stderr);
    };
    let folder = tempfile::tempdir().unwrap();
    spool_it(folder.path()).await;
    let finished = spool(&["replay", text(folder.path()), "-b", &cluster]).await;
    assert_eq!((finished.status, counts(&finished.json())), (0, [0, 0, 0, 1]), "{}", finished.stdout);
    spool_it(folder.path()).await;
    // The limit is that of lines.
    let finished =
        Metaq::start(&produce(&cluster, folder.path(), &["--drain", "60s"])).finish(input.as_bytes());
    let finished = finished.await;
    assert_eq!((finished.status, counts(&finished.json())), (3, [0, 0, 1, 1]), "{}", finished.stdout);
    assert_eq!(broker.messages("t").len(), 2);
    // One that is asked for holds.
    spool_it(folder.path()).await;
    let args = ["replay", text(folder.path()), "-b", &cluster, "-X", "max_message_size=1000KiB"];
    assert_eq!(spool(&args).await.status, 7);
}

#[tokio::test]
async fn times_that_are_beyond_every_clock_are_long() {
    const LONG: &str = "500000000000y";
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(2)).await;
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let (path, cluster) = (text(folder.path()), broker.addr().to_string());
    let times = ["--wait", LONG, "--timeout", LONG];
    let send = ["produce", "-b", &cluster, "-t", "t"];
    let with_spool = ["--spool", path, "--drain", LONG];
    for (args, count) in [
        ([&["spool", "replay", path, "-b", &cluster][..], &times].concat(), 2),
        ([&send[..], &times, &with_spool].concat(), 1),
        ([&send[..], &times].concat(), 1),
    ] {
        let finished = Metaq::start(&args).finish(b"x\n").await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{args:?}");
        assert_eq!(finished.json().len(), count, "{args:?}");
    }
}

#[tokio::test]
async fn a_partition_that_there_is_nowhere_is_not_kept_for_ever() {
    let (cluster, folder) = (nowhere(), tempfile::tempdir().unwrap());
    let input = b"{\"data\":\"x\",\"partition\":\"-1--1\"}\n{\"data\":\"y\",\"partition\":\"0-1\"}\n";
    let finished = Metaq::start(&produce(&cluster, folder.path(), &["--json-lines"])).finish(input).await;
    assert_eq!((finished.status, counts(&finished.json())), (3, [0, 1, 1, 0]), "{}", finished.stdout);
    assert!(finished.stdout.contains("and not one such as"), "{}", finished.stdout);
}
