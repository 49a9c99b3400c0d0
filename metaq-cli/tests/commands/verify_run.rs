//! `metaq verify`: what it reads back, what it keeps, and how it is stopped.

use std::{fs, path::Path, time::Duration};

use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{Finished, Metaq, broker, wait_until};

fn args<'a>(cluster: &'a str, more: &'a str) -> Vec<&'a str> {
    let more = more.split(' ').filter(|arg| !arg.is_empty());
    ["verify", "--cluster", cluster, "--json"].into_iter().chain(more).collect()
}

async fn verify(cluster: &str, more: &str) -> Finished {
    Metaq::start(&args(cluster, more)).finish(b"").await
}

/// Returns the result of a run that ended with this status and verdict, and lost nothing.
fn check(finished: &Finished, status: i32, verdict: &str) -> Value {
    assert_eq!(finished.status, status, "{} {}", finished.stdout, finished.stderr);
    let result = finished.json().remove(0);
    assert_eq!((&result["verdict"], &result["lost"]), (&verdict.into(), &0.into()), "{result}");
    result
}

async fn broker_with_id(id: i32) -> Broker {
    Box::pin(Broker::builder().id(id).topic("t", 1).start()).await.unwrap()
}

/// Names brokers, each with a partition of the topic `t`.
fn name_brokers(file: &Path, brokers: &[&Broker]) {
    let (mut text, mut topics) = ("[brokers]\n".to_owned(), "[topics.t]\n".to_owned());
    for broker in brokers {
        text += &format!("{} = \"{}\"\n", broker.id(), broker.addr());
        topics += &format!("{} = 1\n", broker.id());
    }
    fs::write(file, text + &topics).unwrap();
}

#[tokio::test]
async fn broker_that_comes_during_the_run_is_read_back_too() {
    let brokers = [broker_with_id(0).await, broker_with_id(1).await];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    name_brokers(&file, &[&brokers[0]]);
    let cluster = format!("file:{}", file.display());
    let metaq = Metaq::start(&args(&cluster, "t --during 1h --rate 500 --unordered"));
    wait_until(|| !brokers[0].messages("t").is_empty()).await;
    name_brokers(&file, &[&brokers[0], &brokers[1]]);
    wait_until(|| brokers[1].messages("t").len() > 20).await;
    metaq.signal(Signal::SIGINT);
    let result = check(&metaq.wait().await, 130, "ok");
    assert_eq!(result["found"], result["acknowledged"]);
}

#[tokio::test]
async fn resumed_run_keeps_to_the_partitions_of_its_start() {
    let brokers = [broker_with_id(0).await, broker_with_id(1).await];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    name_brokers(&file, &[&brokers[0]]);
    let cluster = format!("file:{}", file.display());
    let state = folder.path().join("state").display().to_string();
    let metaq = Metaq::start(&args(&cluster, &format!("t --count 300 --rate 300 --state {state}")));
    wait_until(|| brokers[0].messages("t").len() > 10).await;
    let busy = verify(&cluster, &format!("--resume {state}")).await;
    assert_eq!(busy.status, 2);
    assert!(busy.stderr.contains("another metaq verify uses the file"), "{}", busy.stderr);
    metaq.kill().await;
    name_brokers(&file, &[&brokers[0], &brokers[1]]);
    let other = verify(&brokers[0].addr().to_string(), &format!("--resume {state}")).await;
    assert_eq!((other.status, &*other.stdout), (2, ""));
    assert!(other.stderr.contains("its messages are in file:"), "{}", other.stderr);
    let result = check(&verify(&cluster, &format!("--resume {state}")).await, 0, "ok");
    assert_eq!(result["sent"], 300);
    assert!(brokers[1].messages("t").is_empty());
}

#[tokio::test]
async fn small_run_is_resumed_to_its_end() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let more = format!("t --count 400 --rate 200 --in-flight 4 --state {state}");
    let metaq = Metaq::start(&args(&cluster, &more));
    wait_until(|| broker.messages("t").len() > 20).await;
    metaq.kill().await;
    let stored = broker.messages("t").len();
    let result = check(&verify(&cluster, &format!("--resume {state}")).await, 0, "ok");
    assert_eq!(result["sent"], 400);
    let sent_later = broker.messages("t").len() - stored - 2;
    assert!(sent_later as u64 >= 400 - stored as u64 - 8, "{sent_later} after {stored}");
}

#[tokio::test]
async fn finished_run_sends_nothing_when_it_is_resumed() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let first =
        check(&verify(&cluster, &format!("t --during 300ms --rate 200 --state {state}")).await, 0, "ok");
    let stored = broker.messages("t").len();
    let again = check(&verify(&cluster, &format!("--resume {state}")).await, 0, "ok");
    assert_eq!((&again["sent"], &again["possibly_sent"]), (&first["sent"], &0.into()));
    assert_eq!(broker.messages("t").len(), stored + 2, "the ends of the partitions");
}

