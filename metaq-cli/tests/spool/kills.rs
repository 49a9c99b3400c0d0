//! `metaq produce --spool` that is killed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use metaq_testkit::{Broker, Fault, Requests};
use serde_json::Value;

use crate::{
    common::{Running, wait_until},
    form::{Reported, produce, reported, spool, stored, text},
};

/// The messages of a queue that may be sent twice after a kill.
const WINDOW: usize = 16;

/// The number of kills.
const RUNS: usize = 8;

/// Starts the command with a file of lines, kills it when it has written some results to a file, and
/// returns the complete ones.
async fn run(cluster: &str, folder: &Path, run: usize) -> Vec<Value> {
    let files = tempfile::tempdir().unwrap();
    let [input, results] = ["input", "results"].map(|name| files.path().join(name));
    let mut lines = File::create(&input).unwrap();
    let text: String = (1..=200_000).map(|n| format!("{run}-{n}\n")).collect();
    lines.write_all(text.as_bytes()).unwrap();
    let window = format!("spool.replay_window={WINDOW}");
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(produce(cluster, folder, &["-X", &window, "--spool-fsync", "never", "--timeout", "1s"]));
    metaq.stdin(File::open(&input).unwrap()).stdout(File::create(&results).unwrap()).stderr(Stdio::piped());
    let mut metaq = Running::start(&mut metaq);
    let enough = fastrand::u64(1..400_000);
    let len = || fs::metadata(&results).unwrap().len();
    wait_until(|| len() > enough || metaq.try_wait().unwrap().is_some()).await;
    assert!(metaq.try_wait().unwrap().is_none(), "{}", metaq.read_stderr());
    metaq.kill().unwrap();
    metaq.wait().unwrap();
    let results = fs::read_to_string(&results).unwrap();
    let complete = results.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    complete.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kills_lose_no_line_that_was_reported() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().topic("t", 4).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let mut kept = Vec::new();
    let mut counts = BTreeMap::<&str, usize>::new();
    for number in 0..RUNS {
        let faults = broker.faults();
        match number % 4 {
            0 => faults.refuse_connections(true),
            1 => _ = faults.plan(Requests::puts().with_chance(0.2), Fault::refuse(503, "busy")),
            2 => _ = faults.plan(Requests::puts().with_chance(0.01), Fault::refuse(404, "moved")),
            _ => {}
        }
        for line in run(&cluster, folder.path(), number).await {
            let (word, line) = match reported(&line) {
                Reported::Stored(line) => ("stored", Some(line)),
                Reported::Spooled(line) => ("spooled", Some(line)),
                Reported::Replayed => ("replayed", None),
                Reported::Failed(_) => ("failed", None),
            };
            *counts.entry(word).or_default() += 1;
            kept.extend(line.map(|line| format!("{number}-{line}")));
        }
        faults.heal();
        faults.refuse_connections(false);
    }
    let path = text(folder.path());
    let finished = spool(&["replay", path, "-b", &cluster, "--wait", "30s"]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""), "{counts:?}");
    let stored = stored(&broker);
    let lost: Vec<_> = kept.iter().filter(|payload| !stored.contains_key(*payload)).collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), kept.len());
    let twice: usize = stored.values().map(|count| count - 1).sum();
    let replayed = finished.json().len();
    println!("{RUNS} kills, {counts:?}, then {replayed} replayed: 0 lost, {twice} stored twice");
    // All messages are in one queue, since they name no partition.
    assert!(twice <= RUNS * WINDOW, "{twice}");
    assert!(counts["spooled"] > 0 && counts["stored"] > 0 && replayed > 0, "{counts:?}");
}
