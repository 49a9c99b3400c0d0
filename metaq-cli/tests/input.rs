//! What `metaq produce` and `metaq tx` take from their input, and that all of it is accounted for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use metaq_testkit::{Broker, Fault, Requests};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

async fn broker() -> Broker {
    Broker::builder().topic("t", 2).start().await.unwrap()
}

fn metaq(command: &str, broker: &Broker, args: &[&str]) -> Command {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args([command, "--cluster", &broker.addr().to_string(), "--topic", "t"]).args(args);
    metaq.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    metaq
}

fn signal(metaq: &Child, signal: Signal) {
    kill(Pid::from_raw(metaq.id() as i32), signal).unwrap();
}

/// The output of a program that is about to end.
async fn ended(metaq: Child) -> Output {
    tokio::task::spawn_blocking(move || metaq.wait_with_output().unwrap()).await.unwrap()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("the condition is reached");
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The numbers of the lines that were reported, in order.
fn numbers(lines: &[Value]) -> Vec<u64> {
    let mut numbers: Vec<_> = lines.iter().filter_map(|line| line["line"].as_u64()).collect();
    numbers.sort_unstable();
    numbers
}

/// A file of lines of different lengths.
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
async fn every_byte_that_was_taken_when_a_signal_came_is_in_a_line_of_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    let content = file_of_lines(&path, 64 << 20);
    for (round, command) in
        (0..24_u64).zip([["produce", "--in-flight", "64"], ["tx", "--commit", ""]].iter().cycle())
    {
        let broker = broker().await;
        let args: Vec<_> = command[1..].iter().copied().filter(|arg| !arg.is_empty()).collect();
        // How far it is read is told by the copy that stays here.
        let mut file = File::open(&path).unwrap();
        let started = metaq(command[0], &broker, &args).stdin(file.try_clone().unwrap()).spawn().unwrap();
        // So that it never waits for its output to be taken.
        let pid = started.id() as i32;
        let output = tokio::spawn(ended(started));
        until(|| file.stream_position().unwrap() > 0).await;
        tokio::time::sleep(Duration::from_micros(round * 977)).await;
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let output = output.await.unwrap();
        assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
        let taken = &content[..file.stream_position().unwrap() as usize];
        let parts = taken.split(|byte| *byte == b'\n').count() as u64;
        let wanted = parts - u64::from(taken.ends_with(b"\n"));
        let reported = numbers(&lines(&output));
        assert_eq!(reported, (1..=wanted).collect::<Vec<_>>(), "of {} bytes, by {}", taken.len(), command[0]);
    }
}

#[tokio::test]
async fn a_line_that_has_only_begun_is_accounted_for_when_a_signal_comes() {
    for command in [&["produce"][..], &["tx", "--commit"]] {
        let broker = broker().await;
        let mut metaq = metaq(command[0], &broker, &command[1..]).spawn().unwrap();
        let mut stdin = metaq.stdin.take().unwrap();
        let plan = broker.faults().plan(Requests::puts(), Fault::Late(Duration::ZERO));
        stdin.write_all(b"whole\nbegun").unwrap();
        until(|| plan.met() > 0).await;
        // The answer may be under way; what matters is that both parts were read, which was at once.
        signal(&metaq, Signal::SIGINT);
        let output = ended(metaq).await;
        drop(stdin);
        assert_eq!(output.status.code(), Some(130), "{command:?}");
        let lines = lines(&output);
        assert_eq!(numbers(&lines), [1, 2], "{lines:?}");
        let begun = lines.iter().find(|line| line["line"] == 2).unwrap();
        assert_eq!(
            (&begun["error"]["kind"], &begun["error"]["outcome"]),
            (&"stopped".into(), &"not-sent".into())
        );
        assert!(broker.messages("t").len() <= 1, "what was not reported as sent isn't stored");
    }
}

/// A `metaq tx` whose one line was taken and whose input has ended, and whose transaction's end the broker has, whatever it
/// does with that.
async fn tx_that_ends(broker: &Broker, end: &str, fault: Fault) -> Child {
    // The first is BEGIN.
    let plan = broker.faults().plan(Requests::transactions(None).after(1), fault);
    let mut metaq = metaq("tx", broker, &[end]).spawn().unwrap();
    metaq.stdin.take().unwrap().write_all(b"1\n").unwrap();
    until(|| plan.met() > 0).await;
    metaq
}

#[tokio::test]
async fn a_signal_while_a_transaction_ends_sets_the_exit_status() {
    for (end, outcome) in [("--commit", "committed"), ("--rollback", "rolled-back")] {
        let broker = broker().await;
        let metaq = tx_that_ends(&broker, end, Fault::Late(Duration::from_secs(1))).await;
        signal(&metaq, Signal::SIGTERM);
        let output = ended(metaq).await;
        assert_eq!(output.status.code(), Some(143));
        assert_eq!(lines(&output).last().unwrap()["outcome"], outcome);
    }
}

#[tokio::test]
async fn the_second_signal_while_a_transaction_ends_ends_the_program_with_an_unknown_outcome() {
    for end in ["--commit", "--rollback"] {
        let broker = broker().await;
        let mut metaq = tx_that_ends(&broker, end, Fault::Ignore).await;
        let started = Instant::now();
        // Two that come at once are one.
        while metaq.try_wait().unwrap().is_none() {
            signal(&metaq, Signal::SIGINT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        let output = ended(metaq).await;
        assert_eq!(output.status.code(), Some(130));
        let lines = lines(&output);
        let last = lines.last().unwrap();
        assert_eq!(
            (&last["outcome"], &last["error"]["kind"]),
            (&"unknown".into(), &"stopped".into()),
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
    let output = ended(shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(numbers(&lines(&output)), (1..=100).collect::<Vec<_>>());
    assert_eq!(broker.messages("t").len(), 100);
}

#[tokio::test]
async fn an_input_that_is_the_output_and_a_folder_are_refused() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both");
    std::fs::write(&path, "1\n").unwrap();
    let append = || File::options().append(true).open(&path).unwrap();
    let named = path.display().to_string();
    for command in [&["produce"][..], &["tx", "--commit"]] {
        let args = |file: Option<&str>| command[1..].iter().copied().chain(file).map(str::to_owned).collect();
        let metaq = |args: Vec<String>| {
            metaq(command[0], &broker, &args.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let mut by_name = metaq(args(Some(&named)));
        let mut by_redirection = metaq(args(None));
        by_name.stdout(append());
        by_redirection.stdin(File::open(&path).unwrap()).stdout(append());
        for (program, name) in [(&mut by_name, &*named), (&mut by_redirection, "stdin")] {
            let output = ended(program.spawn().unwrap()).await;
            assert_eq!(output.status.code(), Some(2));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(stderr, format!("metaq: {name} can't be read: it is the output, too\n"));
        }
        let folder = folder.path().display().to_string();
        let output = ended(metaq(args(Some(&folder))).spawn().unwrap()).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("is a directory"));
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
    assert_eq!(broker.messages("t").len(), 0);
}
