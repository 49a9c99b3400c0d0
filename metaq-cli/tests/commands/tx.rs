//! `metaq tx` as a process, against embedded brokers and a real cluster.

use std::time::Duration;

use metaq_protocol::TransactionAction;
use metaq_testkit::{
    Broker, Fault, Requests,
    peers::{JavaBroker, Peers, ZooKeeper},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{Finished, Metaq, broker, wait_until};

async fn run(broker: &Broker, args: &[&str], input: &[u8]) -> Finished {
    let cluster = broker.addr().to_string();
    let mut all = vec!["tx", "--cluster", &cluster, "--topic", "t"];
    all.extend(args);
    Metaq::start(&all).finish(input).await
}

fn payloads(broker: &Broker) -> Vec<String> {
    let messages = broker.messages("t").into_iter();
    let mut payloads: Vec<_> =
        messages.map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect();
    payloads.sort_unstable();
    payloads
}

/// Returns the last line, which has the result of the transaction.
fn end(finished: &Finished) -> Value {
    finished.json().pop().unwrap()
}

#[tokio::test]
async fn the_timeout_is_60s_by_default_and_may_be_never() {
    let broker = broker().await;
    let finished = run(&broker, &["--commit", "--timeout", "never"], b"one").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(payloads(&broker), ["one"]);
    let finished = run(&broker, &["--commit", "--timeout", "sometimes"], b"two").await;
    assert_eq!(finished.status, 2);
    assert!(finished.stderr.contains("--timeout"), "{}", finished.stderr);
    let finished = run(&broker, &["--help"], b"").await;
    assert!(finished.stdout.contains("[default: 60s]"), "{}", finished.stdout);
}

#[tokio::test]
async fn the_timeout_must_be_whole_seconds_that_fit_32_bits() {
    let tx = ["tx", "--cluster", "meta://h:1", "--topic", "t", "--commit", "--timeout"];
    for (timeout, said) in [
        ("1500ms", "must be a whole number of seconds"),
        ("10ns", "must be a whole number of seconds"),
        ("0s", "must be greater than zero"),
        ("2147483648s", "must be at most 2147483647s"),
    ] {
        let finished = Metaq::start(&[&tx[..], &[timeout]].concat()).finish(b"").await;
        assert_eq!(finished.status, 2, "{timeout}");
        assert!(finished.stderr.contains(said), "{timeout}: {}", finished.stderr);
    }
    // Beyond the default limit of brokers, which can be configured.
    let broker = broker().await;
    let finished = run(&broker, &["--commit", "--timeout", "61s"], b"one").await;
    assert_eq!((finished.status, payloads(&broker)), (0, vec!["one".to_owned()]));
}

#[tokio::test]
async fn all_lines_are_committed_or_rolled_back_as_asked() {
    let broker = broker().await;
    let finished = run(&broker, &["--rollback"], b"never\nnever\n").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!((&end(&finished)["outcome"], finished.json().len()), (&json!("rolled-back"), 3));
    assert_eq!(payloads(&broker), [""; 0]);

    let args = ["--commit", "--timeout", "30s", "--attribute", "tag"];
    let finished = run(&broker, &args, b"one\n\nthree").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let lines = finished.json();
    for (line, number) in lines[..3].iter().zip(1..) {
        assert_eq!((&line["line"], &line["offset"]), (&json!(number), &json!(-1)), "B-10");
        assert!(line["partition"].as_str().unwrap().starts_with("0-"), "{line}");
        line["id"].as_str().unwrap().parse::<i64>().unwrap();
    }
    let last = end(&finished);
    assert_eq!(
        (&last["outcome"], &last["messages"], &last["error"]),
        (&json!("committed"), &json!(3), &Value::Null)
    );
    assert!(last["transaction"].as_str().unwrap().starts_with("TX:"), "{last}");
    assert_eq!(payloads(&broker), ["", "one", "three"]);
    assert!(broker.messages("t").iter().all(|stored| stored.attribute.as_deref() == Some("tag")));

    let finished = run(&broker, &["--commit"], b"").await;
    assert_eq!(
        (finished.status, end(&finished)),
        (0, json!({"transaction": null, "outcome": "committed", "messages": 0}))
    );
}

#[tokio::test]
async fn a_line_that_is_refused_rolls_everything_back() {
    let broker = broker().await;
    let refused = || broker.faults().plan(Requests::puts().only(2), Fault::refuse(500, "full"));
    refused();
    let finished = run(&broker, &["--commit"], b"1\n2\n3\n").await;
    assert_eq!(finished.status, 7);
    let lines = finished.json();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[1]["error"]["kind"], json!("rejected"));
    assert_eq!((&lines[2]["line"], &lines[2]["error"]["outcome"]), (&json!(3), &json!("not-sent")));
    assert_eq!((&lines[3]["outcome"], &lines[3]["messages"]), (&json!("rolled-back"), &json!(1)));
    assert_eq!(lines[3]["error"]["message"], json!("line 2 was not accepted"));
    refused();
    let finished = run(&broker, &["--rollback"], b"1\n2\n3\n").await;
    assert_eq!((finished.status, &end(&finished)["outcome"]), (0, &json!("rolled-back")), "as asked");
    let mut input = b"small\n".to_vec();
    input.extend(vec![b'x'; 1_048_557]);
    let finished = run(&broker, &["--commit"], &input).await;
    assert_eq!((finished.status, finished.json()[1]["error"]["outcome"].clone()), (3, json!("not-sent")));
    assert_eq!(payloads(&broker), [""; 0]);
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown() {
    for (fault, is_stored) in [(Fault::Close, false), (Fault::Cut(2), true)] {
        let broker = broker().await;
        broker.faults().plan(Requests::transactions(Some(TransactionAction::CommitOnePhase)), fault);
        let finished = run(&broker, &["--commit"], b"1\n2\n").await;
        assert_eq!(finished.status, 6);
        let last = end(&finished);
        assert_eq!(
            (&last["outcome"], &last["error"]["kind"]),
            (&json!("unknown"), &json!("connection-lost")),
            "K-48"
        );
        assert!(last["error"]["message"].as_str().unwrap().contains("may or may not be committed"), "{last}");
        assert_eq!(broker.messages("t").len(), if is_stored { 2 } else { 0 });
    }
}

#[tokio::test]
async fn a_signal_or_a_closed_stdout_rolls_back() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let args = ["tx", "--cluster", &cluster, "--topic", "t", "--commit"];
    let mut metaq = Metaq::start(&args);
    metaq.write(b"one\n").await;
    assert!(metaq.next_line().await.contains("\"line\":1"));
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    assert_eq!(finished.status, 130);
    assert_eq!(end(&finished)["outcome"], json!("rolled-back"));

    let mut metaq = Metaq::start(&args);
    metaq.write(b"one\n").await;
    metaq.next_line().await;
    metaq.close_stdout();
    metaq.write(b"two\n").await;
    assert_eq!(metaq.wait().await.status, 141);

    // A killed program leaves nothing behind either (B-18).
    let mut metaq = Metaq::start(&args);
    metaq.write(b"one\n").await;
    metaq.next_line().await;
    drop(metaq);
    wait_until(|| broker.open_connections() == 0).await;
    assert_eq!(payloads(&broker), [""; 0]);
}

