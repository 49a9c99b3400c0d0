//! Ends: of the input, and by a signal, beside limits that lines behind them are for.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use metaq_testkit::{Fault, Requests};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    common::{Metaq, Running, broker, json_lines, line_numbers, wait_until},
    form::{counts, nowhere, produce, spool, text},
};

fn start(args: &[&str]) -> Running {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    Running::start(metaq.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lines_behind_a_slow_broker_are_spooled_at_a_late_signal() {
    const COUNT: u64 = 200;
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let slow = broker.faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(700)));
    let (cluster, partition) = (broker.addr().to_string(), format!("{}-0", broker.id()));
    let input = folder.path().join("input");
    std::fs::write(&input, "x\n".repeat(COUNT as usize)).unwrap();
    let path = folder.path().join("spool");
    // One at a time: all of them would take minutes.
    let args = ["--ordered", "-p", &partition, "--timeout", "2s", text(&input)];
    let metaq = start(&produce(&cluster, &path, &args));
    wait_until(|| slow.met() > 0).await;
    metaq.signal(Signal::SIGTERM);
    let output = metaq.output().await;
    let lines = json_lines(&output.stdout);
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(line_numbers(&lines), (1..=COUNT).collect::<Vec<_>>());
    let [_, spooled, failed, _] = counts(&lines);
    assert!(failed == 0 && spooled as u64 > COUNT / 2, "{:?}", counts(&lines));
    let listed = spool(&["ls", text(&path), "--json"]).await.json();
    assert_eq!(listed[0]["messages"], spooled as u64);
}

