//! A program that is killed at random moments. It is this binary again, started by its test: a file of its
//! own, so that nothing else runs in that process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures are of interest")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env,
    io::Write as _,
    path::Path,
    process::Stdio,
    time::Duration,
};

use metaq_producer::{
    Message, Outcome, Partition, Producer, ProducerConfig, Topic, discovery::StaticDiscovery,
};
use metaq_spool::{Fsync, OpenError, OpenErrorKind, Sent, SpoolHandle, SpoolOptions, SpoolingProducer};
use metaq_testkit::{Broker, Fault, Requests};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Names the child's folder, address, number and mode.
const CHILD: &str = "METAQ_SPOOL_TEST_CHILD";

/// The number of kills; 200 for the figures of the documentation.
const RUNS: &str = "METAQ_SPOOL_KILLS";

const PARTITIONS: u32 = 4;

/// The messages of a queue that may be sent twice after a kill.
const WINDOW: usize = 16;

fn topic() -> Topic {
    "t".parse().unwrap()
}

async fn open(folder: &Path, addr: &str, mode: &str) -> SpoolingProducer {
    let spool = try_open(folder, addr, mode).await.unwrap();
    // Without the broker it is published in the background.
    let _ = spool.publish_topic(&topic()).await;
    spool
}

async fn try_open(folder: &Path, addr: &str, mode: &str) -> Result<SpoolingProducer, OpenError> {
    let view = metaq_producer::discovery::TopicView::new(topic());
    let view = view.with_broker(metaq_producer::BrokerId(0), addr.parse().unwrap(), PARTITIONS);
    let mut config = ProducerConfig::default();
    config.send_timeout = Duration::from_millis(300);
    config.publish_timeout = Duration::from_millis(300);
    let builder = Producer::builder().discovery(StaticDiscovery::new([view])).config(config);
    let mut options = SpoolOptions::new(folder);
    options.fsync = if mode == "forced" { Fsync::Each } else { Fsync::Never };
    (options.ordered, options.replay_window) = (mode == "ordered", WINDOW);
    SpoolingProducer::open(builder.build().unwrap(), options).await
}

/// The child: sends and reports until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn child() {
    let Ok(arguments) = env::var(CHILD) else { return };
    let [folder, addr, run, mode] = arguments.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{arguments}")
    };
    let spool = open(Path::new(folder), addr, mode).await;
    let senders: Vec<_> =
        (0..PARTITIONS).map(|index| tokio::spawn(send(spool.clone(), run.to_owned(), index))).collect();
    for sender in senders {
        sender.await.unwrap();
    }
}

async fn send(spool: SpoolingProducer, run: String, index: u32) {
    let mut handles: VecDeque<(String, SpoolHandle)> = VecDeque::new();
    for n in 0_u32.. {
        let payload = format!("{index}-{run}-{n:06}");
        let partition = Partition::new(0, i32::try_from(index).unwrap());
        let message = Message::new(topic(), payload.clone()).with_partition(partition);
        handles.push_back((payload, spool.enqueue(message).await.unwrap()));
        if handles.len() < 32 {
            continue;
        }
        let (payload, handle) = handles.pop_front().unwrap();
        let word = match handle.await {
            Ok(Sent::Stored(_)) => "stored",
            Ok(_) => "spooled",
            Err(error) if error.outcome() == Outcome::Unknown => "unknown",
            Err(error) => panic!("{error}"),
        };
        // One write for each line: a kill leaves it out or complete.
        std::io::stdout().write_all(format!("{word} {payload}\n").as_bytes()).unwrap();
    }
}

fn start_child(arguments: &str) -> Child {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]).env(CHILD, arguments);
    child.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

