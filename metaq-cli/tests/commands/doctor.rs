//! `metaq doctor` as a process: each step is broken in turn.

use std::fs;

use metaq_testkit::{Broker, Fault, Requests};
use tokio::net::TcpListener;

use crate::common::{Finished, Metaq, broker};

async fn doctor(cluster: &str, more: &str) -> Finished {
    let more = more.split(' ').filter(|arg| !arg.is_empty());
    let args: Vec<_> = ["doctor", "--cluster", cluster, "--timeout", "2s"].into_iter().chain(more).collect();
    Metaq::start(&args).finish(b"").await
}

/// A file that names one broker, which has the topic `t` with two partitions.
fn cluster(addr: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    fs::write(&file, format!("[brokers]\n0 = \"{addr}\"\n[topics.t]\n0 = 2\n")).unwrap();
    let cluster = format!("file:{}", file.display());
    (folder, cluster)
}

/// Checks that exactly the last finding has failed, in this step, and with a remedy.
fn check_failed(finished: &Finished, step: u64, status: i32, said: &str) {
    assert_eq!((finished.status, &*finished.stderr), (status, ""), "{}", finished.stdout);
    let results = finished.json();
    let (last, before) = results.split_last().unwrap();
    assert!(before.iter().all(|finding| finding["ok"] == true), "{}", finished.stdout);
    assert!(before.iter().map(|finding| finding["step"].as_u64().unwrap()).is_sorted());
    assert_eq!((&last["ok"], last["step"].as_u64().unwrap()), (&false.into(), step), "{}", finished.stdout);
    assert!(last["text"].as_str().unwrap().contains(said), "{}", finished.stdout);
    assert!(!last["remedy"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn plain_findings_are_words_separated_by_tabs() {
    let away = metaq_testkit::unused_addr().unwrap();
    let (_folder, cluster) = cluster(&format!("meta://{away}"));
    let finished = doctor(&cluster, "t --output plain").await;
    assert_eq!(finished.status, 5, "{}", finished.stderr);
    let lines: Vec<Vec<_>> = finished.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert!(lines.len() > 1 && lines.iter().all(|words| words.len() == 6), "{}", finished.stdout);
    assert_eq!(lines[0][..3], ["1", "registry", "ok"]);
    let last = lines.last().unwrap();
    assert_eq!(last[..4], ["5", "port", "failed", &format!("meta://{away}")]);
    assert!(!last[5].is_empty(), "the remedy");
}

#[tokio::test]
async fn all_steps_succeed_with_a_healthy_broker() {
    let broker = broker().await;
    let (_folder, cluster) = cluster(&broker.addr().to_string());
    let finished = doctor(&cluster, "t --put").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""), "{}", finished.stdout);
    let steps: Vec<_> = finished.stdout.lines().map(|line| line.split("  ").next().unwrap()).collect();
    let expected = [
        "1 registry",
        "2 topics",
        "3 topic",
        "4 name",
        "5 port",
        "6 version",
        "7 partition ok",
        "7 partition ok",
        "8 put",
        "8 put",
    ];
    assert_eq!(steps, expected, "{}", finished.stdout);
    let stored = broker.messages("t");
    assert_eq!(stored.len(), 2, "one in each partition");
    assert!(stored.iter().all(|message| message.payload == "metaq doctor"));
    let finished = doctor(&cluster, "--json").await;
    let steps: Vec<_> = finished.json().iter().map(|finding| finding["step"].as_u64().unwrap()).collect();
    assert_eq!((finished.status, &*steps), (0, &[1, 2, 4, 5, 6][..]));
    assert_eq!(broker.messages("t").len(), 2, "nothing is stored unless asked");
}

#[tokio::test]
async fn single_broker_needs_no_registry() {
    let broker = broker().await;
    let finished = doctor(&broker.addr().to_string(), "t --put --json").await;
    let results = finished.json();
    assert_eq!(finished.status, 0, "{}", finished.stdout);
    assert!(results.iter().all(|finding| finding["ok"] == true));
    assert_eq!(results.last().unwrap()["step"], 8);
    let finished = doctor(&broker.addr().to_string(), "none --json").await;
    assert_eq!(finished.status, 4);
    assert_eq!(finished.json().last().unwrap()["step"], 3);
}

#[tokio::test]
async fn registry_that_is_away_is_step_1() {
    let away = metaq_testkit::unused_addr().unwrap();
    check_failed(&doctor(&format!("zk://{away}"), "t --json").await, 1, 5, "the registry");
    check_failed(&doctor("file:/no/such/file.toml", "--json").await, 1, 2, "/no/such/file.toml");
}

#[tokio::test]
async fn registry_without_topics_is_step_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    fs::write(&file, "[brokers]\n0 = \"meta://h:1\"\n[topics]\n").unwrap();
    check_failed(&doctor(&format!("file:{}", file.display()), "t --json").await, 2, 4, "lists no topics");
}

