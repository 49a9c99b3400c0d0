//! `metaq spool ls`, `show`, `export` and `drop`.

use std::{fs, path::Path};

use metaq_producer::{Message, Partition};
use metaq_testkit::Broker;
use serde_json::{Value, json};

use crate::{
    common::Metaq,
    form::{fill, fill_aside, messages, spool, text, topic},
};

/// Three messages of every kind: two that wait in two queues, and one that was set aside.
async fn filled(folder: &Path) {
    fill_aside(folder, [Message::new(topic(), "bad").with_attribute("a")]).await;
    let placed = Message::new("u".parse().unwrap(), &b"\xff\x00"[..]).with_partition(Partition::new(0, 1));
    let keyed = Message::new(topic(), "one\ncoffee").with_key("k");
    fill(folder, [keyed, placed.with_key([0xff])]).await;
}

/// Removes what changes from run to run.
fn fixed(mut lines: Vec<Value>) -> Vec<Value> {
    for line in &mut lines {
        for name in ["oldest_age_s", "age_s"] {
            if let Some(age) = line.get_mut(name).filter(|age| age.is_f64()) {
                assert!(age.as_f64().unwrap() < 60.0);
                *age = json!("age");
            }
        }
    }
    lines
}

#[tokio::test]
async fn ls_has_a_line_for_each_topic_and_partition() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let path = text(folder.path());
    let finished = spool(&["ls", path, "--json"]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let lines = fixed(finished.json());
    let reason = lines[0]["reasons"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("400") && reason.contains("malformed"), "{reason}");
    assert_eq!(
        lines,
        [
            json!({"topic": "t", "partition": null, "messages": 1, "bytes": lines[0]["bytes"],
                   "oldest_age_s": "age", "set_aside": 1, "reasons": [{"reason": reason, "messages": 1}]}),
            json!({"topic": "u", "partition": "0-1", "messages": 1, "bytes": lines[1]["bytes"],
                   "oldest_age_s": "age", "set_aside": 0, "reasons": []}),
        ]
    );
    let finished = spool(&["ls", path]).await;
    let rows: Vec<_> = finished.stdout.lines().collect();
    assert!(rows[0].starts_with("TOPIC  PARTITION  MESSAGES  BYTES"), "{}", finished.stdout);
    assert!(
        rows[1].starts_with("t      any        1 ") && rows[1].contains("1x message to topic t"),
        "{rows:?}"
    );
    assert_eq!((rows[3], rows.len()), ("2 messages waiting, 1 set aside", 4));
    let finished = spool(&["ls", path, "--output", "plain"]).await;
    let words: Vec<Vec<_>> = finished.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((words.len(), &words[1][..3], words[1].len()), (2, &["u", "0-1", "1"][..], 7));
    // An empty one.
    let finished = spool(&["drop", path, "--all", "--yes"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "3 messages dropped, 0 left\n"));
    let finished = spool(&["ls", path]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "0 messages waiting, 0 set aside\n"));
    assert_eq!(spool(&["ls", path, "--json"]).await.stdout, "");
}

#[tokio::test]
async fn show_has_every_part_of_a_message() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let path = text(folder.path());
    let finished = spool(&["show", path, "--json"]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let lines = fixed(finished.json());
    let reason = &lines[2]["reason"];
    assert!(reason.as_str().unwrap().contains("malformed"), "{reason}");
    assert_eq!(
        lines,
        [
            json!({"id": "1", "topic": "t", "partition": null, "age_s": "age", "attempts": null,
                   "reason": null, "key": "k", "data": "one\ncoffee"}),
            json!({"id": "2", "topic": "u", "partition": "0-1", "age_s": "age", "attempts": null,
                   "reason": null, "key_b64": "/w==", "data_b64": "/wA="}),
            json!({"id": "0", "topic": "t", "partition": null, "age_s": "age", "attempts": 1,
                   "reason": reason, "attribute": "a", "data": "bad"}),
        ]
    );
    let ids = async |args: &[&str]| {
        let finished = spool(&[&["show", path, "--output", "json"], args].concat()).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{args:?}");
        let ids =
            finished.json().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        ids.join(",")
    };
    assert_eq!(ids(&["2", "0"]).await, "2,0");
    assert_eq!(ids(&["--set-aside"]).await, "0");
    assert_eq!(ids(&["-t", "t"]).await, "1,0");
    assert_eq!(ids(&["-t", "t", "-n", "1"]).await, "1");
    assert_eq!(ids(&["-p", "0-1"]).await, "2");
    assert_eq!(ids(&["-p", "0-2"]).await, "");

    let shown = spool(&["show", path]).await.stdout;
    assert!(
        shown.starts_with("1 t any ") && shown.contains(" old key \"k\" 10 bytes \"one\\ncoffee\"\n"),
        "{shown}"
    );
    assert!(shown.contains("\n  set aside, refused 1 time: message to topic t"), "{shown}");
    let shown = spool(&["show", path, "1", "--format", "hex"]).await.stdout;
    assert!(shown.contains("  00000000  6f 6e 65 0a 63 6f 66 66 65 65"), "{shown}");
    assert!(shown.ends_with("  one.coffee\n"), "{shown}");
    assert_eq!(spool(&["show", path, "1", "--format", "raw"]).await.stdout, "one\ncoffee\n");
    let shown = spool(&["show", path, "0", "--output", "plain"]).await.stdout;
    let words: Vec<_> = shown.trim_end().split('\t').collect();
    assert_eq!((words[0], words[4], words[7], words.len()), ("0", "1", "bad", 8), "{shown}");
}

