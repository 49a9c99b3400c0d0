//! `metaq inspect --pcap` as a process.

use std::{borrow::Cow, fs, io::Cursor, time::Duration};

use etherparse::PacketBuilder;
use pcap_file::{
    DataLink,
    pcap::{PcapHeader, PcapPacket, PcapWriter},
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketBlock,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use serde_json::{Value, json};

use crate::common::{Finished, Metaq};

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const BROKER: [u8; 4] = [10, 0, 0, 2];
const TO_BROKER: &str = "10.0.0.1:40000>10.0.0.2:8123";
const TO_CLIENT: &str = "10.0.0.2:8123>10.0.0.1:40000";

/// An Ethernet frame with a segment of a connection to a port of the broker.
pub(super) fn segment(is_answer: bool, port: u16, sequence: u32, is_start: bool, payload: &[u8]) -> Vec<u8> {
    let (from, to) = if is_answer { (BROKER, CLIENT) } else { (CLIENT, BROKER) };
    let (from_port, to_port) = if is_answer { (port, 40_000) } else { (40_000, port) };
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(from, to, 64);
    let builder = builder.tcp(from_port, to_port, sequence, 4096);
    let builder = if is_start { builder.syn() } else { builder.ack(1) };
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

pub(super) fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Cursor::new(Vec::new()), header).unwrap();
    for (second, packet) in (0..).zip(packets) {
        let time = Duration::new(1_700_000_000 + second, 500_000_000);
        writer.write_packet(&PcapPacket::new(time, packet.len() as u32, packet)).unwrap();
    }
    writer.into_writer().into_inner()
}

/// The same as pcapng, with times in milliseconds.
fn pcapng(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Cursor::new(Vec::new())).unwrap();
    let options = vec![InterfaceDescriptionOption::IfTsResol(3)];
    writer
        .write_pcapng_block(InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options })
        .unwrap();
    for (second, packet) in (0..).zip(packets) {
        // The library writes the nanoseconds as they are.
        let timestamp = Duration::from_nanos((1_700_000_000 + second) * 1000 + 500);
        let (original_len, data) = (packet.len() as u32, Cow::Borrowed(&packet[..]));
        let block =
            EnhancedPacketBlock { interface_id: 0, timestamp, original_len, data, options: Vec::new() };
        writer.write_pcapng_block(block).unwrap();
    }
    writer.into_inner().into_inner()
}

async fn inspect(file: &[u8], more: &[&str]) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capture");
    fs::write(&path, file).unwrap();
    let args = [&["inspect", "--pcap", path.to_str().unwrap()], more].concat();
    Metaq::start(&args).finish(b"").await
}

/// A request in three segments, which come out of order and twice, and its answer.
fn conversation() -> Vec<Vec<u8>> {
    vec![
        segment(false, 8123, 99, true, b""),
        segment(true, 8123, u32::MAX - 3, true, b""),
        segment(false, 8123, 108, false, b"60\r\nversion 61\r\n"),
        segment(false, 8123, 100, false, b"version "),
        segment(false, 8123, 100, false, b"version 60\r\n"),
        segment(true, 8123, u32::MAX - 2, false, b"result 200 3 60\r\n0.1"),
        // Another port, and another protocol.
        segment(false, 80, 5, false, b"GET / HTTP/1.1\r\n"),
        {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(CLIENT, BROKER, 64).udp(1, 8123);
            builder.write(&mut packet, b"version 7\r\n").unwrap();
            packet
        },
    ]
}

#[tokio::test]
async fn frames_of_both_directions_come_with_stream_and_time() {
    for (name, file) in [("pcap", pcap(&conversation())), ("pcapng", pcapng(&conversation()))] {
        let finished = inspect(&file, &[]).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{name}");
        let lines = finished.json();
        let shown: Vec<_> = lines
            .iter()
            .map(|line| {
                (
                    line["stream"].as_str().unwrap(),
                    line["time"].as_f64().unwrap(),
                    &line["command"],
                    &line["offset"],
                )
            })
            .collect();
        let (version, result) = (Value::from("version"), Value::from("result"));
        let (zero, twelve) = (Value::from(0), Value::from(12));
        let expected = [
            (TO_BROKER, 1_700_000_003.5, &version, &zero),
            (TO_BROKER, 1_700_000_003.5, &version, &twelve),
            (TO_CLIENT, 1_700_000_005.5, &result, &zero),
        ];
        assert_eq!(shown, expected, "{name}");
        assert_eq!(lines[1]["fields"]["opaque"], 61);
    }
}

