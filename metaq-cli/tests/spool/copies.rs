//! Messages that are exported and sent again, and commands that are killed or compete for a folder.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Command, Stdio},
    time::Duration,
};

use metaq_producer::{Message, Partition};
use metaq_testkit::Broker;

use crate::{
    common::{Metaq, Running, wait_until},
    form::{fill, messages, nowhere, produce, spool, stored, text, topic},
};

#[tokio::test]
async fn what_is_exported_and_produced_again_is_the_same() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let payloads: [&[u8]; 8] = [
        b"",
        b"plain",
        b"\xff\xfe\0",
        b"a\nb\r\n",
        "\u{feff}\u{2028}\u{1f600}".as_bytes(),
        b"\"\\\0\x1b",
        b"{}",
        b" ",
    ];
    let all = payloads.iter().enumerate().flat_map(|(n, payload)| {
        let plain = Message::new(topic(), payload.to_vec());
        let placed = plain.clone().with_partition(Partition::new(0, n as i32 % 4));
        [
            plain.clone(),
            plain.clone().with_key(payload).with_attribute(""),
            plain.with_key("").with_attribute("\u{1b}\u{0}ü\t"),
            placed.clone().with_key([0xff, 0]),
            placed.with_attribute("a b"),
        ]
    });
    fill(first.path(), all).await;
    let exported = spool(&["export", text(first.path())]).await;
    assert_eq!((exported.status, exported.stdout.lines().count()), (0, 40), "{}", exported.stderr);
    let away = nowhere();
    let again = Metaq::start(&produce(&away, second.path(), &["--json-lines"]));
    let again = again.finish(exported.stdout.as_bytes()).await;
    assert_eq!(again.status, 0, "{}", again.stdout);
    assert_eq!(spool(&["export", text(second.path())]).await.stdout, exported.stdout);
    // A broker gets the same from both.
    let mut sent = Vec::new();
    for folder in [&first, &second] {
        let broker = Broker::builder().id(0).topic("t", 4).start().await.unwrap();
        let cluster = broker.addr().to_string();
        let finished = spool(&["replay", text(folder.path()), "-b", &cluster, "--ordered"]).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""));
        let stored = broker.messages("t");
        assert_eq!(stored.len(), 40);
        // Those without a key take turns.
        let keyed = stored.iter().filter(|it| it.attribute.is_some());
        let mut keyed: Vec<_> =
            keyed.map(|it| format!("{} {:?} {:?}", it.partition, it.attribute, it.payload)).collect();
        keyed.sort();
        sent.push(keyed);
    }
    assert_eq!(sent[0].len(), 24);
    assert_eq!(sent[0], sent[1]);
}

/// The payloads of a folder, in the order of `show`.
async fn payloads(folder: &std::path::Path) -> Vec<usize> {
    let finished = spool(&["show", text(folder), "--format", "raw"]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    finished.stdout.lines().map(|line| line.parse().unwrap()).collect()
}

fn run(args: &[&str], results: &std::path::Path) -> Running {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    let results = File::create(results).unwrap();
    Running::start(metaq.args(args).stdin(Stdio::null()).stdout(results).stderr(Stdio::null()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_drop_has_removed_whole_portions_from_the_front() {
    const COUNT: usize = 12_000;
    let (folder, results) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fill(folder.path(), messages(COUNT)).await;
    let all = payloads(folder.path()).await;
    let mut left = all.len();
    for _ in 0..6 {
        let mut metaq = run(&["spool", "drop", text(folder.path()), "--all", "--yes"], results.path());
        // At any moment.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(1_000..60_000))).await;
        metaq.kill().unwrap();
        metaq.wait().unwrap();
        let now = payloads(folder.path()).await;
        assert!(now.len() <= left && now.len() % 1000 == 0, "{} of {left}", now.len());
        assert!(all.ends_with(&now), "{} of {left} are others", now.len());
        left = now.len();
    }
    let finished = spool(&["drop", text(folder.path()), "--all", "--yes", "--output", "plain"]).await;
    assert_eq!((finished.status, finished.stdout), (0, format!("{left}\t0\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_replay_loses_nothing_and_repeats_little() {
    const COUNT: usize = 20_000;
    const WINDOW: usize = 32;
    const RUNS: usize = 6;
    let (folder, results) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fill(folder.path(), messages(COUNT)).await;
    let broker = Broker::builder().topic("t", 4).start().await.unwrap();
    let (cluster, window) = (broker.addr().to_string(), format!("spool.replay_window={WINDOW}"));
    let replay = ["spool", "replay", text(folder.path()), "-b", &cluster, "-X", &window];
    for _ in 0..RUNS {
        let mut metaq = run(&replay, results.path());
        let enough = fastrand::u64(1..300_000);
        let len = || fs::metadata(results.path()).unwrap().len();
        wait_until(|| len() > enough || metaq.try_wait().unwrap().is_some()).await;
        // It may be done.
        let _ = metaq.kill();
        metaq.wait().unwrap();
        let exported = spool(&["export", text(folder.path())]).await;
        assert_eq!((exported.status, &*exported.stderr), (0, ""));
        let left: BTreeSet<_> =
            exported.json().iter().map(|line| line["data"].as_str().unwrap().to_owned()).collect();
        let stored = stored(&broker);
        let is_there = |n: usize| left.contains(&n.to_string()) || stored.contains_key(&n.to_string());
        let lost: Vec<_> = (0..COUNT).filter(|n| !is_there(*n)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
    let finished = spool(&replay[1..]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let stored = stored(&broker);
    let twice: usize = stored.values().map(|count| count - 1).sum();
    assert!(stored.len() == COUNT && twice <= RUNS * WINDOW, "{} {twice}", stored.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_compete_for_a_folder_each_drop_their_own() {
    const COUNT: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(COUNT)).await;
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let path = text(folder.path()).to_owned();
            tokio::spawn(async move {
                let ids: Vec<_> = (task..COUNT).step_by(4).map(|id| id.to_string()).collect();
                let ids: Vec<_> = ids.iter().map(String::as_str).collect();
                let args = [&["drop", &path, "--yes", "--output", "plain"], &ids[..]].concat();
                loop {
                    let finished = spool(&args).await;
                    if finished.status == 0 {
                        return finished.stdout;
                    }
                    assert_eq!((finished.status, &*finished.stdout), (2, ""), "{}", finished.stderr);
                    assert!(finished.stderr.contains("one process can at a time"), "{}", finished.stderr);
                }
            })
        })
        .collect();
    let mut left = BTreeSet::new();
    for task in tasks {
        left.insert(task.await.unwrap());
    }
    assert_eq!(left, ["10\t0\n", "10\t10\n", "10\t20\n", "10\t30\n"].map(str::to_owned).into());
}
