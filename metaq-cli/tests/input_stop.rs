//! How `metaq produce` stops to read: pipes that others read, too, files that are gone, and files that are not opened any more.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use metaq_testkit::{Broker, Fault, Requests};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

async fn broker() -> Broker {
    Broker::builder().topic("t", 2).start().await.unwrap()
}

fn produce(broker: &Broker, files: &[&PathBuf]) -> Command {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(["produce", "--cluster", &broker.addr().to_string(), "--topic", "t", "--timeout", "60s"]);
    metaq.args(files).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    metaq
}

fn signal(metaq: &Child, signal: Signal) {
    kill(Pid::from_raw(metaq.id() as i32), signal).unwrap();
}

async fn ended(metaq: Child) -> Output {
    let waiting = tokio::task::spawn_blocking(move || metaq.wait_with_output().unwrap());
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it ends").unwrap()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("the condition is reached");
}

fn lines(text: &[u8]) -> Vec<Value> {
    str::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Opens a FIFO for writing, as soon as somebody has it open for reading.
async fn open(path: &Path) -> File {
    let mut opened = None;
    until(|| {
        opened = try_open(path);
        opened.is_some()
    })
    .await;
    opened.unwrap()
}

fn try_open(path: &Path) -> Option<File> {
    OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_read_one_pipe_account_for_what_they_have_taken() {
    let broker = broker().await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let start = || produce(&broker, &[]).stdin(reader.try_clone().unwrap()).spawn().unwrap();
    let pair = [start(), start()];
    let is_taken = || {
        let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() == 0
    };
    // Each takes something, while the other one sleeps.
    for sleeping in [1, 0] {
        signal(&pair[sleeping], Signal::SIGSTOP);
        let stat = format!("/proc/{}/stat", pair[sleeping].id());
        let is_stopped =
            || std::fs::read_to_string(&stat).unwrap().rsplit(')').next().unwrap().starts_with(" T");
        until(is_stopped).await;
        writer.write_all(b"x").unwrap();
        until(is_taken).await;
        signal(&pair[sleeping], Signal::SIGCONT);
    }
    // Both are woken for each of these, and one may find nothing, and wait in its read.
    let waits_in_read = |metaq: &Child| {
        let threads = std::fs::read_dir(format!("/proc/{}/task", metaq.id())).unwrap();
        let place = |thread: &Path| std::fs::read_to_string(thread.join("wchan")).unwrap_or_default();
        threads.filter_map(Result::ok).any(|thread| place(&thread.path()).contains("pipe_read"))
    };
    for _ in 0..2000 {
        writer.write_all(b"y").unwrap();
        until(is_taken).await;
        if pair.iter().any(waits_in_read) {
            break;
        }
    }
    for metaq in &pair {
        signal(metaq, Signal::SIGTERM);
    }
    for metaq in pair {
        let output = ended(metaq).await;
        assert_eq!(output.status.code(), Some(143));
        let lines = lines(&output.stdout);
        assert_eq!(lines.len(), 1, "{lines:?} {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((&lines[0]["line"], &lines[0]["error"]["kind"]), (&1.into(), &"stopped".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_can_not_be_read_is_told_whatever_comes_later() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let [first, gone, last] =
        [fifo(folder.path(), "first"), folder.path().join("gone"), folder.path().join("last")];
    std::fs::write(&gone, "2\n").unwrap();
    std::fs::write(&last, "3\n").unwrap();
    let plan = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let mut metaq = produce(&broker, &[&first, &gone, &last]).spawn().unwrap();
    let mut writer = open(&first).await;
    writer.write_all(b"1\n").unwrap();
    until(|| plan.met() > 0).await;
    std::fs::remove_file(&gone).unwrap();
    drop(writer);
    let mut stderr = BufReader::new(metaq.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.starts_with("metaq: the input can't be read: "), "{said}");
    assert!(said.contains("gone: No such file") && said.contains("not read because of that: "), "{said}");
    assert!(said.trim_end().ends_with(&last.display().to_string()), "{said}");
    // What is in flight is still waited for. Two signals that come at once are one.
    while metaq.try_wait().unwrap().is_none() {
        signal(&metaq, Signal::SIGTERM);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = ended(metaq).await;
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(lines(&output.stdout).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_is_opened_after_a_signal() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| fifo(folder.path(), name));
    let plan = broker.faults().plan(Requests::puts(), Fault::Late(Duration::from_secs(1)));
    let mut metaq = produce(&broker, &[&first, &second]).spawn().unwrap();
    let mut writer = open(&first).await;
    writer.write_all(b"1\nbegun").unwrap();
    until(|| plan.met() > 0).await;
    signal(&metaq, Signal::SIGTERM);
    // What has begun is reported when nothing more is read.
    let mut stdout = BufReader::new(metaq.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("\"stopped\""), "{line}");
    drop(writer);
    while metaq.try_wait().unwrap().is_none() {
        assert!(try_open(&second).is_none(), "the second file is open");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ended(metaq).await.status.code(), Some(143));
}
