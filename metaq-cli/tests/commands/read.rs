//! `metaq read` as a process.

use std::time::Duration;

use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;

use crate::common::{Finished, Metaq, broker, json_lines, restart};

async fn produce(broker: &Broker, lines: &[u8], attribute: Option<&str>) {
    let cluster = broker.addr().to_string();
    let mut args = vec!["produce", "--cluster", &cluster, "--topic", "t"];
    args.extend(attribute.iter().flat_map(|attribute| ["--attribute", attribute]));
    assert_eq!(Metaq::start(&args).finish(lines).await.status, 0);
}

async fn read(broker: &Broker, more: &str) -> Finished {
    let cluster = broker.addr().to_string();
    let more = more.split(' ').filter(|arg| !arg.is_empty());
    let args: Vec<_> = ["read", "t", "--cluster", &cluster].into_iter().chain(more).collect();
    Metaq::start(&args).finish(b"").await
}

#[tokio::test]
async fn payloads_come_back_as_lines() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let mut lines: Vec<_> = (0..5000).flat_map(|n| format!("строка {n}\n").into_bytes()).collect();
    lines.extend_from_slice(b"\n\xff\x00\xfe\n");
    produce(&broker, &lines, None).await;
    let cluster = broker.addr().to_string();
    let mut metaq = std::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(["read", "t", "--cluster", &cluster]);
    let output = tokio::task::spawn_blocking(move || metaq.output().unwrap()).await.unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let stored: Vec<_> =
        broker.messages("t").iter().flat_map(|message| [&*message.payload, b"\n"].concat()).collect();
    assert!(output.stdout == stored);
}

#[tokio::test]
async fn json_has_place_attribute_and_data() {
    let broker = broker().await;
    produce(&broker, "zwölf\n".as_bytes(), Some("ключ")).await;
    produce(&broker, b"\xff\xfe\n", None).await;
    let finished = read(&broker, "--json").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let mut lines = finished.json();
    lines.sort_by_key(|line| line["data"].is_null());
    let stored = broker.messages("t");
    let text = stored.iter().find(|stored| stored.attribute.is_some()).unwrap();
    assert_eq!(
        lines[0],
        serde_json::json!({
            "topic": "t", "partition": text.partition.to_string(), "offset": 0, "id": text.id.to_string(),
            "attribute": "ключ", "data": "zwölf"
        })
    );
    assert_eq!((&lines[1]["data_b64"], &lines[1]["attribute"]), (&"//4=".into(), &serde_json::Value::Null));
    assert_eq!(read(&broker, "--format json").await.stdout, finished.stdout);
}

#[tokio::test]
async fn hex_shows_every_byte() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    produce(&broker, b"0123456789abcdef\x01~\n", Some("a")).await;
    let id = broker.messages("t")[0].id;
    let expected = format!(
        "0-0 offset 0 id {id} attribute \"a\" 18 bytes\n  00000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  \
         0123456789abcdef\n  00000010  01 7e{}  .~\n",
        "   ".repeat(14)
    );
    assert_eq!(read(&broker, "--format hex").await.stdout, expected);
}

#[tokio::test]
async fn partition_offset_and_count_select_messages() {
    let broker = broker().await;
    produce(&broker, b"0\n1\n2\n3\n4\n5\n6\n7\n", None).await;
    for index in 0..2 {
        let stored = broker.messages("t");
        let stored: Vec<_> = stored.iter().filter(|stored| stored.partition.index == index).collect();
        let lines = read(&broker, &format!("-p 0-{index} --json")).await.json();
        assert_eq!(lines.len(), stored.len());
        let from = stored[1].offset;
        let finished = read(&broker, &format!("-p 0-{index} --from {from} -n 2")).await;
        let expected: Vec<_> =
            stored[1..3].iter().flat_map(|stored| [&*stored.payload, b"\n"].concat()).collect();
        assert_eq!(finished.stdout.as_bytes(), expected);
    }
    assert_eq!(read(&broker, "-n 0").await.stdout, "");
    assert_eq!(read(&broker, "-n 3").await.stdout.lines().count(), 3);
    assert_eq!(read(&broker, "--from end").await.stdout, "");
}

