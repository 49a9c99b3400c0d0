//! SIGTERM to `metaq produce` under load, with real brokers: every line that was read is reported, in time.
//! Its figures are in `docs/reliability.md`; `cargo xtask reliability` repeats it more often.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use common::Metaq;
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _},
    sync::watch,
};

/// The value of `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The number of lines that are acknowledged before the signal.
const ACKNOWLEDGED: usize = 2000;

/// The numbers of lines by outcome.
#[derive(Debug, Default)]
struct Outcomes {
    acknowledged: usize,
    unknown: usize,
    stopped: usize,
}

/// Parses the results of a run, and sorts them by line; each line that was read has exactly one.
fn by_line(printed: &str) -> Vec<Value> {
    let mut lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["line"].as_u64().unwrap());
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["line"], at as u64 + 1, "each line that was read has exactly one result");
    }
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_accounts_for_every_line_in_time() {
    let Some(peers) = Peers::get("sigterm_under_load_accounts_for_every_line_in_time") else { return };
    let full = std::env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full");
    let (times, grace) = if full { (20, Duration::from_millis(100)) } else { (2, Duration::from_secs(1)) };
    let session = Duration::from_secs(600);
    let zookeeper =
        ZooKeeper::builder().session_timeouts(Duration::from_secs(1), session).start(&peers).await.unwrap();
    let broker =
        |id| JavaBroker::builder(id).topic("t", 4).session_timeout(session).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (_first, second) = (first.unwrap(), second.unwrap());
    let cluster = format!("zk://{}", zookeeper.connect_string());
    let timeout = format!("{}s", TIMEOUT.as_secs());
    let args = ["produce", "--cluster", &cluster, "--topic", "t", "--timeout", &timeout];

    // The result of each payload, over all runs.
    let mut results = HashMap::new();
    // First both brokers answer, then one of them stops answering.
    for frozen in [false, true] {
        let (mut outcomes, mut slowest) = (Outcomes::default(), Duration::ZERO);
        for run in 0..times {
            let name = format!("{frozen}-{run}");
            let mut metaq = Metaq::start(&args);
            let mut feed = metaq.take_stdin();
            let payloads = name.clone();
            // Writes until the program reads no more.
            let feeding = tokio::spawn(async move {
                for batch in 0.. {
                    let lines = (1..=100).map(|n| format!("{payloads} {} {:.<200}\n", batch * 100 + n, ""));
                    if feed.write_all(lines.collect::<String>().as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
            // Reads continuously, since a slow reader would slow the program down.
            let mut stdout = metaq.take_stdout();
            let (count, mut counted) = watch::channel(0);
            let reading = tokio::spawn(async move {
                let mut printed = String::new();
                while stdout.read_line(&mut printed).await.unwrap() > 0 {
                    count.send_modify(|count| *count += 1);
                }
                printed
            });
            counted.wait_for(|count| *count >= ACKNOWLEDGED).await.unwrap();
            if frozen {
                second.freeze();
            }
            metaq.signal(Signal::SIGTERM);
            let signalled = Instant::now();
            let finished = metaq.wait().await;
            let took = signalled.elapsed();
            second.thaw();
            assert_eq!((finished.status, &*finished.stderr), (143, ""));
            assert!(took <= TIMEOUT + grace, "it took {took:?} to end");
            slowest = slowest.max(took);
            feeding.await.unwrap();
            for line in by_line(&reading.await.unwrap()) {
                let outcome = line["error"]["outcome"].as_str().map(str::to_owned);
                match outcome.as_deref() {
                    None => outcomes.acknowledged += 1,
                    Some("unknown") => outcomes.unknown += 1,
                    Some("not-sent") if line["error"]["kind"] == "stopped" => outcomes.stopped += 1,
                    other => panic!("{other:?}: {line}"),
                }
                results.insert(format!("{name} {}", line["line"]), line);
            }
        }
        let what = if frozen { "with a frozen broker" } else { "under load" };
        println!(
            "reliability: SIGTERM to `metaq produce` {what} ×{times}: {outcomes:?}, exited after {} ms at most, with a timeout of {timeout}",
            slowest.as_millis()
        );
        assert!(outcomes.acknowledged >= times * ACKNOWLEDGED && outcomes.stopped > 0, "{outcomes:?}");
        assert!(frozen || outcomes.unknown == 0, "{outcomes:?}");
    }

    let acknowledged = results.values().filter(|line| line["error"].is_null()).count();
    let read = peers.read_topic(&zookeeper, "t", acknowledged, Duration::from_secs(120)).await.unwrap();
    let mut lost = acknowledged;
    for message in &read {
        let payload = std::str::from_utf8(&message.payload).unwrap();
        let name = payload.rsplit_once(' ').unwrap().0;
        let line = results.remove(name);
        let line = line.unwrap_or_else(|| panic!("{name} was not read, or is stored twice"));
        if line["error"].is_null() {
            let place = (line["partition"].as_str().unwrap(), line["offset"].as_i64().unwrap());
            assert_eq!(place, (&*message.partition.to_string(), message.offset));
            lost -= 1;
        } else {
            assert_eq!(line["error"]["outcome"], "unknown", "{name} is stored");
        }
    }
    println!("reliability: SIGTERM to `metaq produce`: {lost} lost of {acknowledged}");
    assert_eq!(lost, 0);
}
