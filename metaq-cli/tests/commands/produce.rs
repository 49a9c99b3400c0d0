//! `metaq produce` and `metaq dev-broker` as processes, against embedded brokers.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use metaq_testkit::Broker;
use serde_json::json;

use crate::common::{Finished, Metaq};

#[tokio::test]
async fn every_line_is_a_message_and_gets_its_json_line() {
    let broker = Broker::builder().topic("t", 3).start().await.unwrap();
    let args = ["produce", "--cluster", &broker.addr().to_string(), "--topic", "t", "--attribute", "tag"];
    let finished = Metaq::start(&args).finish(b"one\n\nthree with \xe6\x96\x87\r\nlast").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let mut lines = finished.json();
    lines.sort_by_key(|line| line["line"].as_u64());
    assert_eq!(lines.iter().map(|line| line["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for line in &lines {
        assert!(line["offset"].is_i64() && line["id"].as_str().unwrap().parse::<i64>().is_ok(), "{line}");
        assert!(line["partition"].as_str().unwrap().contains('-'), "{line}");
    }
    let mut stored: Vec<_> = broker.messages("t").into_iter().map(|stored| stored.payload).collect();
    stored.sort_unstable();
    assert_eq!(stored, [&b""[..], b"last", b"one", b"three with \xe6\x96\x87\r"]);
    assert!(broker.messages("t").iter().all(|stored| stored.attribute.as_deref() == Some("tag")));
}

#[tokio::test]
async fn a_line_is_sent_as_soon_as_it_is_read() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let mut metaq = Metaq::start(&["produce", "--cluster", &broker.addr().to_string(), "--topic", "t"]);
    for n in 1..=3 {
        metaq.write(b"x\n").await;
        let line: serde_json::Value = serde_json::from_str(&metaq.next_line().await).unwrap();
        assert_eq!(line["line"], n);
    }
    assert_eq!(metaq.finish(b"").await.status, 0);
}

#[tokio::test]
async fn many_more_lines_than_may_be_in_flight_are_all_sent() {
    let broker = Broker::builder().topic("t", 4).start().await.unwrap();
    let addr = broker.addr().to_string();
    for (in_flight, count) in [("3", 3_000), ("64", 6_000), ("1024", 15_000), ("65536", 40_000)] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for n in 0..count {
            writeln!(file, "{n}").unwrap();
        }
        let path = file.path().display().to_string();
        let args = [
            "produce",
            "--cluster",
            &addr,
            "--topic",
            "t",
            "--in-flight",
            in_flight,
            "--timeout",
            "30s",
            &path,
        ];
        let finished = tokio::time::timeout(Duration::from_secs(60), Metaq::start(&args).finish(b"")).await;
        let finished = finished.unwrap_or_else(|_| panic!("still not finished with {in_flight} in flight"));
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{in_flight} in flight");
        assert_eq!(finished.json().len(), count, "{in_flight} in flight");
    }
    assert_eq!(broker.messages("t").len(), 64_000);
}

#[tokio::test]
async fn a_file_names_the_brokers() {
    let broker = Broker::builder().topic("t", 2).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    let cluster = format!("file:{}", path.display());
    let args = ["produce", "--cluster", &cluster, "--topic", "t"];
    let finished = Metaq::start(&args).finish(b"x\n").await;
    assert_eq!(finished.status, 2);
    assert!(finished.stderr.contains("brokers.toml can't be read: No such file"), "{}", finished.stderr);
    let text = format!("[brokers]\n{} = \"{}\"\n[topics.t]\n{0} = 2\n", broker.id(), broker.addr());
    std::fs::write(&path, text).unwrap();
    let finished = Metaq::start(&args).finish(b"one\ntwo\n").await;
    assert_eq!((finished.status, &*finished.stderr, finished.json().len()), (0, "", 2));
    assert_eq!(broker.messages("t").len(), 2);
    std::fs::write(&path, "[brokers\n").unwrap();
    let finished = Metaq::start(&args).finish(b"x\n").await;
    assert!(finished.status == 2 && finished.stderr.lines().count() == 1, "{}", finished.stderr);
    assert!(
        finished.stderr.contains("is malformed") && finished.stderr.contains("line 1"),
        "{}",
        finished.stderr
    );
}

