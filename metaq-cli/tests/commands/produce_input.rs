//! The forms of the input of `metaq produce`.

use std::{fs, io::Write as _};

use metaq_testkit::Broker;
use serde_json::{Value, json};

use crate::common::{Finished, Metaq, json_lines};

/// Starts a broker that has the topic `t` with four partitions.
async fn broker() -> Broker {
    Broker::builder().topic("t", 4).start().await.unwrap()
}

async fn produce(broker: &Broker, args: &[&str], input: &[u8]) -> Finished {
    let addr = broker.addr().to_string();
    Metaq::start(&[&["produce", "-b", &addr, "-t", "t"], args].concat()).finish(input).await
}

fn payloads(broker: &Broker) -> Vec<Vec<u8>> {
    let mut payloads: Vec<_> = broker.messages("t").iter().map(|stored| stored.payload.to_vec()).collect();
    payloads.sort_unstable();
    payloads
}

#[tokio::test]
async fn every_form_of_input_is_divided_into_messages() {
    let prefixed = b"\0\0\0\x03a\nb\0\0\0\0\0\0\0\x01c";
    for (args, input, expected) in [
        (&["-D", ";"][..], &b"a;b\n;c"[..], &["a", "b\n", "c"][..]),
        (&["-D", "\\r\\n"], b"a\r\nb\nc\r\n", &["a", "b\nc"]),
        (&["-D", "\\0"], b"a\0b\0", &["a", "b"]),
        (&["--crlf", "strip"], b"a\r\nb\r\n", &["a", "b"]),
        (&["--crlf", "keep"], b"a\r\nb\r\n", &["a\r", "b\r"]),
        (&[], b"a\r\nb", &["a\r", "b"]),
        (&["--length-prefixed"], prefixed, &["", "a\nb", "c"]),
        (&["--file-per-message"], b"a\nb\n", &["a\nb\n"]),
        (&["-c", "2"], b"a\nb\nc\n", &["a", "b"]),
    ] {
        let broker = broker().await;
        let finished = produce(&broker, args, input).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{args:?}");
        assert_eq!(finished.json().len(), expected.len(), "{args:?}");
        let expected: Vec<_> = expected.iter().map(|text| text.as_bytes().to_vec()).collect();
        assert_eq!(payloads(&broker), expected, "{args:?}");
    }
}

#[tokio::test]
async fn an_incomplete_message_is_not_sent() {
    let broker = broker().await;
    let finished = produce(&broker, &["--length-prefixed"], b"\0\0\0\x01a\0\0\0\x05b").await;
    assert_eq!(finished.status, 3);
    let lines = finished.json();
    let failed = lines.iter().find(|line| line["line"] == 2).unwrap();
    assert_eq!(failed["error"]["message"], json!("the input ended within this message"));
    assert_eq!(payloads(&broker), [b"a"]);
}

#[tokio::test]
async fn each_file_is_a_message_even_an_empty_one() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one", "two", "three"].map(|name| folder.path().join(name));
    let contents = [b"1\n2\n".to_vec(), Vec::new(), vec![b'x'; 300_000]];
    paths.iter().zip(&contents).for_each(|(path, content)| fs::write(path, content).unwrap());
    let paths = paths.each_ref().map(|path| path.to_str().unwrap());
    let finished = produce(&broker, &[&["--file-per-message"], &paths[..]].concat(), b"").await;
    assert_eq!((finished.status, finished.json().len()), (0, 3));
    let mut contents = contents.to_vec();
    contents.sort_unstable();
    assert_eq!(payloads(&broker), contents);
}

