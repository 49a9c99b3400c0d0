//! Outputs that fail, are not read, or are named pipes: signals are handled, and the other outputs are
//! complete.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use metaq_testkit::{Broker, Fault, Requests};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal::{SIGINT, SIGTERM},
        stat::Mode,
    },
};

use crate::common::{Running, broker, command, dev_full, json_lines, line_numbers, wait_until};

/// Makes a named pipe.
fn named_pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

/// Returns whether a thread of the process waits for the other end of a named pipe that it opens.
fn opens_a_pipe(metaq: &Running) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", metaq.id())).unwrap();
    let waits = |thread: io::Result<fs::DirEntry>| fs::read_to_string(thread.unwrap().path().join("wchan"));
    threads.into_iter().any(|thread| waits(thread).is_ok_and(|place| place.contains("wait_for_partner")))
}

/// Returns whether a pipe is full.
fn is_full(pipe: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO).unwrap() == 0
}

/// Returns whether a process handles SIGTERM.
fn handles_sigterm(metaq: &Running) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", metaq.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (SIGTERM as i32 - 1) & 1 == 1
}

fn refuse_everything(broker: &Broker) {
    broker.faults().plan(Requests::puts(), Fault::refuse(500, "no disk"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn signal_ends_the_wait_for_the_reader_of_a_named_pipe() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = named_pipe(folder.path());
    let pipe = pipe.to_str().unwrap();
    let bench = ["--messages", "1", "--size", "1", "--in-flight", "1"];
    for (subcommand, option, more) in [
        ("produce", "--rejects", &[][..]),
        ("produce", "--ack-log", &[]),
        ("bench", "--hdr", &bench),
        ("bench", "--plot", &bench),
    ] {
        let args = [&[option, pipe], more].concat();
        let mut metaq = Running::start(&mut command(subcommand, &broker, &args));
        wait_until(|| opens_a_pipe(&metaq)).await;
        metaq.signal(SIGINT);
        let status = metaq.exited(Duration::from_secs(1)).await;
        assert_eq!(status.code(), Some(130), "{subcommand} {option}");
        assert_eq!(broker.messages("t").len(), 0, "{subcommand} {option}: nothing was sent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn second_signal_ends_produce_with_unread_rejects() {
    let broker = broker().await;
    refuse_everything(&broker);
    let folder = tempfile::tempdir().unwrap();
    let path = named_pipe(folder.path());
    // Both ends are open here, and nothing is read.
    let pipe = File::options().read(true).write(true).open(&path).unwrap();
    let args = ["--rejects", path.to_str().unwrap(), "--timeout", "60s", "--output", "plain"];
    let mut metaq = Running::start(&mut command("produce", &broker, &args));
    let input = format!("{}\n", "x".repeat(2000)).repeat(100);
    metaq.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    wait_until(|| is_full(&pipe)).await;
    assert_eq!(metaq.signal_until_exit(SIGTERM, Duration::from_secs(1)).await.code(), Some(143));
    let (stdout, stderr) = (metaq.read_stdout(), metaq.read_stderr());
    let mut numbers: Vec<u64> =
        stdout.lines().map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    let count = numbers.len() as u64;
    assert!(count > 30 && numbers.into_iter().eq(1..=count), "the results were read: {stdout}");
    let said = format!("{} can't be written: they were not read before", path.display());
    assert!(stderr.contains(&said) && stderr.contains("; it lacks "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn signal_ends_a_proxy_whose_answers_are_not_read() {
    // The pipe is full from the start.
    let (_reader, writer) = io::pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    std::thread::spawn(move || full.write_all(&[b'x'; 1 << 20]));
    wait_until(|| is_full(&writer)).await;
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(["proxy", "127.0.0.1:1"]).stdin(Stdio::piped()).stdout(writer);
    let mut metaq = Running::start(&mut metaq);
    wait_until(|| handles_sigterm(&metaq)).await;
    metaq.signal(SIGTERM);
    assert_eq!(metaq.exited(Duration::from_secs(1)).await.code(), Some(0));
}

/// Checks that a log has one result for each of the first lines, and each message that the broker has.
fn check_log(log: &Path, broker: &Broker) -> u64 {
    let lines = json_lines(&fs::read(log).unwrap());
    let numbers = line_numbers(&lines);
    let count = numbers.len() as u64;
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    let stored = lines.iter().filter(|line| line["offset"].is_i64()).count();
    assert_eq!(stored, broker.messages("t").len());
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn log_is_complete_where_stdout_is_on_a_full_disk() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let args = ["--tee", "--ack-log", log.to_str().unwrap()];
    let mut metaq = Running::start(command("produce", &broker, &args).stdout(dev_full()));
    // It may stop reading at any time.
    let _ = metaq.stdin.take().unwrap().write_all("x\n".repeat(5000).as_bytes());
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(8));
    let stderr = metaq.read_stderr();
    let count = check_log(&log, &broker);
    assert!(count > 0);
    let said = format!(
        "metaq: the messages can't be written: No space left on device (os error 28); {count} lines were read from \
         the input; the results of all lines were written\n"
    );
    assert_eq!(stderr, said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn log_is_complete_when_the_reader_of_stdout_has_gone() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let args = ["--tee", "--ack-log", log.to_str().unwrap()];
    let mut metaq = Running::start(&mut command("produce", &broker, &args));
    let mut input = metaq.stdin.take().unwrap();
    input.write_all(b"first\n").unwrap();
    let mut output = BufReader::new(metaq.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    // The input stays open: the failure ends the command.
    input.write_all(&b"x\n".repeat(100)).unwrap();
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(141));
    assert!(check_log(&log, &broker) > 1);
    assert_eq!(metaq.read_stderr().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rejects_are_in_their_file_while_the_input_is_open() {
    let broker = broker().await;
    refuse_everything(&broker);
    let folder = tempfile::tempdir().unwrap();
    let rejects = folder.path().join("rejects");
    let mut metaq =
        Running::start(&mut command("produce", &broker, &["--rejects", rejects.to_str().unwrap()]));
    let mut input = metaq.stdin.take().unwrap();
    input.write_all(b"m1\nm2\nm3\n").unwrap();
    wait_until(|| fs::read(&rejects).is_ok_and(|text| text.len() == 9)).await;
    assert!(metaq.try_wait().unwrap().is_none());
    drop(input);
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rejects_that_a_full_disk_takes_not_are_counted() {
    let broker = broker().await;
    refuse_everything(&broker);
    let metaq = Running::start(&mut command("produce", &broker, &["--rejects", "/dev/full"]));
    let mut metaq = metaq;
    metaq.stdin.take().unwrap().write_all("x\n".repeat(20).as_bytes()).unwrap();
    let output = metaq.output().await;
    assert_eq!((output.status.code(), json_lines(&output.stdout).len()), (Some(8), 20));
    let said =
        "metaq: /dev/full can't be written: No space left on device (os error 28); it lacks 20 messages\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn summary_that_a_full_disk_takes_not_is_on_stderr() {
    let broker = broker().await;
    let mut metaq = Running::start(command("produce", &broker, &["--output", "human"]).stdout(dev_full()));
    metaq.stdin.take().unwrap().write_all(b"x\n").unwrap();
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(8));
    let stderr = metaq.read_stderr();
    let said = "metaq: the summary can't be written: No space left on device (os error 28); 1 lines were read from \
                the input; 1 message: 1 acknowledged in ";
    assert!(stderr.starts_with(said), "{stderr}");
}
