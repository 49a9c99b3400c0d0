//! The end of reading by `metaq produce`: pipes that other processes read, too, files that are gone, and
//! files that are not opened any more.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use metaq_testkit::{Broker, Fault, Requests};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};

use crate::common::{Running, broker, command, json_lines, wait_until};

fn produce(broker: &Broker, files: &[&PathBuf]) -> Command {
    let mut metaq = command("produce", broker, &["--timeout", "60s"]);
    metaq.args(files).stdin(Stdio::null());
    metaq
}

fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Opens a FIFO for writing as soon as a process has it open for reading.
pub(crate) async fn open(path: &Path) -> File {
    let mut opened = None;
    wait_until(|| {
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
async fn two_processes_on_one_pipe_report_what_each_has_read() {
    let broker = broker().await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let start = || Running::start(produce(&broker, &[]).stdin(reader.try_clone().unwrap()));
    let pair = [start(), start()];
    let is_taken = || {
        let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() == 0
    };
    // Each takes a byte while the other one is stopped.
    for sleeping in [1, 0] {
        pair[sleeping].signal(Signal::SIGSTOP);
        let stat = format!("/proc/{}/stat", pair[sleeping].id());
        let is_stopped =
            || std::fs::read_to_string(&stat).unwrap().rsplit(')').next().unwrap().starts_with(" T");
        wait_until(is_stopped).await;
        writer.write_all(b"x").unwrap();
        wait_until(is_taken).await;
        pair[sleeping].signal(Signal::SIGCONT);
    }
    // Each byte wakes both, and one of them may find the pipe empty and block in its read.
    let waits_in_read = |metaq: &Child| {
        let threads = std::fs::read_dir(format!("/proc/{}/task", metaq.id())).unwrap();
        let place = |thread: &Path| std::fs::read_to_string(thread.join("wchan")).unwrap_or_default();
        threads.filter_map(Result::ok).any(|thread| place(&thread.path()).contains("pipe_read"))
    };
    for _ in 0..2000 {
        writer.write_all(b"y").unwrap();
        wait_until(is_taken).await;
        if pair.iter().any(|metaq| waits_in_read(metaq)) {
            break;
        }
    }
    for metaq in &pair {
        metaq.signal(Signal::SIGTERM);
    }
    for metaq in pair {
        let output = metaq.output().await;
        assert_eq!(output.status.code(), Some(143));
        let lines = json_lines(&output.stdout);
        assert_eq!(lines.len(), 1, "{lines:?} {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((&lines[0]["line"], &lines[0]["error"]["kind"]), (&1.into(), &"stopped".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_file_is_reported_before_later_signals() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let [first, gone, last] =
        [fifo(folder.path(), "first"), folder.path().join("gone"), folder.path().join("last")];
    std::fs::write(&gone, "2\n").unwrap();
    std::fs::write(&last, "3\n").unwrap();
    let plan = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let mut metaq = Running::start(&mut produce(&broker, &[&first, &gone, &last]));
    let mut writer = open(&first).await;
    writer.write_all(b"1\n").unwrap();
    wait_until(|| plan.met() > 0).await;
    std::fs::remove_file(&gone).unwrap();
    drop(writer);
    let mut stderr = BufReader::new(metaq.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.starts_with("metaq: the input can't be read: "), "{said}");
    assert!(said.contains("gone: No such file") && said.contains("not read because of that: "), "{said}");
    assert!(said.trim_end().ends_with(&last.display().to_string()), "{said}");
    // It still waits for the message in flight.
    let status = metaq.signal_until_exit(Signal::SIGTERM, Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(143));
    assert_eq!(json_lines(metaq.read_stdout().as_bytes()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_is_opened_after_a_signal() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| fifo(folder.path(), name));
    let plan = broker.faults().plan(Requests::puts(), Fault::Late(Duration::from_secs(1)));
    let mut metaq = Running::start(&mut produce(&broker, &[&first, &second]));
    let mut writer = open(&first).await;
    writer.write_all(b"1\nbegun").unwrap();
    wait_until(|| plan.met() > 0).await;
    metaq.signal(Signal::SIGTERM);
    // The incomplete line is reported after reading has stopped.
    let mut stdout = BufReader::new(metaq.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("\"stopped\""), "{line}");
    drop(writer);
    while metaq.try_wait().unwrap().is_none() {
        assert!(try_open(&second).is_none(), "the second file is open");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(metaq.output().await.status.code(), Some(143));
}
