//! `metaq inspect` with lines that arrive in portions, are long, or are its own output.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use data_encoding::HEXLOWER;
use serde_json::json;

use crate::common::Metaq;

#[tokio::test]
async fn a_line_is_converted_before_the_next_one_is_complete() {
    for (args, line, shown) in [
        (["inspect", "--hex"], "717569740d0a", "quit"),
        (["inspect", "--encode"], "{\"command\":\"quit\"}", "717569740d0a"),
    ] {
        let mut metaq = Metaq::start(&args);
        let (start, end) = line.split_at(5);
        metaq.write(format!("{line}\n{start}").as_bytes()).await;
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), metaq.next_line());
        assert!(next.await.expect("it is shown").contains(shown));
        let finished = metaq.finish(end.as_bytes()).await;
        assert!(finished.status == 0 && finished.stdout.contains(shown), "{}", finished.stdout);
    }
}

#[tokio::test]
async fn a_long_line_is_shown_frame_by_frame() {
    let frame = [&b"result 200 1000000 1\r\n"[..], &[b'x'; 1_000_000]].concat();
    let frames = HEXLOWER.encode(&frame).repeat(10);
    let quit = HEXLOWER.encode(b"quit\r\n");
    for (end, last) in [
        (
            quit.clone(),
            json!({"input": 1, "offset": 10 * frame.len(), "length": 6, "command": "quit",
            "fields": {"opaque": 2_147_483_647}}),
        ),
        (quit[..10].to_owned(), json!({"input": 1, "offset": 10 * frame.len(), "incomplete": true})),
        (
            "71g".to_owned(),
            json!({"input": 1,
            "error": format!("not hexadecimal: column {} is not a digit", frames.len() + 3)}),
        ),
        (
            "717".to_owned(),
            json!({"input": 1,
            "error": format!("not hexadecimal: {} digits are not whole bytes", frames.len() + 3)}),
        ),
        (
            HEXLOWER.encode(b"bogus\r\nquit\r\n"),
            json!({"input": 1, "offset": 10 * frame.len(),
            "error": "\"bogus\" is not a command"}),
        ),
    ] {
        let input = format!("  {frames}{end} \r\n{quit}\n");
        let finished = Metaq::start(&["inspect", "--hex"]).finish(input.as_bytes()).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""));
        let shown = finished.json();
        let offsets: Vec<_> = shown[..10].iter().map(|shown| shown["offset"].as_u64().unwrap()).collect();
        assert_eq!(offsets, (0..10).map(|n| n * frame.len() as u64).collect::<Vec<_>>(), "{end}");
        assert_eq!((&shown[10], shown.len()), (&last, 12), "{end}");
        assert_eq!((&shown[11]["input"], &shown[11]["command"]), (&json!(2), &json!("quit")), "{end}");
    }
}

#[tokio::test]
async fn encode_reports_and_skips_a_line_that_is_too_long() {
    let long = format!("{{\"command\":\"quit\",\"x\":\"{}\"}}", "x".repeat(65 << 20));
    let input = format!("{long}\n{{\"command\":\"quit\"}}");
    let finished = Metaq::start(&["inspect", "--encode"]).finish(input.as_bytes()).await;
    assert_eq!(finished.status, 0);
    let expected = "{\"input\":1,\"error\":\"longer than 67108864 bytes\"}\n717569740d0a\n";
    assert_eq!(finished.stdout, expected);
}

#[test]
fn an_input_that_is_also_the_output_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both");
    std::fs::write(&path, "717569740d0a\n").unwrap();
    let append = || File::options().append(true).open(&path).unwrap();
    let inspect = || {
        let mut metaq = Command::new("sh");
        // Without the refusal it would never end; `ulimit` bounds the file then.
        metaq.args([
            "-c",
            "ulimit -f 2000; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_metaq"),
            "inspect",
            "--hex",
        ]);
        metaq.stdin(Stdio::null()).stdout(append()).stderr(Stdio::piped());
        metaq
    };
    let named = path.display().to_string();
    let mut by_name = inspect();
    by_name.arg(&path);
    let mut by_redirection = inspect();
    by_redirection.stdin(File::open(&path).unwrap());
    for (mut metaq, name) in [(by_name, &*named), (by_redirection, "stdin")] {
        let output = metaq.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, format!("metaq: {name} can't be read: it is the output, too\n"));
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "717569740d0a\n");
}
