//! `metaq verify` as a process: with brokers that keep their promises, and with a relay that breaks them.

use std::{fs, time::Duration};

use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{
    Finished, Metaq, broker,
    relay::{Treatment, relay},
    restart, wait_until,
};

async fn verify(cluster: &str, more: &str) -> Finished {
    Metaq::start(&args(cluster, more)).finish(b"").await
}

fn args<'a>(cluster: &'a str, more: &'a str) -> Vec<&'a str> {
    let more = more.split(' ').filter(|arg| !arg.is_empty());
    ["verify", "--cluster", cluster, "--json"].into_iter().chain(more).collect()
}

/// Parses the result, and checks that its counts fit together.
fn result(finished: &Finished) -> Value {
    let result = finished.json().remove(0);
    let count = |key: &str| result[key].as_u64().unwrap();
    let outcomes = ["acknowledged", "not_sent", "rejected", "unknown", "possibly_sent"].map(count);
    assert_eq!(count("sent"), outcomes.iter().sum::<u64>(), "{result}");
    result
}

/// Checks the counts of errors: lost, duplicated, reordered, corrupted.
fn check(finished: &Finished, status: i32, errors: [u64; 4]) -> Value {
    let result = result(finished);
    let counts = ["lost", "duplicated", "reordered", "corrupted"].map(|key| result[key].as_u64().unwrap());
    assert_eq!((finished.status, counts), (status, errors), "{result} {}", finished.stderr);
    assert_eq!(result["verdict"], if status == 0 { "ok" } else { "wrong" });
    result
}

#[tokio::test]
async fn healthy_broker_keeps_everything() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    for more in ["t --count 2000", "t --count 2000 --unordered --size 1000", "t --during 500ms --rate 400"] {
        let before = broker.messages("t").len();
        let finished = verify(&cluster, more).await;
        let result = check(&finished, 0, [0; 4]);
        assert_eq!(finished.stderr, "");
        let sent = result["sent"].as_u64().unwrap();
        assert_eq!((&result["acknowledged"], &result["found"]), (&sent.into(), &sent.into()));
        // One more ends each partition's part of the run.
        assert_eq!(broker.messages("t").len() - before, sent as usize + 2);
        if more.contains("rate") {
            assert!((50..=201).contains(&sent), "{sent} messages at 400 a second in half a second");
        } else {
            assert_eq!(sent, 2000);
        }
    }
    let finished = Metaq::start(&["verify", "t", "--count", "9", "--cluster", &cluster]).finish(b"").await;
    let lines: Vec<_> = finished.stdout.lines().collect();
    assert!(lines[0].ends_with("  ok") && lines[0].starts_with("verdict  "), "{lines:?}");
    assert_eq!((finished.status, lines.len()), (0, 15), "{lines:?}");
}

#[tokio::test]
async fn plain_result_begins_with_the_verdict() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let args = ["verify", "t", "--count", "9", "--output", "plain", "--cluster", &cluster];
    let finished = Metaq::start(&args).finish(b"").await;
    assert!(finished.stdout.starts_with("verdict\tok\nsent\t9 in "), "{}", finished.stdout);
}

#[tokio::test]
async fn each_broken_promise_is_counted() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let drops = |put| if put % 100 == 7 { Treatment::Drop } else { Treatment::Forward };
    let finished = verify(&relay(&broker, drops).await, "t --count 1000").await;
    check(&finished, 9, [10, 0, 0, 0]);
    assert!(
        finished.stderr.contains("10 lost: number 7 of 0-0 at offset 0, number 107 "),
        "{}",
        finished.stderr
    );

    let doubles = |put| if put % 100 == 7 { Treatment::Double } else { Treatment::Forward };
    let finished = verify(&relay(&broker, doubles).await, "t --count 500").await;
    check(&finished, 9, [0, 5, 0, 0]);
    assert!(finished.stderr.contains("5 duplicated: number 7 in 0-0 at offset "), "{}", finished.stderr);

    let delays = |put| if put % 100 == 7 { Treatment::Delay } else { Treatment::Forward };
    let finished = verify(&relay(&broker, delays).await, "t --count 300").await;
    let result = check(&finished, 9, [0, 0, 3, 0]);
    assert_eq!(result["misplaced"], 3, "their receipts name another place");
    assert!(finished.stderr.contains("3 reordered: number 7 behind 8 in 0-0"), "{}", finished.stderr);

    let damages = |put| if put % 100 == 7 { Treatment::Damage } else { Treatment::Forward };
    let finished = verify(&relay(&broker, damages).await, "t --count 200").await;
    check(&finished, 9, [0, 0, 0, 2]);

    let all = |put| match put {
        10 | 20 | 30 => Treatment::Drop,
        40 | 50 => Treatment::Double,
        60 => Treatment::Delay,
        70..=73 => Treatment::Damage,
        _ => Treatment::Forward,
    };
    check(&verify(&relay(&broker, all).await, "t --count 100").await, 9, [3, 2, 1, 4]);
}

