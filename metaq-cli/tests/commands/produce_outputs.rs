//! What `metaq produce` writes besides results: rejects, the messages on stdout, a dry run.

use std::{fs, process::Stdio};

use metaq_testkit::{Broker, Fault, Requests};
use serde_json::json;

use crate::common::{Finished, Metaq, Running, broker, command};

async fn produce(broker: &Broker, args: &[&str], input: &[u8]) -> Finished {
    let addr = broker.addr().to_string();
    Metaq::start(&[&["produce", "-b", &addr, "-t", "t"], args].concat()).finish(input).await
}

#[tokio::test]
async fn rejects_take_one_topic_so_that_lines_keep_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let rejects = folder.path().join("rejects");
    let args = ["produce", "-t", "a", "-t", "b", "--rejects", rejects.to_str().unwrap(), "--dry-run"];
    let finished = Metaq::start(&args).finish(b"1\n2\n").await;
    assert_eq!((finished.status, &*finished.stdout), (2, ""));
    assert!(finished.stderr.contains("--rejects takes one --topic"), "{}", finished.stderr);
    assert!(!rejects.exists());
}

#[tokio::test]
async fn message_that_the_delimiter_would_change_is_counted() {
    let broker = broker().await;
    let input = b"one\n\ntwo\n";
    let said =
        "lacks 1 message: what ends with the beginning of the delimiter would be read as another message";
    let finished = produce(&broker, &["-D", "\\n\\n", "--tee"], input).await;
    assert_eq!((finished.status, &*finished.stdout), (8, "one\n\n"), "{}", finished.stderr);
    assert!(finished.stderr.contains(&format!("stdout {said}")), "{}", finished.stderr);
    assert_eq!(broker.messages("t").len(), 2);

    broker.faults().plan(Requests::puts(), Fault::refuse(403, "closed"));
    let rejects = tempfile::NamedTempFile::new().unwrap();
    let path = rejects.path().to_str().unwrap();
    for times in 1..=2 {
        let finished = produce(&broker, &["-D", "\\n\\n", "--rejects", path], input).await;
        assert_eq!((finished.status, finished.json().len()), (8, 2), "{}", finished.stderr);
        assert!(finished.stderr.contains(&format!("{path} {said}")), "{}", finished.stderr);
        assert_eq!(fs::read_to_string(path).unwrap(), "one\n\n".repeat(times));
    }
}

#[tokio::test]
async fn carriage_return_of_a_message_survives_the_rejects() {
    let broker = broker().await;
    let rejects = tempfile::NamedTempFile::new().unwrap();
    let path = rejects.path().to_str().unwrap();
    let refused = broker.faults().plan(Requests::puts(), Fault::refuse(403, "closed"));
    let finished = produce(&broker, &["--crlf", "strip", "--rejects", path], b"x\r\r\n").await;
    assert_eq!((finished.status, &*finished.stderr), (7, ""));
    refused.cancel();
    assert_eq!(produce(&broker, &["--crlf", "strip", path], b"").await.status, 0);
    let stored = broker.messages("t");
    assert_eq!((stored.len(), &*stored[0].payload), (1, &b"x\r"[..]));
}

#[tokio::test]
async fn incomplete_message_has_its_status_with_rejects_too() {
    let broker = broker().await;
    let rejects = tempfile::NamedTempFile::new().unwrap();
    let path = rejects.path().to_str().unwrap();
    let finished = produce(&broker, &["--length-prefixed", "--rejects", path], b"\0\0\0\x05b").await;
    assert_eq!(finished.status, 3, "{}", finished.stderr);
    let said = format!("metaq: {path} lacks 1 message: what was not read completely is not known\n");
    assert_eq!(finished.stderr, said);
}

