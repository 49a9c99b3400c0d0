//! The options of `metaq produce --spool`, the forms of its results, and its bounds.

use std::{fs, process::Command};

use metaq_testkit::{Broker, Fault, Requests};
use serde_json::json;

use crate::{
    common::{Finished, Metaq, broker, json_lines},
    form::{counts, fill, messages, nowhere, produce, spool, text},
};

#[tokio::test]
async fn what_makes_no_sense_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let path = text(folder.path());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for (args, said) in [
        (&["--drain", "1s"][..], "--spool"),
        (&["--spool-fsync", "each"], "--spool"),
        (&["--spool", path, "--dry-run"], "cannot be used with"),
        (&["--spool", path, "--drain", "1"], "expected a duration with a unit"),
        (
            &["--spool", path, "--spool-fsync", "often"],
            "--spool-fsync: spool.fsync is \"often\", but it has to be each",
        ),
        (&["--spool", path, "--spool-fsync", "interval=0s"], "such as 10ms"),
        (&["--spool", path, "-X", "spool.max_bytes=0"], "such as 64MiB"),
        (&["--spool", path, "-X", "spool.when_full=wait"], "it has to be refuse or drop-oldest"),
        (&["--spool", path, "-X", "spool.bytes=1"], "there is no setting spool.bytes; there are "),
        (&["-X", "spool.max_age=1h"], "option -X: spool.max_age is of use with --spool only"),
    ] {
        let args = [&["produce", "-b", "meta://127.0.0.1:1", "-t", "t"], args].concat();
        let finished = Metaq::start(&args).finish(b"x\n").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{args:?}: {}", finished.stderr);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is made");
    let args = produce("meta://127.0.0.1:1", &file, &[]);
    let finished = Metaq::start(&args).finish(b"x\n").await;
    assert_eq!((finished.status, &*finished.stdout), (8, ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("making the folder failed"), "{}", finished.stderr);
    // A file of brokers that is malformed is no outage.
    let brokers = folder.path().join("brokers.toml");
    fs::write(&brokers, "[brokers\n").unwrap();
    let cluster = format!("file:{}", brokers.display());
    let spool = folder.path().join("spool");
    let finished = Metaq::start(&produce(&cluster, &spool, &[])).finish(b"x\n").await;
    assert_eq!((finished.status, &*finished.stdout), (2, ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("is malformed"), "{}", finished.stderr);
}

#[tokio::test]
async fn results_of_a_spool_have_three_forms() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = nowhere();
    let run = async |args: &[&str]| -> Finished {
        Metaq::start(&produce(&cluster, folder.path(), args)).finish(b"1\n2\n").await
    };
    let finished = run(&["--output", "plain"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "1\tspooled\t0\n2\tspooled\t1\n"));
    assert!(finished.stderr.ends_with("holds 2 messages\n"), "{}", finished.stderr);
    let finished = run(&["--output", "human"]).await;
    let lines: Vec<_> = finished.stdout.lines().collect();
    assert!(lines[0].starts_with("2 messages: 0 acknowledged, 2 spooled in "), "{}", finished.stdout);
    let path = text(folder.path());
    let account = format!("spool {path}: 2 spooled, 0 replayed, 0 set aside; 4 left in the folder");
    assert_eq!((finished.status, lines[1], lines.len()), (0, &*account, 2));
    let finished = run(&["-q"]).await;
    let spooled = [json!({"line": 1, "spooled": "4"}), json!({"line": 2, "spooled": "5"})];
    assert_eq!((finished.status, finished.json()), (0, spooled.to_vec()));
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);

    let broker = broker().await;
    broker.faults().plan(Requests::puts().only(1), Fault::refuse(400, "malformed"));
    let cluster = broker.addr().to_string();
    let args = ["--drain", "60s", "--output", "human", "-X", "retry.max_attempts=1"];
    let finished = Metaq::start(&produce(&cluster, folder.path(), &args)).finish(b"").await;
    assert_eq!(finished.status, 0, "no line has failed: {}", finished.stderr);
    assert!(finished.stderr.contains(" was set aside: "), "{}", finished.stderr);
    let account = format!(
        "spool {path}: 0 spooled, 5 replayed, 1 set aside; 1 left in the folder, 1 of them set aside\n"
    );
    assert!(finished.stdout.ends_with(&account), "{}", finished.stdout);
}