#[tokio::test]
async fn wrong_places_are_refused_with_the_right_ones() {
    let broker = broker().await;
    produce(&broker, b"one\n", None).await;
    for (more, status, said) in [
        ("-p 0-7", 4, "topic t has no partition 0-7; it has 0-0, 0-1"),
        ("--from 3", 2, "--from with an offset needs one partition"),
        ("-p 0-0 --from 4711", 4, "ends at offset"),
        ("--from never", 2, "expected begin, end, or an offset"),
        ("--from=-1", 2, "expected begin, end, or an offset"),
        ("-p 0", 2, "0"),
    ] {
        let finished = read(&broker, more).await;
        assert_eq!((finished.status, &*finished.stdout), (status, ""), "{more}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{more}: {}", finished.stderr);
    }
}

#[tokio::test]
async fn follow_prints_what_is_stored_later_until_a_signal() {
    let broker = broker().await;
    produce(&broker, b"before\n", None).await;
    let cluster = broker.addr().to_string();
    let mut metaq = Metaq::start(&["read", "t", "--cluster", &cluster, "--from", "end", "--follow"]);
    // It has begun when it has asked for messages.
    let gets = async {
        while broker_stat(&broker, "cmd_get").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gets).await.unwrap();
    for round in 0..5 {
        produce(&broker, format!("later {round}\n").as_bytes(), None).await;
        assert_eq!(metaq.next_line().await, format!("later {round}"));
    }
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    assert_eq!((finished.status, &*finished.stderr), (130, ""));
}

/// A figure of the broker's statistics.
async fn broker_stat(broker: &Broker, name: &str) -> u64 {
    let cluster = broker.addr().to_string();
    let finished = Metaq::start(&["stats", "--output", "json", "--cluster", &cluster]).finish(b"").await;
    let lines = finished.json();
    let stats = lines[0]["stats"].as_array().unwrap().iter();
    let value = stats.clone().find(|stat| stat[0] == name).unwrap()[1].as_str().unwrap().to_owned();
    value.parse().unwrap()
}

#[tokio::test]
async fn follow_survives_a_restart_of_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().topic("t", 1).data_dir(folder.path()).start().await.unwrap();
    produce(&broker, b"one\n", None).await;
    let cluster = broker.addr().to_string();
    let args = ["read", "t", "--cluster", &cluster, "--follow", "--timeout", "300ms"];
    let mut metaq = Metaq::start(&args);
    assert_eq!(metaq.next_line().await, "one");
    let broker = restart(broker).await;
    produce(&broker, b"two\n", None).await;
    assert_eq!(metaq.next_line().await, "two");
    metaq.signal(Signal::SIGTERM);
    assert_eq!(metaq.wait().await.status, 143);
}

#[tokio::test]
async fn message_that_nobody_can_read_is_named() {
    let broker = Broker::builder().topic("t", 1).max_transfer_size(100).start().await.unwrap();
    produce(&broker, format!("short\n{}\nlast\n", "x".repeat(200)).as_bytes(), None).await;
    let finished = read(&broker, "").await;
    assert_eq!((finished.status, &*finished.stdout), (9, "short\nlast\n"));
    assert!(
        finished.stderr.contains("offset 25 takes 220 bytes, more than the broker sends"),
        "{}",
        finished.stderr
    );
}

#[tokio::test]
async fn refusal_and_silence_of_the_broker_have_their_statuses() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    produce(&broker, b"one\n", None).await;
    let refused = broker.faults().plan(Requests::gets(), Fault::refuse(500, "no disk"));
    let finished = read(&broker, "").await;
    assert_eq!((finished.status, &*finished.stdout), (7, ""), "{}", finished.stderr);
    refused.cancel();
    broker.faults().plan(Requests::gets(), Fault::Ignore);
    let finished = read(&broker, "--timeout 300ms").await;
    assert_eq!((finished.status, &*finished.stdout), (5, ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("reading t 0-0 at offset 0"), "{}", finished.stderr);
}

#[tokio::test]
async fn reader_that_has_gone_ends_it() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    produce(&broker, "x\n".repeat(50_000).as_bytes(), None).await;
    let cluster = broker.addr().to_string();
    let mut metaq = Metaq::start(&["read", "t", "--json", "--cluster", &cluster]);
    assert_eq!(json_lines(metaq.next_line().await.as_bytes()).len(), 1);
    metaq.close_stdout();
    let finished = metaq.wait().await;
    assert_eq!((finished.status, &*finished.stderr), (141, ""));
}

