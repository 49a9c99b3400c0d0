//! The faults of `metaq dev-broker`, and where it listens.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{Finished, Metaq, Running};

/// Runs a broker with these options, and sends lines to it.
async fn produce(options: &[&str], lines: usize, args: &[&str]) -> Finished {
    let mut broker = Metaq::start(&[&["dev-broker", "--topic", "t:2"], options].concat());
    let addr = broker.next_line().await;
    let args = [&["produce", "-b", &addr, "-t", "t", "--timeout", "2s"], args].concat();
    let finished = Metaq::start(&args).finish(&b"x\n".repeat(lines)).await;
    broker.signal(Signal::SIGTERM);
    assert_eq!(broker.wait().await.status, 0);
    finished
}

fn outcomes(finished: &Finished, outcome: &Value) -> usize {
    finished.json().iter().filter(|line| line["error"]["outcome"] == *outcome).count()
}

#[tokio::test]
async fn faults_are_met_with_their_chance() {
    let retries = ["-X", "retry.max_attempts=1"];
    let finished = produce(&["--fault", "1/4:refuse=500", "--seed", "7"], 400, &retries).await;
    assert_eq!(finished.status, 7);
    let rejected = outcomes(&finished, &json!("rejected"));
    assert!((60..=140).contains(&rejected), "{rejected}");
    let again = produce(&["--fault", "1/4:refuse=500", "--seed", "7"], 400, &retries).await;
    assert_eq!(outcomes(&again, &json!("rejected")), rejected, "the seed repeats it");

    let finished = produce(&["--fault", "1:swallow"], 2, &retries).await;
    assert_eq!((finished.status, outcomes(&finished, &json!("unknown"))), (6, 2));
    let finished = produce(&["--fault", "1:ignore"], 2, &retries).await;
    assert_eq!(finished.status, 6);
    let finished = produce(&["--fault", "0.5:twice", "--fault", "0:close"], 20, &[]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let finished = produce(&["--fault", "1:cut"], 1, &retries).await;
    assert_eq!((finished.status, outcomes(&finished, &json!("unknown"))), (6, 1));
}

#[tokio::test]
async fn latency_delays_answers() {
    let started = Instant::now();
    let finished = produce(&["--latency", "300ms"], 3, &["--in-flight", "1"]).await;
    assert_eq!(finished.status, 0);
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_broker_listens_where_it_is_told() {
    for (options, host) in [
        (&["--listen", "127.0.0.2"][..], "meta://127.0.0.2:"),
        (&["--listen", "0.0.0.0"], "meta://127.0.0.1:"),
        (&["--listen", "::1"], "meta://[::1]:"),
        (&["--listen", "0.0.0.0", "--host", "localhost"], "meta://localhost:"),
    ] {
        let mut broker = Metaq::start(&[&["dev-broker", "--topic", "t:1"], options].concat());
        let addr = broker.next_line().await;
        assert!(addr.starts_with(host), "{options:?}: {addr}");
        let finished = Metaq::start(&["produce", "-b", &addr, "-t", "t"]).finish(b"x\n").await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{options:?}");
        drop(broker);
    }
}

#[tokio::test]
async fn faults_that_are_none_are_wrong_usage() {
    for (option, value, said) in [
        ("--fault", "close", "expected CHANCE:FAULT"),
        ("--fault", "2:close", "from 0 to 1"),
        ("--fault", "1/0:close", "from 0 to 1"),
        ("--fault", "1:explode", "explode is not a fault; there are refuse=STATUS"),
        ("--fault", "1:refuse=x", "x is not a status"),
        ("--latency", "5", "expected a duration with a unit"),
        ("--listen", "here", "invalid IP address"),
        ("--host", "a b", "is not a broker's address"),
    ] {
        let finished = Metaq::start(&["dev-broker", "--topic", "t:1", option, value]).finish(b"").await;
        assert!(finished.status == 2 && finished.stderr.contains(said), "{value}: {}", finished.stderr);
    }
}

/// Starts a broker that registers in these registries, and returns the first line of its stderr.
async fn first_words(registry: &str, more: &[&str]) -> (Running, String) {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(["dev-broker", "--topic", "t:1", "--register", registry]).args(more);
    metaq.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(&mut metaq);
    let stderr = running.stderr.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line).unwrap();
        line
    });
    (running, reading.await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_registration_waits_for_is_said_at_once() {
    // Nothing listens at the first; the second accepts connections, and is silent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("zk://{}/meta", silent.local_addr().unwrap());
    for (registry, said) in [
        ("zk://127.0.0.1:1/meta", "no server of ZooKeeper can be used: 127.0.0.1:1: Connection refused"),
        (&silent, "it has not answered yet"),
    ] {
        // The limit is longer than the test may take.
        let (mut running, line) = first_words(registry, &["--timeout", "10m"]).await;
        assert!(
            line.starts_with(&format!("metaq: waiting to be registered in {registry}: {said}")),
            "{line}"
        );
        assert!(running.try_wait().unwrap().is_none(), "it goes on");
        running.signal(Signal::SIGINT);
        assert_eq!(running.exited(Duration::from_secs(1)).await.code(), Some(130));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn registration_ends_after_its_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("zk://{}/meta", silent.local_addr().unwrap());
    for (registry, reason) in
        [("zk://127.0.0.1:1/meta", "127.0.0.1:1: Connection refused"), (&silent, "it did not answer")]
    {
        let args = ["dev-broker", "--topic", "t:1", "--register", registry, "--timeout", "700ms"];
        let finished = Metaq::start(&args).finish(b"").await;
        assert_eq!((finished.status, &*finished.stdout), (5, ""), "{}", finished.stderr);
        let last = finished.stderr.lines().last().unwrap();
        assert!(last.contains("could not be registered at 127.0.0.1:"), "{last}");
        assert!(last.contains(" within 700ms: ") && last.contains(reason), "{last}");
    }
    let finished = Metaq::start(&["dev-broker", "--topic", "t:1", "--timeout", "1s"]).finish(b"").await;
    assert!(finished.status == 2 && finished.stderr.contains("--register"), "{}", finished.stderr);
}