#[tokio::test]
async fn what_is_exported_is_taken_by_produce() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let path = text(folder.path());
    let finished = spool(&["export", path]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(
        finished.json(),
        [
            json!({"topic": "t", "key": "k", "data": "one\ncoffee"}),
            json!({"topic": "u", "partition": "0-1", "key_b64": "/w==", "data_b64": "/wA="}),
            json!({"topic": "t", "attribute": "a", "data": "bad"}),
        ]
    );
    assert_eq!(spool(&["export", path, "--waiting"]).await.json().len(), 2);
    assert_eq!(spool(&["export", path, "--topic", "u", "--set-aside"]).await.stdout, "");
    let broker = Broker::builder().id(0).topic("t", 2).start().await.unwrap();
    let produce = ["produce", "-b", &broker.addr().to_string(), "-t", "t", "--json-lines"];
    let sent = Metaq::start(&produce).finish(finished.stdout.as_bytes()).await;
    assert_eq!((sent.status, &*sent.stderr), (0, ""), "{}", sent.stdout);
    let messages = broker.messages("t");
    assert_eq!(messages.len(), 3);
    let binary = messages.iter().find(|message| message.payload == b"\xff\x00"[..]).unwrap();
    assert_eq!(binary.partition.index, 1);
    // Nothing was removed.
    assert_eq!(spool(&["export", path]).await.stdout, finished.stdout);
    for (line, said) in [
        ("{\"data\":\"x\",\"key\":\"k\",\"key_b64\":\"aw==\"}\n", "the line has key and key_b64"),
        ("{\"data\":\"x\",\"key_b64\":\"?\"}\n", "key_b64 is not base64"),
    ] {
        let sent = Metaq::start(&produce).finish(line.as_bytes()).await;
        assert!(sent.status == 3 && sent.stdout.contains(said), "{line}: {}", sent.stdout);
    }
}

#[tokio::test]
async fn drop_removes_what_is_named_and_only_with_yes() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let path = text(folder.path());
    for (args, said) in [
        (&["--all"][..], "3 messages of spool"),
        (&["--set-aside"], "1 message of spool"),
        (&["1", "2"], "would be dropped for good; add --yes"),
        (&["1", "77", "--yes"], "has no message 77; metaq spool show lists those"),
        (&["--yes"], "<ID>"),
        (&["x", "--yes"], "expected a whole number"),
        (&["1", "--set-aside", "--yes"], "cannot be used with"),
    ] {
        let finished = spool(&[&["drop", path], args].concat()).await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{args:?}: {}", finished.stderr);
    }
    let finished = spool(&["drop", path, "1", "0", "--yes", "--output", "json"]).await;
    assert_eq!((finished.status, finished.json()), (0, vec![json!({"dropped": 2, "left": 1})]));
    let finished = spool(&["drop", path, "--set-aside", "--yes", "--output", "plain"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "0\t1\n"));
    let finished = spool(&["drop", path, "--all", "--topic", "t", "--yes"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "0 messages dropped, 1 left\n"));
    let finished = spool(&["drop", path, "--all", "--yes"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "1 message dropped, 0 left\n"));
}

#[tokio::test]
async fn more_messages_than_are_dropped_at_a_time_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(2500)).await;
    let path = text(folder.path());
    assert_eq!(spool(&["show", path]).await.stdout.lines().count(), 2500);
    let finished = spool(&["drop", path, "--all", "--yes"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "2500 messages dropped, 0 left\n"));
}

#[tokio::test]
async fn a_folder_that_is_no_spool_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [missing, empty] = ["missing", "empty"].map(|name| folder.path().join(name));
    fs::create_dir(&empty).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for (path, said) in [
        (&missing, "missing was not opened: there is no such folder; check its name"),
        (&empty, "empty was not opened: it is no spool; check its name"),
        (&file, "file was not opened: it is no spool; check its name"),
    ] {
        for args in [
            &["ls"][..],
            &["show"],
            &["export"],
            &["drop", "--all", "--yes"],
            &["replay", "-b", "meta://127.0.0.1:1"],
            &["replay", "--set-aside", "-b", "meta://127.0.0.1:1"],
        ] {
            let finished = spool(&[args, &[text(path)]].concat()).await;
            assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}");
            assert!(finished.stderr.ends_with(&format!("{said}\n")), "{args:?}: {}", finished.stderr);
        }
    }
    assert!(!missing.exists() && fs::read_dir(&empty).unwrap().count() == 0);
    assert_eq!(fs::read(&file).unwrap(), b"x");
    // A file that is no spool's, under the name of one.
    fs::write(empty.join("spool.redb"), vec![7; 10_000]).unwrap();
    let finished = spool(&["ls", text(&empty)]).await;
    assert_eq!(finished.status, 8, "{}", finished.stderr);
    assert!(finished.stderr.contains("its file is damaged"), "{}", finished.stderr);
}

#[tokio::test]
async fn a_reader_of_stdout_that_leaves_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(20_000)).await;
    let mut metaq = Metaq::start(&["spool", "show", text(folder.path())]);
    metaq.next_line().await;
    metaq.close_stdout();
    let finished = metaq.wait().await;
    assert_eq!((finished.status, &*finished.stderr), (141, ""));
}
