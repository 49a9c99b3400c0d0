//! Numbers, names and folders at the edge of what `metaq spool` takes, and messages that are damaged.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use metaq_producer::{Message, Topic};
use metaq_testkit::{Broker, Fault, Requests};

use crate::{
    common::Metaq,
    form::{fill, fill_aside, messages, nowhere, produce, spool, text, topic},
};

/// The largest number that a message could have.
const LARGEST: &str = "18446744073709551615";

#[tokio::test]
async fn the_largest_number_is_one_that_the_folder_lacks() {
    let folder = tempfile::tempdir().unwrap();
    fill_aside(folder.path(), messages(1)).await;
    fill(folder.path(), messages(1)).await;
    let path = text(folder.path());
    for args in [&["show"][..], &["export"], &["drop", "--yes"]] {
        let finished = spool(&[args, &[path, LARGEST]].concat()).await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}: {}", finished.stderr);
        let said = format!("has no message {LARGEST}; metaq spool show lists those");
        assert!(finished.stderr.contains(&said), "{args:?}: {}", finished.stderr);
    }
}

#[tokio::test]
async fn a_message_that_is_named_twice_is_one() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(3)).await;
    let path = text(folder.path());
    let finished = spool(&["drop", path, "1", "0", "1"]).await;
    assert!(finished.stderr.contains("2 messages of spool"), "{}", finished.stderr);
    let shown = spool(&["show", path, "1", "0", "1", "--format", "raw"]).await.stdout;
    assert_eq!(shown, "1\n0\n");
    let exported = spool(&["export", path, "1", "1"]).await.json();
    assert_eq!(exported.len(), 1, "{exported:?}");
    let finished = spool(&["drop", path, "1", "0", "1", "--yes"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "2 messages dropped, 1 left\n"));
}