/// Starts a run against a broker with a folder, and waits until it has sent some messages.
async fn begun(folder: &Path, more: &str) -> (Broker, Metaq) {
    let builder = Broker::builder().topic("t", 1).data_dir(folder).max_segment_size(2000);
    let broker = Box::pin(builder.start()).await.unwrap();
    let cluster = broker.addr().to_string();
    let metaq = Metaq::start(&args(&cluster, more));
    wait_until(|| broker.messages("t").len() > 200).await;
    (broker, metaq)
}

#[tokio::test]
async fn deleted_messages_are_unverified_and_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, metaq) = begun(folder.path(), "t --during 1h --rate 1000").await;
    assert!(broker.drop_oldest_segment("t", 0).unwrap());
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    let result = check(&finished, 130, "incomplete");
    assert!(result["unverified"].as_u64().unwrap() > 5, "{result}");
    assert!(finished.stderr.contains("has nothing from offset 0 to "), "{}", finished.stderr);
}

#[tokio::test]
async fn damaged_log_is_corrupted_and_nothing_else() {
    for at in [
        // The length of the second message, its checksum, and its payload.
        148, 155, 230,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let builder = Broker::builder().topic("t", 1).data_dir(folder.path());
        let broker = Box::pin(builder.start()).await.unwrap();
        let cluster = broker.addr().to_string();
        let metaq = Metaq::start(&args(&cluster, "t --during 1h --rate 1000"));
        wait_until(|| broker.messages("t").len() > 50).await;
        damage(folder.path(), at);
        metaq.signal(Signal::SIGINT);
        let finished = metaq.wait().await;
        let result = check(&Finished { status: 9, ..finished }, 9, "wrong");
        assert_eq!((&result["corrupted"], &result["unverified"]), (&1.into(), &0.into()), "{at}: {result}");
    }
}

/// Inverts a byte of the only segment.
fn damage(folder: &Path, at: usize) {
    use std::os::unix::fs::FileExt as _;
    let mut folders = vec![folder.to_owned()];
    let mut damaged = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "meta") {
                let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, at as u64).unwrap();
                file.write_all_at(&[!byte[0]], at as u64).unwrap();
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
}

#[tokio::test]
async fn second_signal_ends_with_what_is_known() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let more = format!("t --during 1h --rate 1000 --timeout 1h --state {state}");
    let mut metaq = Metaq::start(&args(&cluster, &more));
    wait_until(|| broker.messages("t").len() > 100).await;
    broker.faults().freeze();
    let signals = async {
        while metaq.is_running() {
            metaq.signal(Signal::SIGTERM);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), signals).await.unwrap();
    let finished = metaq.wait().await;
    let result = check(&finished, 143, "incomplete");
    assert!(result["unverified"] == result["acknowledged"] && result["unverified"] != 0, "{result}");
    assert!(finished.stderr.contains(&format!("metaq verify --resume {state}\n")), "{}", finished.stderr);
}

#[tokio::test]
async fn signal_while_reading_back_leaves_an_account() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    broker.faults().plan(Requests::gets(), Fault::Ignore);
    let gets = broker.record(Requests::gets());
    let metaq = Metaq::start(&args(&cluster, "t --count 20 --timeout 1h"));
    wait_until(|| gets.count() > 0).await;
    metaq.signal(Signal::SIGINT);
    let result = check(&metaq.wait().await, 130, "incomplete");
    assert_eq!((&result["acknowledged"], &result["unverified"]), (&20.into(), &20.into()));
}

#[tokio::test]
async fn frozen_broker_leaves_the_others_their_messages() {
    let brokers = [broker_with_id(0).await, broker_with_id(1).await];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    name_brokers(&file, &[&brokers[0], &brokers[1]]);
    let cluster = format!("file:{}", file.display());
    let metaq = Metaq::start(&args(&cluster, "t --during 1h --rate 2000 --timeout 1h"));
    wait_until(|| brokers.iter().all(|broker| broker.messages("t").len() > 20)).await;
    brokers[1].faults().freeze();
    let stored = brokers[0].messages("t").len();
    wait_until(|| brokers[0].messages("t").len() > stored + 500).await;
    brokers[1].faults().thaw();
    metaq.signal(Signal::SIGINT);
    check(&metaq.wait().await, 130, "ok");
}

