//! The input of `metaq produce` and `metaq tx`: every line that was read is reported.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use metaq_testkit::{Broker, Fault, Requests};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::common::{Running, broker, command, json_lines, line_numbers, wait_until};

/// Writes a file of lines of different lengths, and returns its content.
fn file_of_lines(path: &Path, bytes: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(bytes + 1000);
    for number in 0_usize.. {
        if content.len() >= bytes {
            break;
        }
        content.resize(content.len() + number * 131 % 997, b'x');
        content.push(b'\n');
    }
    std::fs::write(path, &content).unwrap();
    content
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_byte_read_before_a_signal_is_in_a_reported_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    let content = file_of_lines(&path, 64 << 20);
    for (round, subcommand) in
        (0..24_u64).zip([["produce", "--in-flight", "64"], ["tx", "--commit", ""]].iter().cycle())
    {
        let broker = broker().await;
        let args: Vec<_> = subcommand[1..].iter().copied().filter(|arg| !arg.is_empty()).collect();
        // The copy of the descriptor that stays here shares the position of the reads.
        let mut file = File::open(&path).unwrap();
        let metaq = Running::start(command(subcommand[0], &broker, &args).stdin(file.try_clone().unwrap()));
        let pid = metaq.id() as i32;
        // Its output is read continuously, so that it never waits for a reader.
        let output = tokio::spawn(metaq.output());
        wait_until(|| file.stream_position().unwrap() > 0).await;
        tokio::time::sleep(Duration::from_micros(round * 977)).await;
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let output = output.await.unwrap();
        assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
        let taken = &content[..file.stream_position().unwrap() as usize];
        let parts = taken.split(|byte| *byte == b'\n').count() as u64;
        let wanted = parts - u64::from(taken.ends_with(b"\n"));
        let reported = line_numbers(&json_lines(&output.stdout));
        let context = format!("of {} bytes, by {}", taken.len(), subcommand[0]);
        assert_eq!(reported, (1..=wanted).collect::<Vec<_>>(), "{context}");
    }
}

#[tokio::test]
async fn an_incomplete_line_is_reported_after_a_signal() {
    for subcommand in [&["produce"][..], &["tx", "--commit"]] {
        let broker = broker().await;
        let mut metaq = Running::start(&mut command(subcommand[0], &broker, &subcommand[1..]));
        let mut stdin = metaq.stdin.take().unwrap();
        let plan = broker.faults().plan(Requests::puts(), Fault::Late(Duration::ZERO));
        stdin.write_all(b"whole\nbegun").unwrap();
        wait_until(|| plan.met() > 0).await;
        // One read has taken both lines. Whether the answer has arrived makes no difference.
        metaq.signal(Signal::SIGINT);
        let output = metaq.output().await;
        drop(stdin);
        assert_eq!(output.status.code(), Some(130), "{subcommand:?}");
        let lines = json_lines(&output.stdout);
        assert_eq!(line_numbers(&lines), [1, 2], "{lines:?}");
        let begun = lines.iter().find(|line| line["line"] == 2).unwrap();
        assert_eq!(
            (&begun["error"]["kind"], &begun["error"]["outcome"]),
            (&"stopped".into(), &"not-sent".into())
        );
        assert!(broker.messages("t").len() <= 1, "what was not reported as sent isn't stored");
    }
}

/// Starts `metaq tx` with one line, and waits until the broker has its commit or rollback, to which `fault`
/// applies.
async fn start_ending_tx(broker: &Broker, end: &str, fault: Fault) -> Running {
    // The first request of a transaction is BEGIN.
    let plan = broker.faults().plan(Requests::transactions(None).after(1), fault);
    let mut metaq = Running::start(&mut command("tx", broker, &[end]));
    metaq.stdin.take().unwrap().write_all(b"1\n").unwrap();
    wait_until(|| plan.met() > 0).await;
    metaq
}

#[tokio::test]
async fn a_signal_during_commit_or_rollback_sets_the_status() {
    for (end, outcome) in [("--commit", "committed"), ("--rollback", "rolled-back")] {
        let broker = broker().await;
        let metaq = start_ending_tx(&broker, end, Fault::Late(Duration::from_secs(1))).await;
        metaq.signal(Signal::SIGTERM);
        let output = metaq.output().await;
        assert_eq!(output.status.code(), Some(143));
        assert_eq!(json_lines(&output.stdout).last().unwrap()["outcome"], outcome);
    }
}

#[tokio::test]
async fn only_a_commit_is_unknown_after_a_second_signal() {
    for (end, outcome) in [("--commit", "unknown"), ("--rollback", "rolled-back")] {
        let broker = broker().await;
        let mut metaq = start_ending_tx(&broker, end, Fault::Ignore).await;
        let started = Instant::now();
        let status = metaq.signal_until_exit(Signal::SIGINT, Duration::ZERO).await;
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(status.code(), Some(130));
        let lines = json_lines(&metaq.output().await.stdout);
        let last = lines.last().unwrap();
        assert_eq!(
            (&last["outcome"], &last["error"]["kind"]),
            (&outcome.into(), &"stopped".into()),
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn files_are_opened_one_after_another() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..100).map(|n| folder.path().join(n.to_string())).collect();
    for (number, path) in paths.iter().enumerate() {
        std::fs::write(path, format!("{number}\n")).unwrap();
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 64; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_metaq")]);
    shell.args(["produce", "--cluster", &broker.addr().to_string(), "--topic", "t"]).args(&paths);
    let output = Running::start(shell.stdout(Stdio::piped()).stderr(Stdio::piped())).output().await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(line_numbers(&json_lines(&output.stdout)), (1..=100).collect::<Vec<_>>());
    assert_eq!(broker.messages("t").len(), 100);
}

#[tokio::test]
async fn the_output_and_a_folder_are_refused_as_input() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both");
    std::fs::write(&path, "1\n").unwrap();
    let append = || File::options().append(true).open(&path).unwrap();
    let named = path.display().to_string();
    for subcommand in [&["produce"][..], &["tx", "--commit"]] {
        let metaq = |file: Option<&str>| {
            let args: Vec<_> = subcommand[1..].iter().copied().chain(file).collect();
            command(subcommand[0], &broker, &args)
        };
        let (mut by_name, mut by_redirection) = (metaq(Some(&named)), metaq(None));
        by_name.stdout(append());
        by_redirection.stdin(File::open(&path).unwrap()).stdout(append());
        for (program, name) in [(&mut by_name, &*named), (&mut by_redirection, "stdin")] {
            let output = Running::start(program).output().await;
            assert_eq!(output.status.code(), Some(2));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(stderr, format!("metaq: {name} can't be read: it is the output, too\n"));
        }
        let folder = folder.path().display().to_string();
        let output = Running::start(&mut metaq(Some(&folder))).output().await;
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("is a directory"));
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
    assert_eq!(broker.messages("t").len(), 0);
}