#[tokio::test]
async fn json_lines_have_the_parts_of_a_message() {
    let broker = broker().await;
    let partition = format!("{}-2", broker.id());
    let input = format!(
        "{{\"data\":\"a\",\"attribute\":\"tag\",\"partition\":\"{partition}\"}}\n\
         {{\"data_b64\":\"/wA=\",\"key\":\"k\"}}\n\
         {{\"key\":\"k\",\"data\":\"b\"}}\n\
         {{\"data\":\"x\",\"data_b64\":\"eA==\"}}\n\
         {{\"datum\":\"x\"}}\n\
         {{\"data\":\"x\",\"partition\":\"here\"}}\n\
         x\n"
    );
    let finished = produce(&broker, &["--json-lines"], input.as_bytes()).await;
    assert_eq!(finished.status, 3);
    let mut lines = finished.json();
    lines.sort_by_key(|line| line["line"].as_u64());
    assert_eq!(lines[0]["partition"], json!(partition));
    assert_eq!(lines[1]["partition"], lines[2]["partition"], "messages of a key");
    for (at, said) in [
        (3, "the line has data and data_b64"),
        (4, "column 8: unknown field datum"),
        (5, "partition is \"here\", and not one such as"),
        (6, "the line is not the JSON of a message"),
    ] {
        let text = lines[at]["error"]["message"].as_str().unwrap();
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(payloads(&broker), [&b"a"[..], b"b", b"\xff\0"]);
    let stored = broker.messages("t");
    let tagged = stored.iter().find(|stored| stored.payload == "a").unwrap();
    assert_eq!(tagged.attribute.as_deref(), Some("tag"));
}

#[tokio::test]
async fn rejects_are_fed_in_again_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let json = b"{\"data\":\"a\\nb\",\"attribute\":\"tag\"}\n{\"data\":\"c\"}\n".to_vec();
    for (args, input, expected) in [
        (&[][..], b"a\n\nb".to_vec(), &["", "a", "b"][..]),
        (&["-D", ";;"], b"a\n;;b;;".to_vec(), &["a\n", "b"]),
        (&["--length-prefixed"], b"\0\0\0\x02\n\n\0\0\0\x01b".to_vec(), &["\n\n", "b"]),
        (&["--json-lines"], json, &["a\nb", "c"]),
    ] {
        let broker = broker().await;
        let rejects = folder.path().join(format!("rejects{}", args.join("")));
        let path = rejects.to_str().unwrap();
        // No message of more than a byte is sent.
        let refused = [args, &["--max-message-size", "0"], &["--rejects", path]].concat();
        let finished = produce(&broker, &refused, &input).await;
        assert_eq!(finished.status, 2, "a size of zero is refused: {}", finished.stderr);
        broker.faults().plan(metaq_testkit::Requests::puts(), metaq_testkit::Fault::refuse(403, "closed"));
        let finished = produce(&broker, &[args, &["--rejects", path]].concat(), &input).await;
        assert_eq!(finished.status, 7, "{args:?}: {}", finished.stdout);
        assert_eq!(payloads(&broker), [b""; 0]);
        broker.faults().heal();
        let finished = produce(&broker, &[args, &[path]].concat(), b"").await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{args:?}");
        let expected: Vec<_> = expected.iter().map(|text| text.as_bytes().to_vec()).collect();
        assert_eq!(payloads(&broker), expected, "{args:?}");
        assert_eq!(
            broker.messages("t").iter().filter(|stored| stored.attribute.is_some()).count() > 0,
            args == ["--json-lines"]
        );
    }
}

#[tokio::test]
async fn lines_behind_a_stop_are_among_the_rejects() {
    let broker = broker().await;
    broker.faults().plan(metaq_testkit::Requests::puts().only(2), metaq_testkit::Fault::refuse(500, "no"));
    let rejects = tempfile::NamedTempFile::new().unwrap();
    let path = rejects.path().to_str().unwrap();
    let args = ["--on-error", "stop", "--in-flight", "1", "--rejects", path];
    let finished = produce(&broker, &args, b"1\n2\n3\n4\n").await;
    assert_eq!(finished.status, 7);
    let outcomes: Vec<Value> = finished.json().iter().map(|line| line["error"]["outcome"].clone()).collect();
    assert_eq!(outcomes, [Value::Null, json!("rejected"), json!("not-sent"), json!("not-sent")]);
    assert_eq!(fs::read(path).unwrap(), b"2\n3\n4\n");
    assert_eq!(payloads(&broker), [b"1"]);
}

#[tokio::test]
async fn a_file_is_not_read_and_written_at_once() {
    let broker = broker().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"1\n").unwrap();
    let path = file.path().to_str().unwrap();
    for option in ["--rejects", "--ack-log"] {
        let finished = produce(&broker, &[option, path, path], b"").await;
        assert_eq!(finished.status, 2);
        assert!(finished.stderr.contains("is read and written at the same time"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn the_ack_log_has_the_lines_and_stdout_the_messages() {
    let broker = broker().await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    let finished = produce(&broker, &["--ack-log", path, "--tee"], b"1\n2\n").await;
    assert_eq!((finished.status, &*finished.stdout, &*finished.stderr), (0, "1\n2\n", ""));
    assert_eq!(json_lines(&fs::read(path).unwrap()).len(), 2);
    // It is appended to.
    let finished = produce(&broker, &["--ack-log", path], b"3\n").await;
    assert_eq!((finished.status, &*finished.stdout), (0, ""));
    assert_eq!(json_lines(&fs::read(path).unwrap()).len(), 3);
    let finished = produce(&broker, &["--tee", "-q"], b"4").await;
    assert_eq!((finished.status, &*finished.stdout, &*finished.stderr), (0, "4\n", ""));
}

#[tokio::test]
async fn a_dry_run_shows_messages_and_sends_none() {
    let args = ["produce", "-t", "t", "-t", "u", "--dry-run", "-k", "k", "--max-message-size", "10"];
    let finished = Metaq::start(&args).finish(b"one\ntwo\n01234567890\n").await;
    assert_eq!(finished.status, 3, "no cluster is needed: {}", finished.stderr);
    let lines = finished.json();
    assert_eq!(lines[0], json!({"line": 1, "topic": "t", "bytes": 3, "key": "k"}));
    assert_eq!(lines[1]["topic"], json!("u"));
    assert_eq!(lines[2]["error"]["kind"], json!("too-large"));
    let finished =
        Metaq::start(&["produce", "-t", "t", "--dry-run", "--output", "human"]).finish(b"a\nb").await;
    assert_eq!(
        (finished.status, &*finished.stdout),
        (0, "2 messages, 2 bytes, would be sent; 0 would not\n")
    );
}
