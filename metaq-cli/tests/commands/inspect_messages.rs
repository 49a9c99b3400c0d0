//! The output of `metaq inspect` besides the fields of a frame: messages, and the bytes on the wire.

use data_encoding::HEXLOWER;
use serde_json::json;

use crate::common::{Finished, Metaq};

async fn inspect(args: &[&str], input: &[u8]) -> Finished {
    let finished = Metaq::start(&[&["inspect"], args].concat()).finish(input).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    finished
}

#[tokio::test]
async fn a_message_is_shown_in_its_parts() {
    let part = |hex: &str, text: &str| json!({"hex": hex, "text": text});
    for (frame, message) in [
        (
            &b"put test 1 13 1 -1 1\r\n\0\0\0\x04attrhello"[..],
            json!({"attribute": part("61747472", "attr"), "payload": part("68656c6c6f", "hello")}),
        ),
        // An empty attribute is not the same as none, and the other bits of the flag are ignored.
        (
            b"sync test 1 9 3 5 -1 1\r\n\0\0\0\0hello",
            json!({"attribute": part("", ""), "payload": part("68656c6c6f", "hello")}),
        ),
        (b"put test 1 4 2 -1 1\r\na\tb\n", json!({"attribute": null, "payload": part("6109620a", "a\tb\n")})),
        // Bytes that are not text are printed in hexadecimal only.
        (
            b"put test 1 8 1 -1 1\r\n\0\0\0\x01\xffa\x1bb",
            json!({"attribute": {"hex": "ff"}, "payload": {"hex": "611b62"}}),
        ),
        (
            b"put test 1 3 1 -1 1\r\nabc",
            json!({"error": "the flag announces an attribute, and the data of 3 bytes has no room for the attribute's length"}),
        ),
        (
            b"put test 1 8 1 -1 1\r\n\0\0\0\x05attr",
            json!({"error": "the attribute of 5 bytes doesn't fit into the 4 bytes behind its length"}),
        ),
        (
            b"put test 1 4 1 -1 1\r\n\xff\xff\xff\xff",
            json!({"error": "the attribute of -1 bytes doesn't fit into the 0 bytes behind its length"}),
        ),
    ] {
        let shown = inspect(&[], frame).await;
        assert_eq!(shown.json()[0]["message"], message);
        // The fields suffice to encode the frame again.
        let written = inspect(&["--encode"], shown.stdout.as_bytes()).await.stdout;
        assert_eq!(
            inspect(&["--hex"], written.as_bytes()).await.json()[0]["fields"],
            shown.json()[0]["fields"]
        );
        assert_eq!(written.trim_end(), HEXLOWER.encode(frame));
    }
}

#[tokio::test]
async fn stored_messages_are_shown_one_by_one() {
    let first = "0000000d4b62e51cb41a7b7cae80000000000001000000046174747268656c6c6f";
    let second = "000000053610a68600000000000000070000000068656c6c6f";
    let frame = |data: &str| HEXLOWER.encode(format!("value {} 1\r\n", data.len() / 2).as_bytes()) + data;
    let whole = [
        json!({"offset": 0, "id": -5_468_923_022_054_260_736_i64, "flag": 1,
            "attribute": {"hex": "61747472", "text": "attr"}, "payload": {"hex": "68656c6c6f", "text": "hello"}}),
        json!({"offset": 33, "id": 7, "flag": 0, "attribute": null,
            "payload": {"hex": "68656c6c6f", "text": "hello"}}),
    ];
    let all = format!("{first}{second}");
    let cut = &all[..all.len() - 2];
    let corrupt = all.replace("0000000700000000", "0000000700000001");
    let input = [frame(""), frame(&all), frame(cut), frame(&corrupt)].join("\n");
    let shown = inspect(&["--hex"], input.as_bytes()).await.json();
    assert_eq!(shown[0]["messages"], json!([]));
    assert_eq!(shown[1]["messages"], json!(whole));
    assert_eq!(shown[2]["messages"], json!([whole[0], {"offset": 33, "incomplete": true}]));
    let error = "the attribute of 1751477356 bytes doesn't fit into the 1 bytes behind its length";
    assert_eq!(shown[3]["messages"], json!([whole[0], {"offset": 33, "error": error}]));
}

#[tokio::test]
async fn the_bytes_of_a_frame_are_shown_as_they_came() {
    let frames = b"version 007\r\nput test 1 5 +0 09 1\r\nhelloversion 8  \r\nversion";
    let shown = inspect(&["--raw"], frames).await.json();
    let mut start = 0;
    for shown in &shown[..3] {
        let length = shown["length"].as_u64().unwrap() as usize;
        assert_eq!(shown["offset"], json!(start));
        assert_eq!(shown["bytes"], HEXLOWER.encode(&frames[start..start + length]));
        start += length;
    }
    assert_eq!(shown[3], json!({"offset": start, "incomplete": true}));
    assert_eq!(inspect(&[], frames).await.json()[0].get("bytes"), None);
    let by_line = inspect(&["--hex", "--raw"], HEXLOWER.encode(b"version 007\r\n").as_bytes()).await.json();
    assert_eq!(by_line[0]["bytes"], HEXLOWER.encode(b"version 007\r\n"));
    let refused = Metaq::start(&["inspect", "--encode", "--raw"]).finish(b"").await;
    assert_eq!(refused.status, 2);
}
