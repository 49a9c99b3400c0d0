//! The memory of `metaq` is bounded, whatever its input is and its brokers do.
#![allow(clippy::print_stdout, reason = "prints the figures")]

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use metaq_testkit::{Broker, Fault, PlannedFault, Requests};

use crate::common::{Running, broker, command};

/// A program whose messages get no answer.
struct Unanswered {
    metaq: Running,
    plan: PlannedFault,
    input: File,
    _broker: Broker,
}

impl Unanswered {
    /// Starts it with an input that repeats `part`.
    async fn start(args: &[&str], part: &[u8], times: usize) -> Self {
        let broker = broker().await;
        let plan = broker.faults().plan(Requests::puts(), Fault::Ignore);
        let mut input = tempfile::tempfile().unwrap();
        for _ in 0..times {
            input.write_all(part).unwrap();
        }
        input.rewind().unwrap();
        let mut produce = command("produce", &broker, args);
        produce.stdin(input.try_clone().unwrap()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let metaq = Running::start(&mut produce);
        Self { metaq, plan, input, _broker: broker }
    }

    /// Waits until it has neither read nor sent anything for a second; returns its peak memory in KiB.
    async fn peak_when_idle(&mut self) -> u64 {
        let (mut before, mut since) = ((0, 0), Instant::now());
        while before.1 == 0 || since.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(self.metaq.try_wait().unwrap().is_none(), "it has exited");
            let now = (self.input.stream_position().unwrap(), self.plan.met());
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        peak(&self.metaq)
    }
}

/// Returns the peak memory of a process in KiB.
fn peak(metaq: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", metaq.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("{kib} KiB at most");
    kib
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_long_lines_is_bounded() {
    let line = [&[b'x'; 1_000_000][..], b"\n"].concat();
    let mut metaq = Unanswered::start(&["--timeout", "1h"], &line, 400).await;
    assert!(metaq.peak_when_idle().await < 160 << 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_line_does_not_retain_the_memory_of_a_long_one() {
    // Long lines are refused without sending them, since no consumer could fetch them.
    let lines = [&[b'x'; 2_000_000][..], b"\nx\n"].concat();
    let mut metaq = Unanswered::start(&["--timeout", "1h"], &lines, 400).await;
    assert!(metaq.peak_when_idle().await < 160 << 10);
    assert_eq!(metaq.plan.met(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_many_empty_lines_is_bounded() {
    let more = ["--timeout", "1h", "--in-flight", "65536"];
    let mut metaq = Unanswered::start(&more, &[b'\n'; 1 << 16], 100).await;
    assert!(metaq.peak_when_idle().await < 160 << 10);
}

#[test]
fn inspect_takes_no_more_memory_for_a_longer_line() {
    for (args, part, expected) in [
        (["inspect", "--hex"], &b"00"[..], r#"{"input":1,"offset":0,"error":""#),
        (["inspect", "--encode"], b"{}", r#"{"input":1,"error":"longer than 67108864 bytes"}"#),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metaq"));
        let mut metaq = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = metaq.stdin.take().unwrap();
        let piece = part.repeat(500_000);
        for _ in 0..300 {
            stdin.write_all(&piece).unwrap();
        }
        // It has read all of the input but the part in the pipe.
        assert!(peak(&metaq) < 200 << 10, "{args:?}");
        stdin.write_all(b"\n71756974").unwrap();
        drop(stdin);
        let output = metaq.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let output = String::from_utf8(output.stdout).unwrap();
        let [first, second] = output.lines().collect::<Vec<_>>()[..] else { panic!("{output}") };
        assert!(first.starts_with(expected) && second.starts_with(r#"{"input":2,"#), "{output}");
    }
}
