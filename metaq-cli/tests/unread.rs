//! Results that nobody reads: signals are heard all the same, and what can't be written is accounted for on stderr.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, Fault, Requests};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How much longer than its limit a program may take to end, on a machine that is busy.
const SLACK: Duration = Duration::from_secs(5);

/// How long after it was told to stop twice a program whose results nobody reads may take to end.
const AFTER_THE_SECOND: Duration = Duration::from_secs(1);

async fn broker() -> Broker {
    Broker::builder().topic("t", 2).start().await.unwrap()
}

fn command(args: &[&str], broker: &Broker, more: &[&str]) -> Command {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(args).args(["--cluster", &broker.addr().to_string(), "--topic", "t"]).args(more);
    metaq.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    metaq
}

/// Kills the program when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).unwrap();
    }

    /// Waits for the end, which has to come in time.
    async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < limit + SLACK, "it has not ended after {limit:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Tells it to stop until it ends, since two signals that come at once are one.
    async fn told_again_and_again(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            self.signal();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < AFTER_THE_SECOND + SLACK, "it has not ended");
        }
    }

    fn stderr(&mut self) -> String {
        io::read_to_string(self.0.stderr.take().unwrap()).unwrap()
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the condition is reached");
}

/// A program with so many lines of input whose results nobody reads, and that has stopped working therefore.
async fn stuck(args: &[&str], broker: &Broker, lines: usize, more: &[&str]) -> Running {
    let puts = broker.record(Requests::puts());
    let mut input = tempfile::tempfile().unwrap();
    input.write_all("x\n".repeat(lines).as_bytes()).unwrap();
    io::Seek::rewind(&mut input).unwrap();
    let metaq = Running(command(args, broker, more).stdin(input).spawn().unwrap());
    let (mut before, mut since) = (0, Instant::now());
    until(|| {
        let now = puts.count();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(500)
    })
    .await;
    assert!(before < lines, "it waits for its reader");
    metaq
}