#[tokio::test]
async fn outputs_are_different_files() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let name = path.to_str().unwrap();
    for exists in [false, true] {
        let finished = produce(&broker, &["--ack-log", name, "--rejects", name], b"1\n").await;
        assert_eq!(finished.status, 2, "exists: {exists}");
        let said = format!("metaq: {name} is the file of --rejects and of --ack-log; use two files\n");
        assert_eq!(finished.stderr, said);
        fs::write(&path, "").unwrap();
    }
    for args in [&["--rejects", name][..], &["--tee", "--ack-log", name]] {
        let stdout = fs::File::options().append(true).open(&path).unwrap();
        let metaq = Running::start(command("produce", &broker, args).stdin(Stdio::null()).stdout(stdout));
        let output = metaq.output().await;
        let said = format!("metaq: {name} of {} is stdout, too; use another file\n", args[args.len() - 2]);
        assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(2), &*said));
    }
    // Without messages on stdout, the log may be there, and a device may be everything.
    let stdout = fs::File::options().append(true).open(&path).unwrap();
    let more = ["--ack-log", name, "--rejects", "/dev/null"];
    let mut metaq = Running::start(command("produce", &broker, &more).stdout(stdout));
    std::io::Write::write_all(&mut metaq.stdin.take().unwrap(), b"1\n").unwrap();
    assert_eq!(metaq.output().await.status.code(), Some(0));
    let finished = produce(&broker, &["--ack-log", "/dev/null", "--rejects", "/dev/null"], b"1\n").await;
    assert_eq!((finished.status, broker.messages("t").len()), (0, 2), "{}", finished.stderr);
}

#[tokio::test]
async fn dry_run_stops_where_the_run_would() {
    let run = async |args: &[&str]| {
        let args = [&["produce", "-t", "t", "--dry-run", "--max-message-size", "3"], args].concat();
        Metaq::start(&args).finish(b"1\n22222\n3\n4\n").await
    };
    let finished = run(&[]).await;
    assert_eq!((finished.status, finished.json().len()), (3, 4));
    let finished = run(&["-c", "1"]).await;
    assert_eq!((finished.status, finished.json()), (0, vec![json!({"line": 1, "topic": "t", "bytes": 1})]));
    let finished = run(&["--on-error", "stop"]).await;
    assert_eq!((finished.status, finished.json().len()), (3, 2), "{}", finished.stdout);
    let finished = run(&["-c", "3", "--output", "human"]).await;
    assert_eq!(finished.stdout, "2 messages, 2 bytes, would be sent; 1 would not\n");
    assert_eq!(run(&["--output", "human", "-q"]).await.stdout, "");
}

#[tokio::test]
async fn mark_before_the_first_line_of_json_is_skipped() {
    let broker = broker().await;
    let finished =
        produce(&broker, &["--json-lines"], b"\xef\xbb\xbf{\"data\":\"a\"}\n{\"data\":\"b\"}\n").await;
    assert_eq!((finished.status, broker.messages("t").len()), (0, 2), "{}", finished.stdout);
}

#[tokio::test]
async fn options_without_effect_are_refused() {
    for (args, said) in [
        (&["-k", "k", "-p", "0-0"][..], "cannot be used with"),
        (&["-k", "k", "--selector", "round-robin"], "--key has no effect with this --selector"),
        (&["-k", "k", "--selector", "sticky"], "--key has no effect with this --selector"),
        (&["--timeout", "1s", "-X", "send_timeout=2s"], "--timeout and -X send_timeout are the same setting"),
        (&["--ordered", "-X", "ordered=false"], "--ordered and -X ordered are the same setting"),
    ] {
        let args = [&["produce", "-t", "t", "--dry-run"], args].concat();
        let finished = Metaq::start(&args).finish(b"1\n").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}");
        assert!(finished.stderr.contains(said), "{args:?}: {}", finished.stderr);
    }
}

#[tokio::test]
async fn limit_in_flight_that_is_set_holds() {
    let broker = broker().await;
    let unanswered = broker.faults().plan(Requests::puts(), Fault::Ignore);
    // A broker can have half of them.
    let args = ["-X", "max_in_flight=2", "--timeout", "500ms"];
    let finished = produce(&broker, &args, &b"x\n".repeat(10)).await;
    assert_eq!((finished.status, finished.json().len()), (6, 10), "{}", finished.stdout);
    assert!(unanswered.met() < 10, "{} were sent together", unanswered.met());
}