#[tokio::test]
async fn a_folder_that_cant_be_looked_into_is_not_called_missing() {
    let folder = tempfile::tempdir().unwrap();
    let [round, closed] = ["round", "closed"].map(|name| folder.path().join(name));
    symlink("round", &round).unwrap();
    fill(&closed, messages(1)).await;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let mut cases = vec![(round, "Too many levels of symbolic links")];
    // Permissions are not for the superuser.
    if fs::read_dir(&closed).is_err() {
        cases.push((closed.clone(), "Permission denied"));
    }
    for (path, said) in cases {
        for args in [
            &["ls"][..],
            &["show"],
            &["export"],
            &["drop", "--all", "--yes"],
            &["replay", "-b", "meta://127.0.0.1:1"],
        ] {
            let finished = spool(&[args, &[text(&path)]].concat()).await;
            assert_eq!((finished.status, &*finished.stdout), (8, ""), "{args:?}: {}", finished.stderr);
            assert!(finished.stderr.contains(said), "{args:?}: {}", finished.stderr);
        }
        let finished = Metaq::start(&produce("meta://127.0.0.1:1", &path, &[])).finish(b"x\n").await;
        assert_eq!((finished.status, &*finished.stdout), (8, ""), "{}", finished.stderr);
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Returns whether a text would move the cursor of a terminal, or colour it.
fn controls_terminals(text: &str) -> bool {
    text.chars().any(|char| char.is_control() && !matches!(char, '\t' | '\n'))
}

#[tokio::test]
async fn names_and_reasons_break_no_columns() {
    let folder = tempfile::tempdir().unwrap();
    let odd: Topic = "a\tb\u{1b}[31m\"q\"".parse().unwrap();
    fill(folder.path(), [Message::new(odd.clone(), "x\u{1b}[2J"), Message::new(topic(), "y")]).await;
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    broker.faults().plan(Requests::puts(), Fault::refuse(400, "no\u{1b}[2J\rw\tz"));
    let (path, cluster) = (text(folder.path()), broker.addr().to_string());
    let replay = ["replay", path, "-b", &cluster, "--wait", "2s", "--output"];
    let finished = spool(&[&replay[..], &["plain"]].concat()).await;
    let words: Vec<Vec<_>> = finished.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert!(words.len() == 2 && words.iter().all(|words| words.len() == 3), "{words:?}");
    assert!(words.iter().all(|words| words[0] == "set-aside"), "{words:?}");
    assert!(!controls_terminals(&finished.stdout), "{:?}", finished.stdout);
    assert!(
        !controls_terminals(&finished.stderr) && !finished.stderr.contains('\t'),
        "{:?}",
        finished.stderr
    );
    for (args, columns) in [(&["ls", path][..], 7), (&["show", path], 8)] {
        let plain = spool(&[args, &["--output", "plain"]].concat()).await.stdout;
        assert_eq!(plain.lines().count(), 2, "{plain:?}");
        for line in plain.lines() {
            assert_eq!(line.split('\t').count(), columns, "{line:?}");
        }
        let shown = spool(args).await.stdout;
        assert!(!controls_terminals(&plain) && !controls_terminals(&shown), "{plain:?} {shown:?}");
        assert!(plain.contains("a\\tb\\u{1b}[31m\"q\""), "the name can be read: {plain:?}");
        assert!(!shown.contains('\t'), "{shown:?}");
    }
    let listed = spool(&["ls", path, "--json"]).await.json();
    assert_eq!(listed[0]["topic"].as_str(), Some(odd.as_str()));
    // What is refused at once.
    let plain =
        Metaq::start(&["produce", "-b", &cluster, "-t", "t", "--output", "plain"]).finish(b"x\n").await;
    assert_eq!((plain.status, plain.stdout.split('\t').count()), (7, 4), "{:?}", plain.stdout);
    assert!(!controls_terminals(&plain.stdout), "{:?}", plain.stdout);
    let human =
        Metaq::start(&["produce", "-b", &cluster, "-t", "t", "--output", "human"]).finish(b"x\n").await;
    assert!(!controls_terminals(&human.stderr), "{:?}", human.stderr);
    let shown =
        Metaq::start(&["produce", "-b", &cluster, "-t", odd.as_str(), "--dry-run", "--output", "plain"]);
    let shown = shown.finish(b"x\n").await.stdout;
    assert_eq!(shown, "1\tsend\ta\\tb\\u{1b}[31m\"q\"\t1\n");
}

/// Changes a payload in a folder's file.
fn damage(folder: &Path, payload: &[u8]) {
    let path = folder.join("spool.redb");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(payload.len()).position(|found| found == payload).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_message_is_named_and_blamed_on_no_broker() {
    let folder = tempfile::tempdir().unwrap();
    fill(
        folder.path(),
        ["first-payload", "other-payload", "third-payload"].map(|it| Message::new(topic(), it)),
    )
    .await;
    damage(folder.path(), b"other-payload");
    let path = text(folder.path());
    let finished = spool(&["show", path, "--json"]).await;
    let lines = finished.json();
    assert_eq!((finished.status, lines.len()), (9, 3), "{}", finished.stderr);
    assert!(
        lines[1]["error"].as_str().unwrap().contains("checksum") && lines[1]["data"].is_null(),
        "{lines:?}"
    );
    assert_eq!(finished.stderr, "metaq: 1 message is damaged, and can't be read\n");
    let finished = spool(&["export", path]).await;
    assert_eq!((finished.status, finished.json().len()), (9, 2), "{}", finished.stderr);
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let finished = spool(&["replay", path, "-b", &broker.addr().to_string()]).await;
    assert_eq!((finished.status, finished.json().len()), (7, 3), "{}", finished.stderr);
    let said = "holds 1 message that was set aside; metaq spool show --set-aside has the reason\n";
    assert!(finished.stderr.ends_with(said), "{}", finished.stderr);
    // It may be of this topic.
    let finished = spool(&["export", path, "--topic", "t"]).await;
    assert_eq!((finished.status, &*finished.stdout), (9, ""), "{}", finished.stderr);
    let finished = spool(&["drop", path, "1", "--yes"]).await;
    assert_eq!((finished.status, &*finished.stdout), (0, "1 message dropped, 0 left\n"));
}

#[tokio::test]
async fn a_file_of_another_version_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), messages(3)).await;
    let (path, file) = (text(folder.path()), folder.path().join("spool.redb"));
    let mut bytes = fs::read(&file).unwrap();
    // The versions of both commit slots.
    (bytes[64], bytes[192]) = (4, 4);
    fs::write(&file, &bytes).unwrap();
    let cluster = nowhere();
    let send = produce(&cluster, folder.path(), &[]);
    for args in [
        &send[..],
        &["spool", "ls", path],
        &["spool", "show", path],
        &["spool", "export", path],
        &["spool", "drop", path, "--all", "--yes"],
        &["spool", "replay", path, "-b", &cluster],
        &["spool", "replay", path, "-b", &cluster, "--set-aside"],
    ] {
        let finished = Metaq::start(args).finish(b"x\n").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}: {}", finished.stderr);
        let said = "use the version of metaq that wrote it\n";
        assert!(finished.stderr.ends_with(said), "{args:?}: {}", finished.stderr);
        assert!(fs::read(&file).unwrap() == bytes, "{args:?} has changed it");
    }
}