/// Reads a line of results.
fn next_line(stdout: &mut impl std::io::BufRead) -> Value {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_interval_between_writes_delays_no_end() {
    for signal in [None, Some(Signal::SIGTERM)] {
        let (cluster, folder) = (nowhere(), tempfile::tempdir().unwrap());
        let mut metaq = start(&produce(&cluster, folder.path(), &["--spool-fsync", "interval=1h"]));
        let mut stdin = metaq.stdin.take().unwrap();
        let mut stdout = std::io::BufReader::new(metaq.stdout.take().unwrap());
        stdin.write_all(b"1\n").unwrap();
        // The next write is an hour later.
        assert_eq!(next_line(&mut stdout)["line"], 1);
        stdin.write_all(b"2\n3\n").unwrap();
        let began = Instant::now();
        match signal {
            Some(signal) => metaq.signal(signal),
            None => drop(stdin),
        }
        let status = metaq.exited(Duration::from_secs(20)).await;
        assert_eq!(status.code(), Some(signal.map_or(0, |signal| 128 + signal as i32)), "{signal:?}");
        let rest = json_lines(&std::io::read_to_string(stdout).unwrap().into_bytes());
        let listed = spool(&["ls", text(folder.path()), "--json"]).await.json();
        let held = listed[0]["messages"].as_u64().unwrap();
        assert_eq!(counts(&rest), [0, held as usize - 1, 0, 0], "{signal:?} {:?}", began.elapsed());
    }
}

/// Starts the command, has a silent broker keep the first line in flight, and sends a signal. Returns the
/// results.
async fn stopped_behind_a_silent_broker(args: &[&str], input: &[u8], with_spool: bool) -> Vec<Value> {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let silent = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let cluster = broker.addr().to_string();
    let all = ["--in-flight", "1", "--timeout", "2s"];
    let args = [&all[..], args].concat();
    let args = if with_spool {
        produce(&cluster, folder.path(), &args)
    } else {
        [&["produce", "-b", &cluster, "-t", "t"], &args[..]].concat()
    };
    let mut metaq = start(&args);
    let mut stdin = metaq.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    wait_until(|| silent.met() > 0).await;
    metaq.signal(Signal::SIGTERM);
    let output = metaq.output().await;
    drop(stdin);
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = json_lines(&output.stdout);
    let spooled = counts(&lines)[1] as u64;
    if spooled > 0 {
        let listed = spool(&["ls", text(folder.path()), "--json"]).await.json();
        assert_eq!(listed[0]["messages"], spooled);
    }
    lines
}

/// The kind of the error of a line, or what became of it otherwise.
fn kind(lines: &[Value], number: u64) -> &str {
    let line = lines.iter().find(|line| line["line"] == number).unwrap();
    let other = if line["spooled"].is_string() { "spooled" } else { "stored" };
    line["error"]["kind"].as_str().unwrap_or(other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_error_stop_holds_for_lines_spooled_at_a_signal() {
    let input = b"{\"data\":\"a\"}\n{\"data\":\"b\"}\nno message\n{\"data\":\"c\"}\n{\"data\":\"d\"}\n{\"cut";
    let lines = stopped_behind_a_silent_broker(&["--json-lines", "--on-error", "stop"], input, true).await;
    assert_eq!(line_numbers(&lines), [1, 2, 3, 4, 5, 6]);
    let kinds: Vec<_> = (2..=6).map(|number| kind(&lines, number)).collect();
    assert_eq!(kinds, ["spooled", "input", "stopped", "stopped", "stopped"], "{lines:?}");
    let lines = stopped_behind_a_silent_broker(&["--json-lines"], input, true).await;
    let kinds: Vec<_> = (2..=6).map(|number| kind(&lines, number)).collect();
    assert_eq!(kinds, ["spooled", "input", "spooled", "spooled", "stopped"], "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lines_beyond_the_count_are_not_reported_at_a_signal() {
    for with_spool in [true, false] {
        let lines = stopped_behind_a_silent_broker(&["--count", "2"], b"1\n2\n3\n4", with_spool).await;
        assert_eq!(line_numbers(&lines), [1, 2], "{with_spool}: {lines:?}");
        assert_eq!(kind(&lines, 2), if with_spool { "spooled" } else { "stopped" });
        let lines = stopped_behind_a_silent_broker(&["--count", "4"], b"1\n2\n3\n4", with_spool).await;
        assert_eq!((line_numbers(&lines), kind(&lines, 4)), (vec![1, 2, 3, 4], "stopped"), "{with_spool}");
    }
}

#[tokio::test]
async fn the_accounts_of_a_summary_match_the_lines() {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    broker.faults().plan(Requests::puts().with_chance(0.3), Fault::refuse(503, "busy"));
    broker.faults().plan(Requests::puts().with_chance(0.1), Fault::refuse(400, "malformed"));
    let (cluster, log) = (broker.addr().to_string(), folder.path().join("log"));
    let path = folder.path().join("spool");
    let input: String = (0..500).map(|n| format!("{n}\n")).collect();
    let mut sums = [0; 4];
    let mut set_aside = 0;
    for _ in 0..2 {
        let args = ["--ack-log", text(&log), "--drain", "60s", "-X", "retry.max_attempts=1"];
        let finished = Metaq::start(&produce(&cluster, &path, &args)).finish(input.as_bytes()).await;
        assert!([0, 7].contains(&finished.status), "{}", finished.stderr);
        let lines = json_lines(&std::fs::read(&log).unwrap());
        std::fs::remove_file(&log).unwrap();
        let (aside, others): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|line| line["error"]["kind"] == "set-aside");
        assert_eq!(line_numbers(&others), (1..=500).collect::<Vec<_>>());
        for (sum, count) in sums.iter_mut().zip(counts(&others)) {
            *sum += count;
        }
        set_aside += aside.len();
    }
    let [stored, spooled, _, replayed] = sums;
    assert_eq!(spooled, replayed + set_aside, "{sums:?}");
    assert_eq!(broker.messages("t").len(), stored + replayed);
    let finished = spool(&["ls", text(&path)]).await;
    assert!(finished.stdout.ends_with(&format!("0 messages waiting, {set_aside} set aside\n")), "{sums:?}");
}