#[tokio::test]
async fn topics_take_turns_by_line() {
    let broker = Broker::builder().topic("a", 1).topic("b", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let args = ["produce", "--cluster", &addr, "--topic", "a", "--topic", "b", "--in-flight", "1"];
    assert_eq!(Metaq::start(&args).finish(b"1\n2\n3\n4\n5\n").await.status, 0);
    let payloads =
        |topic| broker.messages(topic).into_iter().map(|stored| stored.payload).collect::<Vec<_>>();
    assert_eq!(payloads("a"), ["1", "3", "5"]);
    assert_eq!(payloads("b"), ["2", "4"]);
}

#[tokio::test]
async fn files_are_read_in_turn_and_a_missing_one_is_wrong_usage() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let mut files = [tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap()];
    files[0].write_all(b"1\n2").unwrap();
    files[1].write_all(b"3\n").unwrap();
    let paths = [0, 1].map(|n| files[n].path().display().to_string());
    let args = ["produce", "--cluster", &addr, "--topic", "t", "--in-flight", "1", &paths[0], &paths[1]];
    assert_eq!(Metaq::start(&args).finish(b"").await.status, 0);
    let payloads: Vec<_> = broker.messages("t").into_iter().map(|stored| stored.payload).collect();
    assert_eq!(payloads, ["1", "2", "3"]);

    let missing = ["produce", "--cluster", &addr, "--topic", "t", "no/such/file"];
    let finished = Metaq::start(&missing).finish(b"").await;
    assert_eq!(finished.status, 2);
    assert_eq!(
        finished.stderr,
        "metaq: no/such/file can't be read: No such file or directory (os error 2)\n"
    );
}

#[tokio::test]
async fn a_refusal_is_reported_for_its_line_and_the_status_says_so() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let args = ["produce", "--cluster", &addr, "--topic", "t", "--topic", "unknown", "--in-flight", "1"];
    let finished = Metaq::start(&args).finish(b"1\n2\n").await;
    assert_eq!(finished.status, 7);
    let error = &finished.json()[1]["error"];
    assert_eq!((&error["kind"], &error["outcome"]), (&json!("rejected"), &json!("rejected")));
    let text = error["message"].as_str().unwrap();
    assert!(text.contains("The server do not accept topic unknown") && text.contains(&addr), "{text}");
}