/// The numbers in a text.
fn numbers(text: &str) -> Vec<usize> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// The numbers in the part of stderr that begins with `of lines`: the first and the last one, how many results could not be written,
/// and of these stored, rejected, unknown, not sent.
fn unwritten(stderr: &str) -> [usize; 7] {
    let at = stderr.find("of lines ").unwrap_or_else(|| panic!("no account in {stderr}"));
    numbers(&stderr[at..]).try_into().unwrap_or_else(|_| panic!("{stderr}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_ends_produce_whose_results_nobody_reads() {
    let broker = broker().await;
    let mut metaq = stuck(&["produce"], &broker, 20_000, &["--timeout", "60s"]).await;
    assert_eq!(metaq.told_again_and_again().await.code(), Some(143));
    let stderr = metaq.stderr();
    let [first, last, all, stored, rejected, unknown, not_sent] = unwritten(&stderr);
    let mut printed = String::new();
    metaq.0.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    // What the pipe holds was written; the last write may have come to its end when nobody counted on it any more.
    let written = printed.lines().count();
    let taken = numbers(stderr.split("lines were taken").next().unwrap()).pop().unwrap();
    assert!((taken..=taken + 60).contains(&(written + all)), "{written} lines, and {stderr}");
    assert_eq!(all, stored + rejected + unknown + not_sent, "{stderr}");
    assert!((1..=last).contains(&first) && last <= taken && not_sent > 0, "{stderr}");
    assert!((written + stored).abs_diff(broker.messages("t").len()) <= 60, "{written} lines, and {stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_signal_ends_produce_whose_results_nobody_reads_within_the_timeout() {
    let broker = broker().await;
    let mut metaq = stuck(&["produce"], &broker, 20_000, &["--timeout", "1s"]).await;
    metaq.signal();
    let status = metaq.ended(Duration::from_secs(1)).await;
    assert_eq!(status.code(), Some(143));
    let stderr = metaq.stderr();
    assert!(stderr.contains("the results can't be written: they were not read before"), "{stderr}");
    unwritten(&stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_rolls_back_a_transaction_whose_results_nobody_reads() {
    for signals in [1, 2] {
        let broker = broker().await;
        let rollbacks = broker.record(Requests::transactions(Some(TransactionAction::Rollback)));
        // The broker keeps the transaction for longer than the results are waited for, which is 3 s.
        let mut metaq = stuck(&["tx", "--commit"], &broker, 20_000, &["--timeout", "50s"]).await;
        assert_eq!(rollbacks.count(), 0);
        metaq.signal();
        until(|| rollbacks.count() > 0).await;
        if signals == 2 {
            metaq.signal();
        }
        let limit = if signals == 2 { AFTER_THE_SECOND } else { Duration::from_secs(3) };
        assert_eq!(metaq.ended(limit).await.code(), Some(143));
        let stderr = metaq.stderr();
        assert!(stderr.contains("transaction TX:"), "{stderr}");
        // The second signal may come before the answer to the rollback.
        assert!(signals == 2 || stderr.contains("was rolled back"), "{stderr}");
        unwritten(&stderr);
        assert_eq!(broker.messages("t").len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_end_bench_whose_figures_nobody_reads() {
    let broker = broker().await;
    for (signals, timeout) in [(1, "1s"), (2, "60s")] {
        // The pipe is full already.
        let (_reader, mut writer) = io::pipe().unwrap();
        let mut full = writer.try_clone().unwrap();
        std::thread::spawn(move || full.write_all(&[b'x'; 1 << 20]));
        let blocked = || {
            use std::os::fd::AsFd as _;
            let mut polled = [nix::poll::PollFd::new(writer.as_fd(), nix::poll::PollFlags::POLLOUT)];
            nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).unwrap() == 0
        };
        until(blocked).await;
        writer.flush().unwrap();
        let more = ["--messages", "100", "--size", "1", "--in-flight", "1", "--timeout", timeout];
        let before = broker.messages("t").len();
        let mut metaq = Running(command(&["bench"], &broker, &more).stdout(writer).spawn().unwrap());
        until(|| broker.messages("t").len() == before + 100).await;
        let status = if signals == 2 {
            metaq.told_again_and_again().await
        } else {
            metaq.signal();
            metaq.ended(Duration::from_secs(1)).await
        };
        assert_eq!(status.code(), Some(143));
        let stderr = metaq.stderr();
        assert!(stderr.contains("100 of 100 messages were acknowledged"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_disk_can_not_take_is_counted() {
    let broker = broker().await;
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut metaq = Running(command(&["produce"], &broker, &[]).stdout(full()).spawn().unwrap());
    let lines = 5000;
    // It may stop to read at any time.
    let _ = metaq.0.stdin.take().unwrap().write_all("x\n".repeat(lines).as_bytes());
    assert_eq!(metaq.ended(Duration::from_secs(30)).await.code(), Some(1));
    let stderr = metaq.stderr();
    assert!(stderr.contains("the results can't be written: No space left on device"), "{stderr}");
    let [first, last, all, stored, rejected, unknown, not_sent] = unwritten(&stderr);
    assert_eq!((first, last, stored + rejected + unknown + not_sent), (1, all, all), "{stderr}");
    assert_eq!((stored, rejected, unknown), (broker.messages("t").len(), 0, 0), "{stderr}");
    assert!(stderr.contains(&format!("{all} lines were taken from the input")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_committed_says_so_even_if_its_reader_is_gone() {
    let broker = broker().await;
    let commits = Requests::transactions(Some(TransactionAction::CommitOnePhase));
    let late = broker.faults().plan(commits, Fault::Late(Duration::from_secs(1)));
    let mut metaq = Running(command(&["tx", "--commit"], &broker, &[]).spawn().unwrap());
    metaq.0.stdin.take().unwrap().write_all(b"1\n2\n").unwrap();
    let mut output = BufReader::new(metaq.0.stdout.take().unwrap());
    for _ in 0..2 {
        output.read_line(&mut String::new()).unwrap();
    }
    until(|| late.met() > 0).await;
    drop(output);
    assert_eq!(metaq.ended(Duration::from_secs(30)).await.code(), Some(141));
    let stderr = metaq.stderr();
    assert!(stderr.contains("the results can't be written: Broken pipe"), "{stderr}");
    assert!(stderr.contains("transaction TX:") && stderr.contains("was committed (2 messages)"), "{stderr}");
    assert!(stderr.contains("the results of all lines were written"), "{stderr}");
    assert_eq!(broker.messages("t").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_results_can_not_be_written_is_rolled_back() {
    let broker = broker().await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut metaq = Running(command(&["tx", "--commit"], &broker, &[]).stdout(full).spawn().unwrap());
    metaq.0.stdin.take().unwrap().write_all(b"1\n2\n").unwrap();
    assert_eq!(metaq.ended(Duration::from_secs(30)).await.code(), Some(1));
    let stderr = metaq.stderr();
    assert!(stderr.contains("was rolled back (2 messages)"), "{stderr}");
    assert_eq!(unwritten(&stderr), [1, 2, 2, 2, 0, 0, 0], "{stderr}");
    assert_eq!(broker.messages("t").len(), 0);
}
