//! `metaq inspect` as a process, with cases that were recorded from the Java classes.
#![allow(clippy::print_stdout, reason = "prints the number of cases and the time")]

use std::{collections::BTreeMap, fmt::Write as _, fs, io::Write as _, path::Path, time::Instant};

use serde_json::{Value, json};

use crate::common::{Finished, Metaq};

async fn inspect(args: &[&str], input: &[u8]) -> Finished {
    let finished = Metaq::start(&[&["inspect"], args].concat()).finish(input).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    finished
}

fn vectors(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../metaq-protocol/tests/vectors").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_defect(value: &Value) -> bool {
    value["java_defect"] == json!(true)
}

/// Returns the printed lines for each line of the input, without its number.
fn by_input(finished: &Finished) -> BTreeMap<u64, Vec<Value>> {
    let mut found: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for (line, mut shown) in finished.stdout.lines().zip(finished.json()) {
        assert!(line.starts_with("{\"input\":"), "{line}");
        let input = shown.as_object_mut().unwrap().remove("input").unwrap();
        found.entry(input.as_u64().unwrap()).or_default().push(shown);
    }
    found
}

/// Removes the parts of messages from a printed frame, and checks that they agree with its fields.
fn take_message(shown: &mut Value) {
    let message = shown.as_object_mut().unwrap().remove("message");
    let messages = shown.as_object_mut().unwrap().remove("messages");
    let command = shown["command"].as_str().unwrap_or_default();
    assert_eq!(message.is_some(), matches!(command, "put" | "sync"), "{shown}");
    assert_eq!(messages.is_some(), command == "value", "{shown}");
    let Some(message) = message.filter(|message| message["error"].is_null()) else { return };
    let hex = |part: &Value| part["hex"].as_str().unwrap_or_default().to_owned();
    let (attribute, payload) = (hex(&message["attribute"]), hex(&message["payload"]));
    let has_attribute = shown["fields"]["flag"].as_i64().unwrap() & 1 == 1;
    assert_eq!(message["attribute"].is_object(), has_attribute, "{shown}");
    let length = if has_attribute { format!("{:08x}", attribute.len() / 2) } else { String::new() };
    assert_eq!(shown["fields"]["data"], format!("{length}{attribute}{payload}"));
}

#[tokio::test]
async fn frames_are_decoded_as_java_decodes_them() {
    let cases = vectors("decode.jsonl");
    let input: String = cases.iter().map(|case| format!("{}\n", case["bytes"].as_str().unwrap())).collect();
    let shown = by_input(&inspect(&["--hex"], input.as_bytes()).await);
    let mut refused = 0;
    for (number, case) in (1..).zip(&cases) {
        let steps = case["steps"].as_array().cloned().unwrap_or_else(|| vec![case.clone()]);
        let mut shown = shown.get(&number).cloned().unwrap_or_default().into_iter();
        let mut offset = 0;
        for step in steps {
            let mut shown = shown.next().unwrap_or_else(|| panic!("nothing for {step}"));
            take_message(&mut shown);
            assert_eq!(shown["offset"], json!(offset), "{shown}");
            match step["outcome"].as_str().unwrap() {
                _ if is_defect(&step) && shown["error"].is_string() => {
                    refused += 1;
                    break;
                }
                "command" => {
                    let (command, fields) = (&step["command"], &step["fields"]);
                    let length = step["consumed"].as_u64().unwrap();
                    assert_eq!(
                        shown,
                        json!({"offset": offset, "length": length, "command": command, "fields": fields})
                    );
                    offset += length;
                }
                "incomplete" => assert_eq!(shown, json!({"offset": offset, "incomplete": true})),
                "error" => {
                    assert_eq!(shown.as_object().unwrap().len(), 2, "{shown}");
                    assert!(!shown["error"].as_str().unwrap().is_empty(), "{shown}");
                }
                other => panic!("no outcome {other}"),
            }
        }
        assert_eq!(shown.next(), None, "{case}");
    }
    println!("{} cases, {refused} refusals of what Java stumbles over or lets through", cases.len());
    assert_eq!((cases.len(), shown.len()), (859, 859));
}

#[tokio::test]
async fn frames_are_encoded_as_java_encodes_them() {
    let cases = vectors("encode.jsonl");
    let input: String = cases.iter().fold(String::new(), |mut input, case| {
        writeln!(input, "{case}").unwrap();
        input
    });
    let written = inspect(&["--encode"], input.as_bytes()).await;
    let mut counts = [0; 3];
    for ((number, case), line) in (1..).zip(&cases).zip(written.stdout.lines()) {
        let java_cannot = ["unicode-name", "get-extreme", "offset-extreme", "sync-extreme"]
            .contains(&case["cat"].as_str().unwrap());
        let which = match (case["outcome"].as_str().unwrap(), is_defect(case)) {
            ("ok", false) => {
                assert_eq!(line, case["bytes"]);
                0
            }
            ("error", _) if java_cannot => {
                let shown = inspect(&["--hex"], line.as_bytes()).await.json();
                assert_eq!((&shown[0]["command"], &shown[0]["fields"]), (&case["command"], &case["fields"]));
                1
            }
            _ => {
                let refused: Value = serde_json::from_str(line).unwrap();
                assert_eq!(refused["input"], json!(number));
                let error = refused["error"].as_str().unwrap();
                assert!(error.starts_with(case["command"].as_str().unwrap()), "{error}");
                2
            }
        };
        counts[which] += 1;
    }
    println!("written as Java, written where Java fails, refused: {counts:?}");
    assert_eq!(counts.iter().sum::<i32>(), 344);
}