/// Starts the child, lets it live for a moment, and returns what it has reported.
async fn run_child(arguments: &str, life: Duration) -> Vec<(String, String)> {
    let mut child = start_child(arguments);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut reported = Vec::new();
    let mut deadline = None;
    loop {
        let line = match deadline {
            None => lines.next_line().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, lines.next_line()).await {
                Ok(line) => line,
                Err(_) => {
                    // The process may have ended by itself, which the lines show.
                    let _ = child.start_kill();
                    lines.next_line().await
                }
            },
        };
        let Some(line) = line.unwrap() else { break };
        if let Some((word @ ("stored" | "spooled" | "unknown"), payload)) = line.split_once(' ')
            && payload.len() >= 10
        {
            // It lives on from its first message.
            deadline.get_or_insert_with(|| tokio::time::Instant::now() + life);
            reported.push((word.to_owned(), payload.to_owned()));
        }
    }
    let output = child.wait_with_output().await.unwrap();
    assert!(
        !output.status.success() && output.status.code().is_none(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    reported
}

async fn kill_again_and_again(mode: &str) {
    let runs = env::var(RUNS).ok().and_then(|runs| runs.parse().ok()).unwrap_or(8);
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().topic("t", PARTITIONS).start().await.unwrap();
    let addr = broker.addr().to_string();
    let (mut kept, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    let mut counts = BTreeMap::<String, usize>::new();
    for run in 0..runs {
        let faults = broker.faults();
        match run % 4 {
            0 => _ = faults.plan(Requests::puts().with_chance(0.1), Fault::refuse(503, "busy")),
            1 => faults.refuse_connections(true),
            2 => _ = faults.plan(Requests::puts().with_chance(0.002), Fault::Close),
            _ => {}
        }
        if run % 4 == 1 {
            faults.close_connections();
        }
        let life = Duration::from_millis(fastrand::u64(0..150));
        for (word, payload) in
            run_child(&format!("{} {addr} {run:04} {mode}", folder.path().display()), life).await
        {
            *counts.entry(word.clone()).or_default() += 1;
            if word == "unknown" {
                unknown.insert(payload)
            } else {
                kept.insert(payload)
            };
        }
        faults.heal();
    }
    let spool = open(folder.path(), &addr, mode).await;
    assert!(!spool.stats().was_closed);
    assert_eq!(spool.drain(Duration::from_secs(60)).await, 0, "{:#?}", spool.stats());
    let stats = spool.stats();
    spool.close(Duration::from_secs(1)).await;
    let mut stored = BTreeMap::<String, usize>::new();
    let mut first = vec![Vec::new(); PARTITIONS as usize];
    for message in broker.messages("t") {
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        let count = stored.entry(payload.clone()).or_default();
        *count += 1;
        if *count == 1 {
            first[message.partition.index as usize].push(payload);
        }
    }
    let lost: Vec<_> = kept.iter().filter(|payload| !stored.contains_key(*payload)).collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), kept.len());
    let duplicates: usize = stored.values().map(|count| count - 1).sum();
    assert!(duplicates <= runs * WINDOW * PARTITIONS as usize, "{duplicates}");
    println!(
        "{mode}: {runs} kills, {counts:?}, 0 lost, {duplicates} stored twice; the last process: {stats:?}"
    );
    assert!(counts["spooled"] > 0);
    if mode == "ordered" {
        // A message without an outcome may be stored late.
        for payloads in first {
            let known: Vec<_> = payloads.iter().filter(|payload| !unknown.contains(*payload)).collect();
            let late = known.windows(2).find(|pair| pair[1] < pair[0]);
            assert!(late.is_none(), "{late:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing() {
    kill_again_and_again("unordered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_keep_the_order() {
    kill_again_and_again("ordered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_that_is_forced_to_the_disk() {
    kill_again_and_again("forced").await;
}

/// The folder is free as soon as the process that used it is gone, whatever its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_refused_until_the_first_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().topic("t", PARTITIONS).start().await.unwrap();
    broker.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    let addr = broker.addr().to_string();
    let mut child = start_child(&format!("{} {addr} 0000 forced", folder.path().display()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("the child runs").starts_with("spooled ") {}
    let refused = try_open(folder.path(), &addr, "forced").await.unwrap_err();
    assert_eq!((refused.kind(), refused.pid()), (OpenErrorKind::InUse, child.id()));
    assert!(refused.to_string().contains(&format!("process {}", child.id().unwrap())), "{refused}");
    child.kill().await.unwrap();
    let spool = try_open(folder.path(), &addr, "forced").await.unwrap();
    let stats = spool.stats();
    assert!(!stats.was_closed && stats.recovered > 0, "{stats:#?}");
    broker.faults().heal();
    assert_eq!(spool.drain(Duration::from_secs(60)).await, 0);
    spool.close(Duration::from_secs(1)).await;
}