#[tokio::test]
async fn a_full_spool_refuses_or_drops_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = nowhere();
    let rejects = folder.path().join("rejects");
    let path = folder.path().join("refuses");
    let args = ["-X", "spool.max_messages=2", "--in-flight", "1", "--rejects", text(&rejects)];
    let finished = Metaq::start(&produce(&cluster, &path, &args)).finish(b"1\n2\n3\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (3, [0, 2, 1, 0]));
    let error = &finished.json()[2]["error"];
    assert_eq!((&error["kind"], &error["outcome"]), (&json!("spool-full"), &json!("not-sent")));
    assert!(error["message"].as_str().unwrap().contains("max_messages, which is 2"), "{error}");
    assert!(finished.stderr.contains("metaq: the spool is full\n"), "{}", finished.stderr);
    assert_eq!(fs::read(&rejects).unwrap(), b"3\n");

    let path = folder.path().join("drops");
    let args = ["-X", "spool.max_messages=2", "-X", "spool.when_full=drop-oldest", "--in-flight", "1"];
    let finished = Metaq::start(&produce(&cluster, &path, &args)).finish(b"1\n2\n3\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (0, [0, 3, 0, 0]));
    assert!(
        finished.stderr.contains("metaq: 1 messages of t were dropped: the spool is full"),
        "{}",
        finished.stderr
    );
    let shown = spool(&["show", text(&path), "--format", "raw"]).await.stdout;
    assert_eq!(shown, "2\n3\n");
}

#[tokio::test]
async fn a_message_that_no_broker_takes_is_not_spooled() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = nowhere();
    let args = produce(&cluster, folder.path(), &["--max-message-size", "4"]);
    let finished = Metaq::start(&args).finish(b"12345\n1234\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (3, [0, 1, 1, 0]));
    let lines = finished.json();
    let failed = lines.iter().find(|line| line["line"] == 1).unwrap();
    assert_eq!(failed["error"]["kind"], json!("too-large"));
    let args = produce(&cluster, folder.path(), &["--json-lines", "--on-error", "stop", "--in-flight", "1"]);
    let finished = Metaq::start(&args).finish(b"{\"data\":\"a\"}\nx\n{\"data\":\"b\"}\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (3, [0, 1, 2, 0]));
}

#[tokio::test]
async fn a_refused_line_is_spooled_as_the_settings_say() {
    let broker = broker().await;
    broker.faults().plan(Requests::puts(), Fault::refuse(500, "disk"));
    let (folder, cluster) = (tempfile::tempdir().unwrap(), broker.addr().to_string());
    let finished = Metaq::start(&produce(&cluster, folder.path(), &[])).finish(b"x\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (7, [0, 0, 1, 0]));
    let settings = folder.path().join("settings.toml");
    fs::write(&settings, "[spool]\nspool_server_errors = true\n").unwrap();
    let args = produce(&cluster, folder.path(), &["--config", text(&settings)]);
    let finished = Metaq::start(&args).finish(b"x\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (0, [0, 1, 0, 0]));
    broker.faults().heal();
    broker.faults().plan(Requests::puts(), Fault::refuse(403, "closed"));
    let finished = Metaq::start(&produce(&cluster, folder.path(), &[])).finish(b"y\n").await;
    assert_eq!((finished.status, counts(&finished.json())), (0, [0, 1, 0, 0]));
}

#[tokio::test]
async fn settings_of_a_spool_have_places_and_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(["config", "show", "--origin", "--output", "plain", "-X", "spool.max_age=2h"]);
    metaq.env("METAQ_SPOOL_FSYNC", "interval").env("HOME", folder.path()).env_remove("XDG_CONFIG_HOME");
    let output = metaq.output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for line in [
        "spool.fsync\tinterval=10ms\tenvironment METAQ_SPOOL_FSYNC\n",
        "spool.max_age\t2h\toption -X\n",
        "spool.max_messages\t10000000\tdefault\n",
        "spool.when_full\trefuse\tdefault\n",
    ] {
        assert!(shown.contains(line), "{line:?}: {shown}");
    }
}

#[tokio::test]
async fn a_closed_stdout_counts_replayed_messages_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    fill(folder.path(), messages(50_000)).await;
    let cluster = broker.addr().to_string();
    let mut metaq = Metaq::start(&produce(&cluster, folder.path(), &[]));
    let line = metaq.next_line().await;
    assert_eq!(json_lines(line.as_bytes()).len(), 1);
    metaq.close_stdout();
    let finished = metaq.wait().await;
    assert_eq!(finished.status, 141, "{}", finished.stderr);
    assert!(finished.stderr.contains("results of spooled messages"), "{}", finished.stderr);
    // What was not replayed is still there.
    let listed = spool(&["ls", text(folder.path()), "--json"]).await.json();
    let held = listed.first().map_or(0, |line| line["messages"].as_u64().unwrap());
    assert_eq!(held + broker.messages("t").len() as u64, 50_000);
}