#[tokio::test]
async fn printed_frames_can_be_encoded_again() {
    let hex: Vec<String> = vectors("decode.jsonl")
        .iter()
        .filter(|case| case["reencode"] == "same")
        .map(|case| case["bytes"].as_str().unwrap().to_owned())
        .collect();
    let shown = inspect(&["--hex"], hex.join("\n").as_bytes()).await;
    let written = inspect(&["--encode"], shown.stdout.as_bytes()).await;
    assert_eq!(written.stdout.lines().collect::<Vec<_>>(), hex);
    assert!(hex.len() > 300);
}

#[tokio::test]
async fn a_capture_is_one_stream() {
    let frames = b"put test 1 5 0 907060870 1\r\nhelloresult 200 3 1\r\n7 1quit\r\n";
    let expected = [
        json!({"offset": 0, "length": 33, "command": "put", "fields": {"topic": "test", "partition": 1, "flag": 0,
            "checksum": 907_060_870, "tx": null, "opaque": 1, "data": "68656c6c6f"},
            "message": {"attribute": null, "payload": {"hex": "68656c6c6f", "text": "hello"}}}),
        json!({"offset": 33, "length": 19, "command": "result",
            "fields": {"code": 200, "message": "7 1", "opaque": 1}}),
        json!({"offset": 52, "length": 6, "command": "quit", "fields": {"opaque": 2_147_483_647}}),
    ];
    assert_eq!(inspect(&[], frames).await.json(), expected);
    assert_eq!(inspect(&[], b"").await.stdout, "");
    // An incomplete frame, and a malformed one; nothing is printed after it.
    let cut = [&frames[..], b"version 1"].concat();
    assert_eq!(inspect(&["-"], &cut).await.json()[3], json!({"offset": 58, "incomplete": true}));
    let malformed = [&frames[..], b"bogus\r\n", frames].concat();
    let shown = inspect(&[], &malformed).await.json();
    assert_eq!(shown.len(), 4);
    assert_eq!(shown[3], json!({"offset": 58, "error": "\"bogus\" is not a command"}));
    // From a file, and as hexadecimal in a line.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(frames).unwrap();
    let from_file = inspect(&[file.path().to_str().unwrap()], b"").await;
    assert!(from_file.stdout.starts_with(
        "{\"offset\":0,\"length\":33,\"command\":\"put\",\"fields\":{\"topic\":\"test\",\"partition\":1,\"flag\":0,\
         \"checksum\":907060870,\"tx\":null,\"opaque\":1,\"data\":\"68656c6c6f\"},\
         \"message\":{\"attribute\":null,\"payload\":{\"hex\":\"68656c6c6f\",\"text\":\"hello\"}}}\n"
    ));
    assert_eq!(from_file.json(), expected);
}

#[tokio::test]
async fn frames_may_lie_across_reads() {
    let body = "x".repeat(300_000);
    let frames: String = (0..20).map(|opaque| format!("result 200 300000 {opaque}\r\n{body}")).collect();
    let shown = inspect(&[], frames.as_bytes()).await.json();
    let opaques: Vec<_> = shown.iter().map(|line| line["fields"]["opaque"].as_i64().unwrap()).collect();
    assert_eq!(opaques, (0..20).collect::<Vec<_>>());
    assert_eq!(shown[19]["fields"]["message"], body);
    let end = shown[19]["offset"].as_u64().unwrap() + shown[19]["length"].as_u64().unwrap();
    assert_eq!(end, frames.len() as u64);
}

