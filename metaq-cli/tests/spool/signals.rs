//! Signals, and a second process.

use std::{
    io::{Read as _, Write as _},
    process::Stdio,
    time::Duration,
};

use metaq_testkit::{Fault, Requests};
use nix::sys::signal::Signal;

use crate::{
    common::{Metaq, Running, broker, json_lines, line_numbers, stop_ignoring_hangups, wait_until},
    form::{counts, nowhere, produce, spool, stored, text},
};

/// Starts `metaq` on one end of a pipe, writes lines of six bytes, has the signal sent when `is_time`, and
/// checks that each byte that was taken is in a line of the report. Returns the lines.
async fn stopped(
    args: &[&str],
    count: usize,
    signal: Signal,
    is_time: impl FnMut() -> bool,
) -> Vec<serde_json::Value> {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let mut metaq = std::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(args).stdin(reader.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let metaq = Running::start(&mut metaq);
    let input: String = (1..=count).map(|n| format!("{n:05}\n")).collect();
    writer.write_all(input.as_bytes()).unwrap();
    wait_until(is_time).await;
    metaq.signal(signal);
    let output = metaq.output().await;
    drop(writer);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    let taken = count * 6 - rest.len();
    assert_eq!(
        output.status.code(),
        Some(128 + signal as i32),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = json_lines(&output.stdout);
    assert_eq!(line_numbers(&lines), (1..=taken.div_ceil(6) as u64).collect::<Vec<_>>());
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_line_that_was_taken_is_spooled_at_a_signal() {
    stop_ignoring_hangups();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let folder = tempfile::tempdir().unwrap();
        let cluster = nowhere();
        let file = folder.path().join("spool.redb");
        let args = produce(&cluster, folder.path(), &["--in-flight", "16"]);
        // By then it reads, or is about to.
        let lines = stopped(&args, 2000, signal, || file.exists()).await;
        let [stored, spooled, failed, replayed] = counts(&lines);
        assert!(stored == 0 && replayed == 0 && failed == 0, "{:?}", counts(&lines));
        let listed = spool(&["ls", text(folder.path()), "--json"]).await.json();
        let held = listed.first().map_or(0, |line| line["messages"].as_u64().unwrap());
        assert_eq!(held, spooled as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lines_behind_a_silent_broker_are_spooled_at_a_signal() {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let silent = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let cluster = broker.addr().to_string();
    let args = ["--in-flight", "8", "--timeout", "2s", "--spool-fsync", "never"];
    let args = produce(&cluster, folder.path(), &args);
    let lines = stopped(&args, 300, Signal::SIGTERM, || silent.met() > 0).await;
    let [live, spooled, failed, _] = counts(&lines);
    // What the broker may have is unknown, and nothing else has failed.
    let unknown = lines.iter().filter(|line| line["error"]["outcome"] == "unknown").count();
    assert!(live == 0 && failed == unknown && spooled > 0, "{:?}", counts(&lines));
    let listed = spool(&["ls", text(folder.path()), "--json"]).await.json();
    assert_eq!(listed[0]["messages"], spooled as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_that_are_not_read_keep_no_signal_waiting() {
    let (cluster, folder) = (nowhere(), tempfile::tempdir().unwrap());
    let (input, log) = (folder.path().join("input"), folder.path().join("log"));
    std::fs::write(&input, format!("{}\n", "y".repeat(1000)).repeat(4000)).unwrap();
    let path = folder.path().join("spool");
    let args = ["--tee", "--ack-log", text(&log), "--timeout", "300ms", text(&input)];
    let (_unread, stdout) = std::io::pipe().unwrap();
    let mut metaq = std::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(produce(&cluster, &path, &args)).stdin(Stdio::null()).stdout(stdout);
    let metaq = Running::start(metaq.stderr(Stdio::piped()));
    // Stdout takes little more than this; what was read beyond it can't be spooled.
    let count = || std::fs::read(&log).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count());
    wait_until(|| count() > 350).await;
    metaq.signal(Signal::SIGTERM);
    let output = metaq.output().await;
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = json_lines(&std::fs::read(&log).unwrap());
    let [stored, spooled, failed, replayed] = counts(&lines);
    assert!(stored == 0 && replayed == 0 && spooled > 350 && failed > 0, "{:?}", counts(&lines));
    assert_eq!(line_numbers(&lines), (1..=lines.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lines_in_a_queue_are_spooled_at_a_signal_after_the_end() {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let silent = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let (cluster, partition) = (broker.addr().to_string(), format!("{}-0", broker.id()));
    let input = folder.path().join("input");
    std::fs::write(&input, "x\n".repeat(100)).unwrap();
    let path = folder.path().join("spool");
    let args = ["--ordered", "-p", &partition, "--timeout", "2s", text(&input)];
    let mut metaq = std::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(produce(&cluster, &path, &args)).stdin(Stdio::null());
    let metaq = Running::start(metaq.stdout(Stdio::piped()).stderr(Stdio::piped()));
    wait_until(|| silent.met() > 0).await;
    metaq.signal(Signal::SIGTERM);
    let output = metaq.output().await;
    let lines = json_lines(&output.stdout);
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(line_numbers(&lines), (1..=100).collect::<Vec<_>>());
    // One at a time was with the broker, and none was given up.
    let given_up = lines.iter().filter(|line| line["error"]["kind"] == "stopped").count();
    let [live, spooled, failed, _] = counts(&lines);
    assert!(live == 0 && given_up == 0 && failed < 20 && spooled > 80, "{given_up} {:?}", counts(&lines));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_line_that_was_not_read_to_its_end_is_not_spooled() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = nowhere();
    let mut metaq = Metaq::start(&produce(&cluster, folder.path(), &[]));
    metaq.write(b"1\n2").await;
    let mut lines = json_lines(metaq.next_line().await.as_bytes());
    metaq.signal(Signal::SIGTERM);
    let finished = metaq.wait().await;
    lines.extend(finished.json());
    assert_eq!((finished.status, counts(&lines)), (143, [0, 1, 1, 0]), "{lines:?}");
    assert_eq!(
        (&lines[1]["error"]["kind"], &lines[1]["error"]["outcome"]),
        (&"stopped".into(), &"not-sent".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_second_signal_ends_a_spooling_producer_at_once() {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let silent = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let cluster = broker.addr().to_string();
    let mut metaq = std::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(produce(&cluster, folder.path(), &["--timeout", "60s"]));
    metaq.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut metaq = Running::start(&mut metaq);
    metaq.stdin.take().unwrap().write_all(b"1\n2\n3\n").unwrap();
    wait_until(|| silent.met() == 3).await;
    let exited = metaq.signal_until_exit(Signal::SIGINT, Duration::from_secs(20)).await;
    assert_eq!(exited.code(), Some(130));
    let lines = json_lines(metaq.read_stdout().as_bytes());
    assert_eq!(line_numbers(&lines), [1, 2, 3]);
    assert!(lines.iter().all(|line| line["error"]["outcome"] == "unknown"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_signal_ends_the_wait_for_an_empty_spool() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = nowhere();
    let mut metaq = std::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(produce(&cluster, folder.path(), &["--drain", "10m"]));
    metaq.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut metaq = Running::start(&mut metaq);
    metaq.stdin.take().unwrap().write_all(b"1\n").unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(metaq.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert!(line.contains("spooled"), "{line}");
    metaq.signal(Signal::SIGTERM);
    assert_eq!(metaq.exited(Duration::from_secs(20)).await.code(), Some(143));
    let stderr = metaq.read_stderr();
    assert!(stderr.ends_with("holds 1 message\n"), "{stderr}");
}

#[tokio::test]
async fn a_second_process_is_refused_by_the_number_of_the_first() {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let (cluster, path) = (broker.addr().to_string(), text(folder.path()));
    let mut first = Metaq::start(&produce(&cluster, folder.path(), &[]));
    first.write(b"1\n").await;
    first.next_line().await;
    let pid = std::fs::read_to_string(folder.path().join("lock")).unwrap();
    let said = format!("process {} uses it; one process can at a time", pid.trim());
    let second = produce(&cluster, folder.path(), &[]);
    for args in [
        &second[..],
        &["spool", "ls", path],
        &["spool", "show", path],
        &["spool", "export", path],
        &["spool", "drop", path, "--all", "--yes"],
        &["spool", "replay", path, "-b", &cluster],
    ] {
        let finished = Metaq::start(args).finish(b"x\n").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}");
        assert!(finished.stderr.contains(&said), "{args:?}: {}", finished.stderr);
    }
    assert_eq!(first.finish(b"").await.status, 0);
    assert_eq!(stored(&broker).len(), 1);
    assert_eq!(spool(&["ls", path]).await.status, 0);
}