#[tokio::test]
async fn broken_partition_leaves_the_others_readable() {
    let broker = broker().await;
    produce(&broker, b"0\n1\n2\n3\n", None).await;
    let refused = broker.faults().plan(Requests::gets().of_partition(0), Fault::refuse(500, "no disk"));
    let finished = read(&broker, "").await;
    assert_eq!((finished.status, finished.stdout.lines().count()), (7, 2), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    refused.cancel();
    broker.faults().plan(Requests::offsets().of_partition(0), Fault::refuse(500, "no disk"));
    let finished = read(&broker, "").await;
    assert_eq!((finished.status, finished.stdout.lines().count()), (7, 2), "{}", finished.stderr);
}

#[tokio::test]
async fn follow_begins_with_the_brokers_that_are_there() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let later = Broker::builder().id(1).topic("t", 1).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    let text =
        format!("[brokers]\n0 = \"{}\"\n1 = \"{}\"\n[topics.t]\n0 = 1\n1 = 1\n", broker.addr(), later.addr());
    std::fs::write(&file, text).unwrap();
    produce(&broker, b"one\n", None).await;
    produce(&later, b"two\n", None).await;
    later.faults().refuse_connections(true);
    let cluster = format!("file:{}", file.display());
    let mut metaq = Metaq::start(&["read", "t", "--cluster", &cluster, "--follow"]);
    assert_eq!(metaq.next_line().await, "one");
    later.faults().refuse_connections(false);
    assert_eq!(metaq.next_line().await, "two");
    metaq.signal(Signal::SIGTERM);
    let finished = metaq.wait().await;
    assert_eq!((finished.status, finished.stderr.lines().count()), (143, 1), "{}", finished.stderr);
}

#[tokio::test]
async fn follow_waits_for_a_broker_without_a_registry() {
    let addr = metaq_testkit::unused_addr().unwrap();
    let cluster = format!("meta://{addr}");
    let mut metaq = Metaq::start(&["read", "t", "--cluster", &cluster, "--follow", "--timeout", "1s"]);
    // It has asked, and would have ended by then.
    assert!(tokio::time::timeout(Duration::from_secs(1), metaq.next_line()).await.is_err());
    let broker = Broker::builder().port(addr.port()).topic("t", 1).start().await.unwrap();
    produce(&broker, b"one\n", None).await;
    let line = tokio::time::timeout(Duration::from_secs(30), metaq.next_line()).await.unwrap();
    assert_eq!(line, "one");
    metaq.signal(Signal::SIGTERM);
    let finished = metaq.wait().await;
    assert_eq!((finished.status, finished.stderr.lines().count()), (143, 1), "{}", finished.stderr);
    assert!(finished.stderr.ends_with("; trying again\n"), "{}", finished.stderr);
}

#[tokio::test]
async fn what_is_read_can_be_produced() {
    let broker = broker().await;
    produce(&broker, b"one\ntwo\n", Some("a")).await;
    produce(&broker, b"\xff\n", None).await;
    let lines = read(&broker, "--json").await.stdout;
    let cluster = broker.addr().to_string();
    let args = ["produce", "--cluster", &cluster, "--topic", "t", "--json-lines"];
    let finished = Metaq::start(&args).finish(lines.as_bytes()).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""), "{}", finished.stdout);
    let mut payloads: Vec<_> = broker.messages("t").into_iter().map(|stored| stored.payload).collect();
    payloads.sort();
    assert_eq!(
        payloads,
        ["one", "one", "two", "two"]
            .map(|text| text.as_bytes())
            .into_iter()
            .chain([&b"\xff"[..]; 2])
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn end_that_can_not_be_reached_is_named() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    produce(&broker, b"one\n", None).await;
    let not_found = Fault::Refuse(metaq_testkit::Status(404), "nothing".to_owned());
    broker.faults().plan(Requests::gets(), not_found);
    let finished = read(&broker, "").await;
    assert_eq!((finished.status, &*finished.stdout), (9, ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("0-0 can't be read from offset 0 to the end"), "{}", finished.stderr);
}
