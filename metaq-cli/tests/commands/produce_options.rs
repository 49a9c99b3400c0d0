//! The options of `metaq produce` that say when, where and how messages are sent, and how results look.

use std::time::{Duration, Instant};

use metaq_testkit::{Broker, Fault, Requests};
use serde_json::json;

use crate::common::{Metaq, wait_until};

#[tokio::test]
async fn a_partition_is_the_one_that_is_named() {
    let broker = Broker::builder().id(3).topic("t", 4).start().await.unwrap();
    let addr = broker.addr().to_string();
    let args = ["produce", "-b", &addr, "-t", "t", "-p", "3-2"];
    let finished = Metaq::start(&args).finish(&b"x\n".repeat(9)).await;
    assert!(finished.json().iter().all(|line| line["partition"] == json!("3-2")), "{}", finished.stdout);
    for (value, said) in [("3", "such as 0-1"), ("-1--1", "such as 0-1"), ("a-b", "such as 0-1")] {
        let args = ["produce", "-b", &addr, "-t", "t", &format!("--partition={value}")];
        let finished = Metaq::start(&args).finish(b"x\n").await;
        assert!(finished.status == 2 && finished.stderr.contains(said), "{value}: {}", finished.stderr);
    }
    let finished = Metaq::start(&["produce", "-b", &addr, "-t", "t", "-p", "7-0", "--timeout", "1s"]);
    let finished = finished.finish(b"x\n").await;
    assert_eq!(finished.status, 3, "no broker has it: {}", finished.stdout);
    assert!(!finished.stdout.contains("-1--1"), "{}", finished.stdout);
}

#[tokio::test]
async fn keys_and_selectors_choose_partitions() {
    let broker = Broker::builder().topic("t", 8).start().await.unwrap();
    let addr = broker.addr().to_string();
    let used = async |args: &[&str]| {
        let args = [&["produce", "-b", &addr, "-t", "t"], args].concat();
        let finished = Metaq::start(&args).finish(&b"x\n".repeat(64)).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{args:?}");
        let lines = finished.json();
        let used: std::collections::BTreeSet<_> =
            lines.iter().map(|line| line["partition"].to_string()).collect();
        used.len()
    };
    assert_eq!(used(&[]).await, 8);
    assert_eq!(used(&["-k", "k"]).await, 1);
    for selector in ["key-hash", "rendezvous"] {
        assert_eq!(used(&["-k", "k", "--selector", selector]).await, 1);
    }
    assert_eq!(used(&["--selector", "round-robin"]).await, 8);
    assert!(used(&["--selector", "random"]).await > 1);
    assert!(used(&["--selector", "sticky"]).await >= 1 && used(&["--selector", "latency"]).await >= 1);
}

#[tokio::test]
async fn ordered_lines_are_stored_in_order() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    broker.faults().plan(Requests::puts().only(3), Fault::refuse(403, "closed"));
    let input: String = (0..200).map(|n| format!("{n}\n")).collect();
    let args = ["produce", "-b", &addr, "-t", "t", "--ordered", "--timeout", "20s"];
    assert_eq!(Metaq::start(&args).finish(input.as_bytes()).await.status, 0);
    let payloads: Vec<_> = broker.messages("t").into_iter().map(|stored| stored.payload).collect();
    assert!(payloads == input.lines().collect::<Vec<_>>(), "{payloads:?}");
}

#[tokio::test]
async fn a_rate_takes_its_time() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let started = Instant::now();
    let args = ["produce", "-b", &addr, "-t", "t", "--rate", "100"];
    assert_eq!(Metaq::start(&args).finish(&b"x\n".repeat(51)).await.status, 0);
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(490), "{took:?}");
}

#[tokio::test]
async fn waiting_reads_nothing_until_the_broker_is_there() {
    let addr = metaq_testkit::unused_addr().unwrap();
    let cluster = format!("meta://{addr}");
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"1\n2\n").unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let start = |args: &[&str]| {
        let mut metaq = std::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
        metaq.args(["produce", "-b", &cluster, "-t", "t"]).args(args).stdin(file.try_clone().unwrap());
        metaq.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        crate::common::Running::start(&mut metaq)
    };
    // Without it the start fails at the timeout of a message, and nothing was read.
    let output = start(&["--timeout", "300ms"]).output().await;
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(std::io::Seek::stream_position(&mut file.try_clone().unwrap()).unwrap(), 0);
    let output = start(&["--wait", "300ms"]).output().await;
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("within 300ms"));

    let metaq = start(&["--wait", "60s"]);
    let broker = Broker::builder().port(addr.port()).topic("t", 1).start().await.unwrap();
    let output = metaq.output().await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(broker.messages("t").len(), 2);
}