#[tokio::test]
async fn a_message_that_consumers_could_not_fetch_is_not_sent() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let args = ["produce", "--cluster", &broker.addr().to_string(), "--topic", "t"];
    let mut input = vec![b'x'; 1_048_557];
    input.push(b'\n');
    input.extend_from_slice(&vec![b'y'; 17 * 1024 * 1024]);
    input.extend_from_slice(b"\nshort\n");
    input.extend_from_slice(&vec![b'z'; 1_048_556]);
    let finished = Metaq::start(&args).finish(&input).await;
    assert_eq!(finished.status, 3);
    let mut lines = finished.json();
    lines.sort_by_key(|line| line["line"].as_u64());
    for line in &lines[..2] {
        assert_eq!(
            (&line["error"]["kind"], &line["error"]["outcome"]),
            (&json!("too-large"), &json!("not-sent"))
        );
    }
    assert!(lines[2]["offset"].is_i64() && lines[3]["offset"].is_i64());
    assert_eq!(broker.messages("t").len(), 2);
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    for (args, said) in [
        (&["produce", "--topic", "t"][..], "--cluster"),
        (&["produce", "--cluster", "meta://h:1"], "--topic"),
        (&["produce", "--cluster", "h:1", "--topic", "t"], "expected zk://HOST:PORT"),
        (&["produce", "--cluster", "zk://h", "--topic", "t"], "\"h\" has no port"),
        (&["produce", "--cluster", "meta://h:0", "--topic", "t"], "the port is 0"),
        (&["produce", "--cluster", "meta://h:1", "--topic", "a b"], "contains a space"),
        (&["produce", "--cluster", "meta://h:1", "--topic", "t", "--timeout", "soon"], "--timeout"),
        (
            &["produce", "--cluster", "meta://h:1", "--topic", "t", "--timeout", "0s"],
            "'--timeout <TIMEOUT>': must be greater than zero",
        ),
        (
            &["tx", "--cluster", "meta://h:1", "--topic", "t", "--commit", "--timeout", "0s"],
            "'--timeout <TIMEOUT>': must be greater than zero",
        ),
        (&["produce", "--cluster", "meta://h:1", "--topic", "t", "--in-flight", "0"], "--in-flight"),
        (
            &["produce", "--cluster", "meta://h:1", "--topic", "t", "--in-flight", "65537"],
            "65537 is not in 1..=65536",
        ),
        (&["dev-broker", "--topic", "t"], "NAME:PARTITIONS"),
        (&["dev-broker", "--topic", "t:0"], "between 1 and 65536"),
        (&["dev-broker", "--topic", "t:1", "--register", "h:1"], "expected zk://HOST:PORT"),
        (&["dev-broker", "--topic", "t:1", "--register", "zk://h"], "has no port"),
        (&["dev-broker", "--topic", "t:1", "--id=-1"], "invalid value '-1' for '--id <ID>'"),
        (&["bogus"], "bogus"),
    ] {
        let finished = Metaq::start(args).finish(b"").await;
        assert_eq!(finished.status, 2, "{args:?}");
        assert!(
            finished.stderr.contains(said) && finished.stdout.is_empty(),
            "{args:?}: {}",
            finished.stderr
        );
    }
}

