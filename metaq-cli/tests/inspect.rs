//! `metaq inspect` as a process, over the golden cases of the protocol.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the time is part of the result")]

mod command;

use std::time::Instant;

use command::Metaq;
use serde_json::{Value, json};

const DECODE: &str = include_str!("../../metaq-protocol/tests/vectors/decode.jsonl");
const ENCODE: &str = include_str!("../../metaq-protocol/tests/vectors/encode.jsonl");

fn cases(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn shows_streams_in_hexadecimal() {
    let cases: Vec<_> =
        cases(DECODE).into_iter().filter(|case| !case.to_string().contains("java_defect")).collect();
    let input: String = cases.iter().map(|case| format!("{}\n", case["bytes"].as_str().unwrap())).collect();
    let finished = Metaq::start(&["inspect", "--hex"]).finish(input.as_bytes()).await;
    assert_eq!((finished.status, finished.stderr.as_str()), (0, ""));
    let mut shown = finished.json().into_iter().peekable();
    for (n, case) in cases.iter().enumerate() {
        let java = case["steps"].as_array().cloned().unwrap_or_else(|| vec![case.clone()]);
        let mut offset = 0;
        for step in java {
            let line = shown.next().unwrap();
            assert_eq!((&line["input"], &line["offset"]), (&json!(n + 1), &json!(offset)), "{case}");
            match step["outcome"].as_str().unwrap() {
                "command" => {
                    assert_eq!((&line["command"], &line["length"]), (&step["command"], &step["consumed"]));
                    // A blank item asks for the same as none.
                    if step["fields"]["item"] != "" {
                        assert_eq!(line["fields"], step["fields"], "{case}");
                    }
                    offset += step["consumed"].as_u64().unwrap();
                }
                "incomplete" => assert_eq!(line["incomplete"], true, "{case}"),
                _ => assert!(line["error"].is_string(), "{case}"),
            }
        }
        assert!(shown.peek().is_none_or(|next| next["input"] != n + 1), "nothing more for input {}", n + 1);
    }
}

#[tokio::test]
async fn makes_bytes_from_fields() {
    let cases: Vec<_> = cases(ENCODE).into_iter().filter(|case| case["java_defect"] != true).collect();
    let input: String = cases
        .iter()
        .map(|case| format!("{}\n", json!({ "command": case["command"], "fields": case["fields"] })))
        .collect();
    let finished = Metaq::start(&["inspect", "--encode"]).finish(input.as_bytes()).await;
    assert_eq!((finished.status, finished.stderr.as_str()), (0, ""));
    let expected: Vec<_> = cases.iter().map(|case| case["bytes"].as_str().unwrap()).collect();
    assert!(finished.stdout.lines().eq(expected));
}

#[tokio::test]
async fn what_can_not_be_made_is_said_and_the_rest_goes_on() {
    let put = json!({ "topic": "t", "partition": 0, "flag": 0, "checksum": 0, "tx": null, "opaque": 1, "data": "" });
    let with = |key: &str, value: Value| {
        let mut fields = put.clone();
        fields[key] = value;
        json!({ "command": "put", "fields": fields }).to_string()
    };
    let without = json!({ "command": "version", "fields": {} }).to_string();
    let good = json!({ "command": "quit", "fields": {} }).to_string();
    let lines = [
        ("".to_owned(), "EOF"),
        ("not JSON".to_owned(), "expected"),
        ("{}".to_owned(), "missing field `command`"),
        (r#"{"command":"put","fields":3}"#.to_owned(), "not an object"),
        (r#"{"command":"bogus","fields":{}}"#.to_owned(), "bogus"),
        (without, "opaque of version: it is missing"),
        (with("topic", json!("a b")), "contains a space"),
        (
            with("partition", json!(2_147_483_648_u64)),
            "partition of put: it is not a whole number of 32 bits",
        ),
        (with("data", json!("0")), "not hexadecimal"),
        (with("tx", json!({ "type": "local", "session": "a:b", "value": 1 })), "colon"),
        (with("tx", json!({ "type": "strange" })), "strange"),
        (good, "710d0a"),
    ];
    let input: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
    let finished = Metaq::start(&["inspect", "--encode"]).finish(input.as_bytes()).await;
    assert_eq!(finished.status, 0);
    let output: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(output.len(), lines.len());
    for (n, (line, said)) in output.iter().zip(&lines[..11]).enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["input"], n + 1);
        assert!(line["error"].as_str().unwrap().contains(said.1), "{line} should say {}", said.1);
    }
    assert_eq!(output[11], "717569740d0a");
}

#[tokio::test]
async fn shows_a_captured_stream_and_where_it_goes_wrong() {
    let stream = b"version 5\r\nput t 0 3 0 -1 7\r\nabcresult 200 2 7\r\nok";
    let finished = Metaq::start(&["inspect"]).finish(stream).await;
    assert_eq!(finished.status, 0);
    let lines = finished.json();
    let shown: Vec<_> =
        lines.iter().map(|line| (line["offset"].as_u64(), line["command"].as_str())).collect();
    assert_eq!(shown, [(Some(0), Some("version")), (Some(11), Some("put")), (Some(32), Some("result"))]);
    assert!(
        finished.stdout.starts_with(r#"{"offset":0,"length":11,"command":"version","fields":{"opaque":5}}"#)
    );

    let finished = Metaq::start(&["inspect"]).finish(b"version 5\r\nbogus 1\r\nversion 6\r\n").await;
    assert_eq!(finished.status, 1);
    let lines = finished.json();
    assert_eq!((lines.len(), &lines[1]["offset"]), (2, &json!(11)));
    assert!(lines[1]["error"].as_str().unwrap().contains("bogus"));

    let finished = Metaq::start(&["inspect"]).finish(b"version 5\r\nput t 0 99 0 -1 7\r\nabc").await;
    assert_eq!(finished.status, 0);
    assert_eq!(finished.json()[1], json!({ "offset": 11, "incomplete": true }));
    assert_eq!(Metaq::start(&["inspect"]).finish(b"").await.stdout, "");
}

#[tokio::test]
async fn bad_hexadecimal_and_missing_files_are_said() {
    let finished = Metaq::start(&["inspect", "--hex"]).finish(b"0\nzz\n\n71 75\n").await;
    assert_eq!(finished.status, 0);
    let lines = finished.json();
    assert_eq!(lines[2], json!({ "input": 3, "offset": 0, "incomplete": true }));
    for n in [0, 1, 3] {
        assert!(lines[n]["error"].as_str().unwrap().contains("not hexadecimal"));
    }
    let finished = Metaq::start(&["inspect", "no/such/file"]).finish(b"").await;
    assert_eq!(finished.status, 2);
    assert!(finished.stderr.contains("no/such/file can't be opened"), "{}", finished.stderr);
    assert_eq!(Metaq::start(&["inspect", "--hex", "--encode"]).finish(b"").await.status, 2);
}

#[tokio::test]
async fn one_process_handles_very_many_lines() {
    let line = "70757420746573742031203520302039303730363038373020310d0a68656c6c6f\n";
    let input = line.repeat(100_000);
    let started = Instant::now();
    let finished = Metaq::start(&["inspect", "--hex"]).finish(input.as_bytes()).await;
    println!("100,000 lines in {:?}", started.elapsed());
    assert_eq!((finished.status, finished.stdout.lines().count()), (0, 100_000));
    let last: Value = serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["input"], &last["fields"]["data"]), (&json!(100_000), &json!("68656c6c6f")));
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let mut metaq = Metaq::start(&["inspect", "--hex"]);
    metaq.close_stdout();
    let finished = metaq.finish("710d0a\n".repeat(10_000).as_bytes()).await;
    assert_eq!((finished.status, finished.stderr.as_str()), (141, ""));
}