#[tokio::test]
async fn topic_that_nobody_offers_is_step_3() {
    let broker = broker().await;
    let (folder, cluster) = cluster(&broker.addr().to_string());
    check_failed(&doctor(&cluster, "orders --json").await, 3, 4, "there are t");
    let file = folder.path().join("brokers.toml");
    let text = format!("[brokers]\n0 = \"{}\"\n[topics.t]\n0 = 2\n[topics.gone]\n", broker.addr());
    fs::write(&file, text).unwrap();
    let gone = "registered, but none of its brokers is alive";
    check_failed(&doctor(&cluster, "gone --json").await, 3, 4, gone);
    let finished = doctor(&cluster, "orders --json").await;
    let last = finished.json().pop().unwrap();
    assert!(last["text"].as_str().unwrap().ends_with("there are t"), "{last}");
}

#[tokio::test]
async fn registry_without_brokers_is_step_2() {
    let (folder, cluster) = cluster("meta://h:1");
    fs::write(folder.path().join("brokers.toml"), "[brokers]\n[topics.t]\n").unwrap();
    let none = "none of its brokers is alive now";
    check_failed(&doctor(&cluster, "--json").await, 2, 4, none);
    check_failed(&doctor(&cluster, "orders --json").await, 2, 4, none);
    check_failed(&doctor(&cluster, "t --json").await, 3, 4, none);
}

#[tokio::test]
async fn topic_that_a_pattern_takes_is_explained() {
    let broker = Broker::builder().topic("t", 1).topic("any*", 2).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let produce = Metaq::start(&["produce", "--cluster", &cluster, "--topic", "anything"]);
    assert_eq!(produce.finish(b"one\n").await.status, 0);
    let finished = doctor(&cluster, "anything --put").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""), "{}", finished.stdout);
    assert!(finished.stdout.contains("which may take it by a pattern"), "{}", finished.stdout);
    assert!(!finished.stdout.contains("-1"), "{}", finished.stdout);
    assert_eq!(broker.messages("anything").len(), 2);
    let finished = doctor(&cluster, "t --json").await;
    let steps: Vec<_> = finished.json().iter().map(|finding| finding["step"].as_u64().unwrap()).collect();
    assert_eq!((finished.status, &*steps), (0, &[1, 3, 4, 5, 6, 7][..]), "{}", finished.stdout);
}

#[tokio::test]
async fn failures_of_any_step_are_findings() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let stats = broker.faults().plan(Requests::stats(), Fault::refuse(500, "busy"));
    let finished = doctor(&cluster, "t --json").await;
    let last = finished.json().pop().unwrap();
    assert_eq!(
        (finished.status, &*finished.stderr, &last["step"]),
        (5, "", &6.into()),
        "{}",
        finished.stdout
    );
    stats.cancel();
    let finished = doctor(&cluster, "t").await;
    assert!(finished.stdout.contains("is empty, and can be read"), "{}", finished.stdout);
}

#[tokio::test]
async fn unknown_host_is_step_4() {
    let (_folder, cluster) = cluster("meta://no-such-host.invalid:8123");
    check_failed(&doctor(&cluster, "t --json").await, 4, 5, "");
}

#[tokio::test]
async fn closed_port_is_step_5() {
    let (_folder, cluster) = cluster(&format!("meta://{}", metaq_testkit::unused_addr().unwrap()));
    check_failed(&doctor(&cluster, "t --json").await, 5, 5, "refused");
    let finished = doctor(&cluster, "t").await;
    assert!(
        finished.stdout.contains("remedy: nothing listens there: start the broker"),
        "{}",
        finished.stdout
    );
}

#[tokio::test]
async fn silent_port_is_step_6() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_folder, cluster) = cluster(&format!("meta://{}", listener.local_addr().unwrap()));
    let silent = tokio::spawn(async move {
        let mut streams = Vec::new();
        loop {
            streams.push(listener.accept().await.unwrap());
        }
    });
    check_failed(&doctor(&cluster, "t --json").await, 6, 5, "meta://127.0.0.1");
    silent.abort();
}

#[tokio::test]
async fn closed_partition_is_step_7() {
    let broker = Broker::builder().topic("t", 2).start().await.unwrap();
    let (_folder, cluster) = cluster(&broker.addr().to_string());
    assert_eq!(doctor(&cluster, "t --put").await.status, 0);
    broker.close_partition("t", 1);
    check_failed(&doctor(&cluster, "t --put --json").await, 7, 7, "has been closed");
}

#[tokio::test]
async fn refused_and_unanswered_puts_are_step_8() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let refused = broker.faults().plan(Requests::puts(), Fault::refuse(500, "no disk"));
    let finished = doctor(&cluster, "t --put --json").await;
    assert_eq!(finished.json().last().unwrap()["step"], 8);
    assert_eq!(finished.status, 7, "{}", finished.stdout);
    refused.cancel();
    broker.faults().plan(Requests::puts(), Fault::Ignore);
    let finished = doctor(&cluster, "t --put --json").await;
    assert_eq!(finished.json().last().unwrap()["step"], 8);
    assert_eq!(finished.status, 6, "{}", finished.stdout);
}