#[tokio::test]
async fn an_unreachable_cluster_gives_one_line_in_time() {
    let port = metaq_testkit::unused_addr().unwrap().port();
    for (cluster, said) in [
        (format!("zk://127.0.0.1:{port}"), format!("no ZooKeeper answered at 127.0.0.1:{port} within 2.9s")),
        (
            format!("meta://127.0.0.1:{port}"),
            format!("none of its brokers could be reached within 3s: meta://127.0.0.1:{port}"),
        ),
    ] {
        let started = Instant::now();
        let finished = Metaq::start(&["produce", "--cluster", &cluster, "--topic", "t"]).finish(b"x\n").await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!((finished.status, finished.stdout.as_str()), (5, ""));
        let Finished { stderr, .. } = finished;
        assert!(stderr.contains(&said) && stderr.contains("topic t"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn an_unreachable_etcd_gives_one_line_without_debug_text() {
    let port = metaq_testkit::unused_addr().unwrap().port();
    let cluster = format!("etcd://127.0.0.1:{port}");
    let finished = Metaq::start(&["produce", "--cluster", &cluster, "--topic", "t"]).finish(b"x\n").await;
    assert_eq!((finished.status, finished.stdout.as_str()), (5, ""));
    let Finished { stderr, .. } = finished;
    let said = format!("no etcd answered at 127.0.0.1:{port} within 2.9s");
    assert!(stderr.contains(&said) && stderr.contains("Connection refused"), "{stderr}");
    assert!(stderr.lines().count() == 1 && !stderr.contains("Error"), "{stderr}");
}

#[tokio::test]
async fn the_help_names_every_kind_of_cluster() {
    for subcommand in ["produce", "tx", "bench"] {
        let help = Metaq::start(&[subcommand, "--help"]).finish(b"").await.stdout;
        for cluster in ["zk://HOST:PORT", "etcd://HOST:PORT", "meta://HOST:PORT", "file:PATH"] {
            assert!(help.contains(cluster), "{subcommand}: {help}");
        }
    }
}

#[tokio::test]
async fn a_signal_stops_reading_and_every_message_is_reported() {
    for (signal, status) in [(nix::sys::signal::SIGINT, 130), (nix::sys::signal::SIGTERM, 143)] {
        let broker = Broker::builder().topic("t", 2).start().await.unwrap();
        let mut metaq = Metaq::start(&["produce", "--cluster", &broker.addr().to_string(), "--topic", "t"]);
        metaq.write("message\n".repeat(5000).as_bytes()).await;
        let mut lines = vec![metaq.next_line().await];
        metaq.signal(signal);
        let finished = metaq.wait().await;
        assert_eq!(finished.status, status);
        lines.extend(finished.stdout.lines().map(str::to_owned));
        let lines: Vec<serde_json::Value> =
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut numbers: Vec<_> = lines.iter().map(|line| line["line"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        let count = numbers.len() as u64;
        assert_eq!(
            numbers,
            (1..=count).collect::<Vec<_>>(),
            "each line that was read has exactly one result"
        );
        let stored = lines.iter().filter(|line| line["offset"].is_i64()).count();
        assert_eq!(stored, broker.messages("t").len());
        assert_eq!(finished.stderr, "");
    }
}

#[tokio::test]
async fn a_closed_stdout_ends_it_and_unwritten_lines_are_counted() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let mut metaq = Metaq::start(&["produce", "--cluster", &broker.addr().to_string(), "--topic", "t"]);
    metaq.write(b"x\n").await;
    metaq.next_line().await;
    metaq.close_stdout();
    metaq.write(&b"x\n".repeat(100)).await;
    let finished = metaq.wait().await;
    assert_eq!(finished.status, 141);
    let said = "metaq: the results can't be written: Broken pipe (os error 32); ";
    assert!(finished.stderr.starts_with(said), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}

#[tokio::test]
async fn the_dev_broker_prints_its_address_first_and_serves() {
    let mut dev_broker = Metaq::start(&["dev-broker", "--topic", "a:2", "--topic", "b:1"]);
    let addr = dev_broker.next_line().await;
    let args = ["produce", "--cluster", &addr, "--topic", "a", "--topic", "b"];
    assert_eq!(Metaq::start(&args).finish(b"1\n2\n").await.status, 0);
    let port = addr.rsplit(':').next().unwrap();
    let taken = Metaq::start(&["dev-broker", "--topic", "a:1", "--port", port]).finish(b"").await;
    assert_eq!(taken.status, 8);
    assert!(taken.stderr.contains(&format!("can't be started on port {port}")), "{}", taken.stderr);
    dev_broker.signal(nix::sys::signal::SIGTERM);
    assert_eq!(dev_broker.wait().await.status, 0);
}

#[tokio::test]
async fn the_dev_broker_keeps_its_messages_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let args = ["dev-broker", "--topic", "a:1", "--topic", "any*:1", "--id", "4", "--data-dir", data];
    for offset in [0, 21] {
        let mut dev_broker = Metaq::start(&args);
        let addr = dev_broker.next_line().await;
        let produce = ["produce", "--cluster", &addr, "--topic", "a"];
        let finished = Metaq::start(&produce).finish(b"1\n").await;
        assert_eq!(finished.json()[0]["offset"], offset);
        assert_eq!(finished.json()[0]["partition"], "4-0");
        dev_broker.signal(nix::sys::signal::SIGINT);
        assert_eq!(dev_broker.wait().await.status, 0);
    }
    std::fs::write(folder.path().join("a-0/00000000000000000100.meta"), "").unwrap();
    let finished = Metaq::start(&args).finish(b"").await;
    assert_eq!(finished.status, 8);
    let said = format!("metaq: a broker can't be started: the data folder {data} can't be used: ");
    assert!(finished.stderr.starts_with(&said), "{}", finished.stderr);
    assert!(finished.stderr.contains("leave a gap before 100"), "{}", finished.stderr);
}

#[tokio::test]
async fn a_dev_broker_that_can_not_register_can_be_stopped() {
    let mut dev_broker =
        Metaq::start(&["dev-broker", "--topic", "a:1", "--register", "zk://127.0.0.1:1/meta"]);
    // By then the broker has started, and waits for the registry.
    assert!(tokio::time::timeout(Duration::from_millis(300), dev_broker.next_line()).await.is_err());
    dev_broker.signal(nix::sys::signal::SIGINT);
    assert_eq!(dev_broker.wait().await.status, 130);
}