#[tokio::test]
async fn either_commit_or_rollback_is_required() {
    let cluster = ["tx", "--cluster", "meta://h:1", "--topic", "t"];
    for (args, said) in [(&[][..], "--commit"), (&["--commit", "--rollback"], "cannot be used with")] {
        let finished = Metaq::start(&[&cluster, args].concat()).finish(b"").await;
        assert!(finished.status == 2 && finished.stderr.contains(said), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn a_real_cluster_stores_committed_and_not_killed_transactions() {
    let Some(peers) = Peers::get("a_real_cluster_stores_committed_and_not_killed_transactions") else {
        return;
    };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let _broker = JavaBroker::builder(0).topic("t", 2).start(&peers, &zookeeper).await.unwrap();
    let cluster = format!("zk://{}", zookeeper.connect_string());
    let args = |end| ["tx", "--cluster", &cluster, "--topic", "t", end];
    let mut killed = Metaq::start(&args("--commit"));
    killed.write(b"killed\n").await;
    assert!(killed.next_line().await.contains("\"line\":1"));
    drop(killed);
    let finished = Metaq::start(&args("--rollback")).finish(b"rolled back\n").await;
    assert_eq!(
        (finished.status, &end(&finished)["outcome"]),
        (0, &json!("rolled-back")),
        "{}",
        finished.stderr
    );
    let finished = Metaq::start(&args("--commit")).finish("eins\nдва\n三\n".as_bytes()).await;
    assert_eq!(
        (finished.status, &end(&finished)["outcome"]),
        (0, &json!("committed")),
        "{}",
        finished.stderr
    );
    let read = peers.read_topic(&zookeeper, "t", 3, Duration::from_secs(60)).await.unwrap();
    let mut read: Vec<_> =
        read.into_iter().map(|message| String::from_utf8(message.payload).unwrap()).collect();
    read.sort_unstable();
    assert_eq!(read, ["eins", "два", "三"]);
}

/// Runs a transaction of two lines in its own process, and returns its name.
async fn one_of_a_pair(cluster: &str, end: &str, pair: usize) -> String {
    let finished = Metaq::start(&["tx", "--cluster", cluster, "--topic", "t", end])
        .finish(format!("{end} {pair} first\n{end} {pair} second\n").as_bytes())
        .await;
    assert_eq!(finished.status, 0, "{} {}", finished.stdout, finished.stderr);
    let last = self::end(&finished);
    let expected = if end == "--commit" { "committed" } else { "rolled-back" };
    assert_eq!(last["outcome"], json!(expected), "{last}");
    last["transaction"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_processes_store_exactly_what_they_commit() {
    const PAIRS: usize = 200;
    let Some(peers) = Peers::get("concurrent_processes_store_exactly_what_they_commit") else {
        return;
    };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("t", 2).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (_first, _second) = (first.unwrap(), second.unwrap());
    let cluster = format!("zk://{}", zookeeper.connect_string());
    // Four pairs, so eight processes, at a time.
    let at_a_time = std::sync::Arc::new(tokio::sync::Semaphore::new(4));
    let pairs = (0..PAIRS).map(|pair| {
        let (cluster, at_a_time) = (cluster.clone(), std::sync::Arc::clone(&at_a_time));
        tokio::spawn(async move {
            let _permit = at_a_time.acquire().await.unwrap();
            let commit = one_of_a_pair(&cluster, "--commit", pair);
            let rollback = one_of_a_pair(&cluster, "--rollback", pair);
            tokio::join!(commit, rollback)
        })
    });
    let mut names = std::collections::BTreeSet::new();
    for pair in pairs.collect::<Vec<_>>() {
        let (commit, rollback) = pair.await.unwrap();
        names.extend([commit, rollback]);
    }
    assert_eq!(names.len(), 2 * PAIRS, "names are unique");
    let mut expected: Vec<_> = (0..PAIRS)
        .flat_map(|pair| ["first", "second"].map(|line| format!("--commit {pair} {line}")))
        .collect();
    expected.sort_unstable();
    let read = peers.read_topic(&zookeeper, "t", expected.len(), Duration::from_secs(120)).await.unwrap();
    let mut read: Vec<_> =
        read.into_iter().map(|message| String::from_utf8(message.payload).unwrap()).collect();
    read.sort_unstable();
    assert_eq!(read, expected);
}