#[tokio::test]
async fn waiting_lasts_until_a_file_names_the_topic() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    let cluster = format!("file:{}", path.display());
    let mut metaq = Metaq::start(&["produce", "-b", &cluster, "-t", "t", "--wait", "60s"]);
    let text = |topic: &str| {
        format!("[brokers]\n{0} = \"{1}\"\n[topics.{topic}]\n{0} = 1\n", broker.id(), broker.addr())
    };
    std::fs::write(&path, text("other")).unwrap();
    metaq.write(b"1\n").await;
    std::fs::write(&path, text("t")).unwrap();
    wait_until(|| broker.messages("t").len() == 1).await;
    assert_eq!(metaq.finish(b"").await.status, 0);
}

#[tokio::test]
async fn an_unknown_topic_names_those_there_are() {
    let broker = Broker::builder().topic("orders", 1).topic("any*", 1).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    let text = format!("[brokers]\n{0} = \"{1}\"\n[topics.orders]\n{0} = 1\n", broker.id(), broker.addr());
    std::fs::write(&path, text).unwrap();
    let cluster = format!("file:{}", path.display());
    let finished = Metaq::start(&["produce", "-b", &cluster, "-t", "any-thing"]).finish(b"1\n").await;
    assert_eq!((finished.status, &*finished.stdout), (4, ""));
    let said = "; the registry has orders. Where brokers take any topic, by [topic=*], name one of those with --default-topic\n";
    assert!(finished.stderr.ends_with(said), "{}", finished.stderr);
    let args = ["produce", "-b", &cluster, "-t", "any-thing", "--default-topic", "orders"];
    let finished = Metaq::start(&args).finish(b"1\n").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(broker.messages("any-thing").len(), 1);
    let finished = Metaq::start(&["produce", "-b", &cluster, "-t", "a/b"]).finish(b"1\n").await;
    assert!(finished.status == 2 && finished.stderr.contains("has a /"), "{}", finished.stderr);
}

#[tokio::test]
async fn an_unusable_entry_of_the_registry_is_reported() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    let text = format!("[brokers]\n{0} = \"{1}\"\n[topics.t]\n{0} = 1\n77 = 2\n", broker.id(), broker.addr());
    std::fs::write(&path, text).unwrap();
    let cluster = format!("file:{}", path.display());
    let finished = Metaq::start(&["produce", "-b", &cluster, "-t", "t"]).finish(b"1\n").await;
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    assert!(
        finished.stderr.starts_with("metaq: an entry of the registry is not used: "),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("77") && finished.stderr.lines().count() == 1, "{}", finished.stderr);
    let finished = Metaq::start(&["produce", "-b", "file:/tmp", "-t", "t"]).finish(b"1\n").await;
    assert!(finished.status == 2 && finished.stderr.contains("/tmp is a directory"), "{}", finished.stderr);
}

#[tokio::test]
async fn results_have_three_forms() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let run = async |args: &[&str]| {
        broker.faults().plan(Requests::puts().only(2), Fault::refuse(500, "a\tb"));
        let args = [&["produce", "-b", &addr, "-t", "t", "--in-flight", "1"], args].concat();
        Metaq::start(&args).finish(b"1\n2\n3\n").await
    };
    let finished = run(&["--output", "plain"]).await;
    assert_eq!(finished.status, 7);
    let words: Vec<Vec<_>> = finished.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(words[0][..3], ["1", "stored", &format!("{}-0", broker.id())]);
    assert_eq!(words[1][..3], ["2", "rejected", "rejected"]);
    assert!(words[1].len() == 4 && words[1][3].contains("a b"), "{words:?}");
    let finished = run(&["--output", "human"]).await;
    assert!(
        finished.stdout.starts_with("3 messages: 2 acknowledged, 1 rejected, 0 unknown, 0 not sent in "),
        "{}",
        finished.stdout
    );
    assert!(finished.stderr.starts_with("metaq: line 2 (rejected): "), "{}", finished.stderr);
    let finished = run(&["--output", "human", "-q"]).await;
    assert_eq!((finished.status, &*finished.stdout, finished.stderr.lines().count()), (7, "", 1));
}