#[tokio::test]
async fn a_bad_line_is_reported_and_skipped() {
    let shown = inspect(&["--hex"], b"7175\n71756974\n717\n0d0a\r\n\n71756G\n717569740D0A\n\xff").await;
    let shown: Vec<String> = shown.stdout.lines().map(str::to_owned).collect();
    assert_eq!(
        shown,
        [
            r#"{"input":1,"offset":0,"incomplete":true}"#,
            r#"{"input":2,"offset":0,"incomplete":true}"#,
            r#"{"input":3,"error":"not hexadecimal: 3 digits are not whole bytes"}"#,
            r#"{"input":4,"offset":0,"error":"the header line is empty"}"#,
            r#"{"input":6,"error":"not hexadecimal: column 6 is not a digit"}"#,
            r#"{"input":7,"offset":0,"length":6,"command":"quit","fields":{"opaque":2147483647}}"#,
            r#"{"input":8,"error":"not hexadecimal: column 1 is not a digit"}"#,
        ]
    );
    let lines = [
        ("", "not a line"),
        ("{", "not a line"),
        ("[]", "not a line"),
        ("{\"command\":\"put\"}", "put: the field flag is missing"),
        ("{\"command\":\"what\",\"fields\":{}}", "what: not a command"),
        (
            "{\"command\":\"version\",\"fields\":{\"opaque\":2147483648}}",
            "version: the field opaque is beyond 32 bits",
        ),
        (
            "{\"command\":\"version\",\"fields\":{\"opaque\":\"1\"}}",
            "version: the field opaque is not a whole number",
        ),
        (
            "{\"command\":\"value\",\"fields\":{\"opaque\":1,\"data\":\"0\"}}",
            "value: the field data can't be used",
        ),
        (
            "{\"command\":\"stats\",\"fields\":{\"opaque\":1,\"item\":\"a b\"}}",
            "stats: the field item can't be used",
        ),
        (
            "{\"command\":\"result\",\"fields\":{\"opaque\":1,\"code\":1,\"message\":7}}",
            "result: the field message is not",
        ),
    ];
    let input: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
    let refused = inspect(&["--encode"], format!("{input}{{\"command\":\"quit\"}}").as_bytes()).await;
    let mut refused = refused.stdout.lines();
    for (number, (line, start)) in (1..).zip(lines) {
        let shown: Value = serde_json::from_str(refused.next().unwrap()).unwrap();
        assert_eq!(shown["input"], json!(number), "{line}");
        assert!(shown["error"].as_str().unwrap().starts_with(start), "{line}: {shown}");
    }
    assert_eq!(refused.next(), Some("717569740d0a"), "what follows is done all the same");
}

#[tokio::test]
async fn a_line_is_converted_as_soon_as_it_is_read() {
    for (args, input, output) in [
        (&["--hex"][..], "717569740d0a\n", "quit"),
        (&["--encode"], "{\"command\":\"quit\"}\n", "717569740d0a"),
        (&[], "quit\r\n", "quit"),
    ] {
        let mut metaq = Metaq::start(&[&["inspect"], args].concat());
        for _ in 0..3 {
            metaq.write(input.as_bytes()).await;
            assert!(metaq.next_line().await.contains(output));
        }
        assert_eq!(metaq.finish(b"").await.status, 0);
    }
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    for args in [&["inspect", "--hex", "--encode"][..], &["inspect", "/no/such/file"], &["inspect", "a", "b"]]
    {
        let finished = Metaq::start(args).finish(b"").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}");
        assert!(!finished.stderr.is_empty());
    }
    let finished = Metaq::start(&["inspect", "/"]).finish(b"").await;
    assert_eq!(finished.status, 8, "a folder can be opened and not read");
    assert!(finished.stderr.starts_with("metaq: / can't be read: "), "{}", finished.stderr);
}

#[tokio::test]
async fn a_closed_stdout_has_its_status_and_no_message() {
    let mut metaq = Metaq::start(&["inspect", "--hex"]);
    metaq.write(b"717569740d0a\n").await;
    assert!(metaq.next_line().await.contains("quit"));
    metaq.close_stdout();
    let finished = metaq.finish("717569740d0a\n".repeat(100_000).as_bytes()).await;
    assert_eq!((finished.status, &*finished.stderr), (141, ""));
}

#[tokio::test]
async fn frame_that_would_fill_the_memory_is_malformed() {
    let mut input = b"version 60\r\nvalue 2147483640 5\r\n".to_vec();
    input.resize(65 << 20, b'x');
    let finished = inspect(&[], &input).await;
    let lines = finished.json();
    assert_eq!((finished.status, lines.len()), (0, 2), "{}", finished.stdout);
    let error = lines[1]["error"].as_str().unwrap();
    assert!(lines[1]["offset"] == 12 && error.contains("longer than 67108864 bytes"), "{error}");
}

#[tokio::test]
async fn many_lines_in_one_process() {
    const LINES: usize = 200_000;
    let start = Instant::now();
    let input = "76657273696f6e20310d0a\n".repeat(LINES);
    let shown = inspect(&["--hex"], input.as_bytes()).await.stdout;
    println!("{LINES} lines in {:?}", start.elapsed());
    assert_eq!(shown.lines().count(), LINES);
    let last = r#"{"input":200000,"offset":0,"length":11,"command":"version","fields":{"opaque":1}}"#;
    assert_eq!(shown.lines().next_back(), Some(last));
    // The same in the other direction, for a part of the lines.
    let some = shown.lines().take(LINES / 10).fold(String::new(), |text, line| text + line + "\n");
    let written = inspect(&["--encode"], some.as_bytes()).await.stdout;
    assert!(written == input[..input.len() / 10]);
}