#[tokio::test]
async fn port_selects_the_streams() {
    let mut packets = conversation();
    packets.push(segment(false, 9000, 5, false, b"version 9\r\n"));
    let lines = inspect(&pcap(&packets), &["--port", "9000"]).await.json();
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0]["fields"]["opaque"], &lines[0]["stream"]),
        (&9.into(), &"10.0.0.1:40000>10.0.0.2:9000".into())
    );
    let lines = inspect(&pcap(&packets), &["--port", "9000", "--port", "8123", "--raw"]).await.json();
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line["bytes"].is_string()));
}

#[tokio::test]
async fn missing_bytes_and_cut_frames_are_named() {
    let packets = [
        segment(false, 8123, 0, false, b"version 60\r\n"),
        segment(false, 8123, 20, false, b"version 61\r\n"),
        segment(true, 8123, 0, false, b"result 200 3 60\r\n0"),
    ];
    let lines = inspect(&pcap(&packets), &[]).await.json();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0]["command"], "version");
    assert_eq!(lines[1], json!({"stream": TO_BROKER, "time": 1_700_000_001.5, "missing": 8}));
    assert_eq!((&lines[2]["stream"], &lines[2]["incomplete"]), (&TO_CLIENT.into(), &true.into()));
}

#[tokio::test]
async fn other_files_are_refused() {
    for (file, said) in [
        (&b""[..], "it is empty"),
        (b"no capture at all, and long enough for a header", "it is no pcap or pcapng file"),
        (b"short", "it is no pcap or pcapng file"),
        (&pcap(&conversation())[..20], "the capture ends within its header"),
    ] {
        let finished = inspect(file, &[]).await;
        assert_eq!((finished.status, &*finished.stdout), (8, ""), "{}", finished.stderr);
        assert!(
            finished.stderr.ends_with(&format!("/capture can't be read: {said}\n")),
            "{}",
            finished.stderr
        );
    }
    let finished = Metaq::start(&["inspect", "--port", "1"]).finish(b"").await;
    assert_eq!(finished.status, 2);
    // A file that is cut off has the frames before.
    let file = pcap(&conversation());
    let finished = inspect(&file[..file.len() - 5], &[]).await;
    assert_eq!((finished.status, finished.json().len()), (8, 3), "{}", finished.stderr);
    let said = "/capture can't be read: the capture ends within a packet\n";
    assert!(finished.stderr.ends_with(said), "{}", finished.stderr);
}

#[tokio::test]
async fn open_streams_of_a_cut_file_are_ended() {
    let packets = [
        segment(false, 8123, 0, false, b"version 60\r\nvers"),
        segment(true, 8123, 0, false, b"result 200 3 60\r\n0.1"),
        segment(true, 8123, 50, false, b"result 200 3 61\r\n0.1"),
        segment(false, 8123, 16, false, b"ion 61\r\n"),
    ];
    for file in [pcap(&packets), pcapng(&packets)] {
        let finished = inspect(&file[..file.len() - 5], &[]).await;
        let lines = finished.json();
        assert_eq!((finished.status, lines.len()), (8, 4), "{} {}", finished.stdout, finished.stderr);
        let line = |key: &str, stream: &str| {
            lines.iter().any(|line| line["stream"] == stream && !line[key].is_null())
        };
        assert!(line("incomplete", TO_BROKER) && line("missing", TO_CLIENT), "{}", finished.stdout);
        assert!(finished.stderr.contains("the capture ends within a packet"), "{}", finished.stderr);
    }
}