#[tokio::test]
async fn copy_that_is_stored_behind_the_end_of_the_run_is_found() {
    // The message that ends the partition's part of the run is the put behind the last one.
    let treat: fn(u64) -> Treatment = |put| match put {
        3 => Treatment::Keep,
        20 => Treatment::Overtake,
        _ => Treatment::Forward,
    };
    for more in ["t --count 20", "t --count 20 --unordered"] {
        let broker = Broker::builder().topic("t", 1).start().await.unwrap();
        let finished = verify(&relay(&broker, treat).await, more).await;
        check(&finished, 9, [0, 1, 0, 0]);
        let stored = broker.messages("t");
        assert_eq!((stored.len(), &stored[21].payload), (22, &stored[3].payload), "behind the last one");
        assert!(finished.stderr.contains("1 duplicated: number 3 in 0-0 at offset "), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn unknown_messages_are_accounted_for_and_break_nothing() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let swallows = |put| if put == 3 || put == 7 { Treatment::Swallow } else { Treatment::Forward };
    let cluster = relay(&broker, swallows).await;
    let result = check(&verify(&cluster, "t --count 20 --unordered --timeout 500ms").await, 0, [0; 4]);
    assert_eq!((&result["unknown"], &result["unknown_stored"]), (&2.into(), &2.into()), "{result}");
    assert_eq!(result["acknowledged"], 18);
}

#[tokio::test]
async fn message_stored_although_refused_is_an_error() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let answer = Fault::Answer(metaq_testkit::Status(500), "no disk".to_owned());
    broker.faults().plan(Requests::puts().only(5), answer);
    let finished = verify(&broker.addr().to_string(), "t --count 10").await;
    let result = check(&finished, 9, [0; 4]);
    assert_eq!((&result["rejected"], &result["stored_unexpectedly"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn restarts_of_the_broker_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::builder().topic("t", 2).data_dir(folder.path()).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let metaq = Metaq::start(&args(&cluster, "t --during 3s --rate 500 --timeout 500ms"));
    for _ in 0..5 {
        let stored = broker.messages("t").len();
        wait_until(|| broker.messages("t").len() > stored + 20).await;
        broker = restart(broker).await;
    }
    let finished = metaq.wait().await;
    let result = check(&finished, 0, [0; 4]);
    assert!(result["acknowledged"].as_u64().unwrap() > 100, "{result}");
}

#[tokio::test]
async fn killed_run_is_resumed_from_its_state() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("drill.state").display().to_string();
    let more = format!("t --count 3000 --rate 3000 --in-flight 16 --state {state}");
    let metaq = Metaq::start(&args(&cluster, &more));
    wait_until(|| broker.messages("t").len() > 200).await;
    metaq.kill().await;
    let again = verify(&cluster, &format!("t --count 5 --state {state}")).await;
    assert_eq!((again.status, &*again.stdout), (2, ""), "{}", again.stderr);
    assert!(again.stderr.contains("resume that run with --resume"), "{}", again.stderr);

    let finished = verify(&cluster, &format!("--resume {state}")).await;
    let result = check(&finished, 0, [0; 4]);
    assert_eq!(result["sent"], 3000);
    assert!(finished.stderr.starts_with("metaq: resuming after "), "{}", finished.stderr);
    let possibly_sent = result["possibly_sent"].as_u64().unwrap();
    assert!((1..3000 - 200).contains(&possibly_sent), "those whose outcome was not written: {result}");
    assert_eq!((&result["unknown"], &result["not_sent"]), (&0.into(), &0.into()));
    // A run that has ended is compared again.
    let again = check(&verify(&cluster, &format!("--resume {state}")).await, 0, [0; 4]);
    assert_eq!(again["acknowledged"], result["acknowledged"]);
    fs::write(&state, "no state").unwrap();
    let refused = verify(&cluster, &format!("--resume {state}")).await;
    assert_eq!((refused.status, &*refused.stdout), (2, ""));
    assert!(
        refused.stderr.contains("is no file of --state, or damaged: name another file"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn signal_ends_the_sending_and_the_rest_is_verified() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let metaq = Metaq::start(&args(&cluster, "t --during 1h --rate 1000"));
    wait_until(|| broker.messages("t").len() > 100).await;
    metaq.signal(Signal::SIGINT);
    let finished = tokio::time::timeout(Duration::from_secs(30), metaq.wait()).await.unwrap();
    let result = check(&Finished { status: 0, ..finished }, 0, [0; 4]);
    assert!(result["found"].as_u64().unwrap() > 50, "{result}");
}

#[tokio::test]
async fn wrong_usage_and_unknown_topics_are_refused() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    for (more, status, said) in [
        ("", 2, "TOPIC"),
        ("none --count 1", 4, "no broker offers topic none"),
        ("t --count 0", 2, "--count"),
        ("t --rate 0", 2, "greater than zero"),
        ("t --size 10", 2, "--size"),
        ("t --resume x", 2, "cannot be used with"),
        (
            "--resume /no/such/file",
            2,
            "the run in /no/such/file can't be resumed: No such file or directory (os error 2); check the name",
        ),
        (
            "t --count 1 --state /no/such/folder/file",
            2,
            "the state can't be written to /no/such/folder/file: No such file",
        ),
    ] {
        let finished = verify(&cluster, more).await;
        assert_eq!((finished.status, &*finished.stdout), (status, ""), "{more}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{more}: {}", finished.stderr);
    }
    assert!(broker.messages("t").is_empty());
}

#[tokio::test]
async fn broker_that_refuses_everything_verifies_nothing() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    broker.faults().plan(Requests::puts(), Fault::refuse(500, "no disk"));
    let finished = verify(&broker.addr().to_string(), "t --count 3 --settle 300ms").await;
    assert_eq!(finished.status, 7, "{} {}", finished.stdout, finished.stderr);
    let result = result(&finished);
    assert_eq!((&result["verdict"], &result["rejected"]), (&"incomplete".into(), &3.into()));
    assert!(finished.stderr.contains("partition 0-0 can't be read back: "), "{}", finished.stderr);
}