#[tokio::test]
async fn frozen_broker_is_verified_without_order_too() {
    let first = broker_with_id(0).await;
    let topics = ["--id", "1", "--topic", "t:1"];
    let mut second = Metaq::start(&[&["dev-broker"][..], &topics].concat());
    let addr = second.next_line().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    let text = format!("[brokers]\n0 = \"{}\"\n1 = \"{addr}\"\n[topics.t]\n0 = 1\n1 = 1\n", first.addr());
    fs::write(&file, text).unwrap();
    let cluster = format!("file:{}", file.display());
    let more = "t --during 1h --rate 1000 --unordered --timeout 700ms";
    let metaq = Metaq::start(&args(&cluster, more));
    for _ in 0..2 {
        // A process that stands still has connections all the same.
        let stored = first.messages("t").len();
        wait_until(|| first.messages("t").len() > stored + 50).await;
        second.signal(Signal::SIGSTOP);
        wait_until(|| first.messages("t").len() > stored + 1500).await;
        second.signal(Signal::SIGCONT);
    }
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    let result = check(&finished, 130, "ok");
    let count = |key: &str| result[key].as_u64().unwrap();
    assert!(count("unknown") > 0, "some were on their way when it froze: {result}");
    assert_eq!(count("found"), count("acknowledged") + count("unknown_stored"), "{result}");
    assert_eq!(count("stored_unexpectedly") + count("duplicated") + count("misplaced"), 0, "{result}");

    // One that is still frozen at the end leaves a part that is not verified, and nothing that is lost.
    let metaq = Metaq::start(&args(&cluster, &format!("{more} --settle 500ms")));
    let stored = first.messages("t").len();
    wait_until(|| first.messages("t").len() > stored + 200).await;
    second.signal(Signal::SIGSTOP);
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    let result = check(&finished, 130, "incomplete");
    let count = |key: &str| result[key].as_u64().unwrap();
    assert!(count("unverified") > 0 && count("found") > 0, "{result}");
    assert_eq!(count("found") + count("unverified"), count("acknowledged") + count("unknown_stored"));
    assert!(finished.stderr.contains("partition 1-0 can't be read back: "), "{}", finished.stderr);
    second.signal(Signal::SIGKILL);
}

#[tokio::test]
async fn state_with_a_number_that_was_never_reserved_is_refused() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let name = state.display().to_string();
    check(&verify(&cluster, &format!("t --count 3 --state {name}")).await, 0, "ok");
    let text = fs::read_to_string(&state).unwrap() + "a 9999999999 0-0 5\n";
    fs::write(&state, text).unwrap();
    let finished = verify(&cluster, &format!("--resume {name}")).await;
    assert_eq!((finished.status, &*finished.stdout), (2, ""));
    assert!(finished.stderr.contains("is malformed (\"a 9999999999 0-0 5\")"), "{}", finished.stderr);
}

#[tokio::test]
async fn timeout_of_messages_is_that_of_the_settings() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    broker.faults().plan(Requests::puts(), Fault::Ignore);
    let cluster = broker.addr().to_string();
    let finished = verify(&cluster, "t --count 1 --settle 100ms -X send_timeout=300ms").await;
    let result = finished.json().remove(0);
    assert_eq!(result["unknown"], 1, "{result}");
    // Without it, the default of --timeout would hold, which is 5 s.
    assert!(result["elapsed_s"].as_f64().unwrap() < 4.5, "{result}");
}

#[tokio::test]
async fn nothing_acknowledged_verifies_nothing() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    broker.faults().plan(Requests::puts().first(3), Fault::refuse(500, "no disk"));
    check(&verify(&broker.addr().to_string(), "t --count 3").await, 7, "nothing verified");
}

#[tokio::test]
async fn what_can_never_be_read_back_is_refused_at_the_start() {
    let broker =
        Broker::builder().topic("t", 1).topic("any*", 1).max_transfer_size(100).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let finished = verify(&cluster, "t --count 1 --size 81").await;
    assert_eq!((finished.status, &*finished.stdout), (2, ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("--size 81 could not be read back; 80 fit"), "{}", finished.stderr);
    assert!(broker.messages("t").is_empty());
    check(&verify(&cluster, "t --count 1 --size 80").await, 0, "ok");
    let produce = Metaq::start(&["produce", "--cluster", &cluster, "--topic", "anything"]);
    assert_eq!(produce.finish(b"one\n").await.status, 0);
    let finished = verify(&cluster, "anything --count 1").await;
    assert_eq!((finished.status, &*finished.stdout), (4, ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("it may take by a pattern"), "{}", finished.stderr);
}

#[tokio::test]
async fn state_that_fails_ends_the_sending_and_not_the_account() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    // The shell limits the size of files to half a kilobyte blocks.
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\"";
    let metaq = env!("CARGO_BIN_EXE_metaq");
    let more = format!("t --during 1h --rate 2000 --state {state}");
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, metaq]).args(args(&cluster, &more)).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    let finished = Finished {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    let result = check(&finished, 8, "ok");
    assert!(result["found"].as_u64().unwrap() > 50, "{result}");
    let said = format!("the state can't be written to {state}, so that the sending ends here: ");
    assert!(finished.stderr.contains(&said), "{}", finished.stderr);
}
