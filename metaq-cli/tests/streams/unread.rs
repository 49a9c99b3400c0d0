//! Results without a reader: signals are still handled, and results that can't be written are counted on
//! stderr.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    time::{Duration, Instant},
};

use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal::SIGTERM;

use crate::common::{Running, broker, command, dev_full, wait_until};

/// Limit on the exit after the second signal while results are not read.
const AFTER_THE_SECOND: Duration = Duration::from_secs(1);

/// Starts a program with `lines` lines of input, and waits until it has stopped sending because its results
/// are not read.
async fn start_unread(subcommand: &str, broker: &Broker, lines: usize, args: &[&str]) -> Running {
    let puts = broker.record(Requests::puts());
    let mut input = tempfile::tempfile().unwrap();
    input.write_all("x\n".repeat(lines).as_bytes()).unwrap();
    io::Seek::rewind(&mut input).unwrap();
    let metaq = Running::start(command(subcommand, broker, args).stdin(input));
    let (mut before, mut since) = (0, Instant::now());
    wait_until(|| {
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

/// Returns the numbers in a text.
fn numbers(text: &str) -> Vec<usize> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// Returns the numbers in the part of stderr that begins with `of lines`: the first and the last line, the
/// number of results that could not be written, and of these stored, rejected, unknown, not sent.
fn unwritten(stderr: &str) -> [usize; 7] {
    let at = stderr.find("of lines ").unwrap_or_else(|| panic!("no account in {stderr}"));
    numbers(&stderr[at..]).try_into().unwrap_or_else(|_| panic!("{stderr}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_ends_produce_with_unread_results() {
    let broker = broker().await;
    let mut metaq = start_unread("produce", &broker, 20_000, &["--timeout", "60s"]).await;
    assert_eq!(metaq.signal_until_exit(SIGTERM, AFTER_THE_SECOND).await.code(), Some(143));
    let stderr = metaq.read_stderr();
    let [first, last, all, stored, rejected, unknown, not_sent] = unwritten(&stderr);
    let printed = metaq.read_stdout();
    // The lines in the pipe were written; the last write may have succeeded after it was given up.
    let written = printed.lines().count();
    let taken = numbers(stderr.split("lines were read").next().unwrap()).pop().unwrap();
    assert!((taken..=taken + 60).contains(&(written + all)), "{written} lines, and {stderr}");
    assert_eq!(all, stored + rejected + unknown + not_sent, "{stderr}");
    assert!((1..=last).contains(&first) && last <= taken && not_sent > 0, "{stderr}");
    assert!((written + stored).abs_diff(broker.messages("t").len()) <= 60, "{written} lines, and {stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_signal_ends_produce_with_unread_results_in_time() {
    let broker = broker().await;
    let mut metaq = start_unread("produce", &broker, 20_000, &["--timeout", "1s"]).await;
    metaq.signal(SIGTERM);
    let status = metaq.exited(Duration::from_secs(1)).await;
    assert_eq!(status.code(), Some(143));
    let stderr = metaq.read_stderr();
    assert!(stderr.contains("the results can't be written: they were not read before"), "{stderr}");
    unwritten(&stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_rolls_back_a_transaction_with_unread_results() {
    for signals in [1, 2] {
        let broker = broker().await;
        let rollbacks = broker.record(Requests::transactions(Some(TransactionAction::Rollback)));
        // The broker keeps the transaction for longer than the 3 s for which the program waits for its
        // reader.
        let mut metaq = start_unread("tx", &broker, 20_000, &["--commit", "--timeout", "50s"]).await;
        assert_eq!(rollbacks.count(), 0);
        metaq.signal(SIGTERM);
        wait_until(|| rollbacks.count() > 0).await;
        if signals == 2 {
            metaq.signal(SIGTERM);
        }
        let limit = if signals == 2 { AFTER_THE_SECOND } else { Duration::from_secs(3) };
        assert_eq!(metaq.exited(limit).await.code(), Some(143));
        let stderr = metaq.read_stderr();
        assert!(stderr.contains("transaction TX:"), "{stderr}");
        // The second signal may come before the answer to the rollback.
        assert!(signals == 2 || stderr.contains("was rolled back"), "{stderr}");
        unwritten(&stderr);
        assert_eq!(broker.messages("t").len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_end_bench_with_unread_figures() {
    let broker = broker().await;
    for (signals, timeout) in [(1, "1s"), (2, "60s")] {
        // The pipe is full from the start.
        let (_reader, mut writer) = io::pipe().unwrap();
        let mut full = writer.try_clone().unwrap();
        std::thread::spawn(move || full.write_all(&[b'x'; 1 << 20]));
        let blocked = || {
            use std::os::fd::AsFd as _;
            let mut polled = [nix::poll::PollFd::new(writer.as_fd(), nix::poll::PollFlags::POLLOUT)];
            nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).unwrap() == 0
        };
        wait_until(blocked).await;
        writer.flush().unwrap();
        let more = ["--messages", "100", "--size", "1", "--in-flight", "1", "--timeout", timeout];
        let before = broker.messages("t").len();
        let mut metaq = Running::start(command("bench", &broker, &more).stdout(writer));
        wait_until(|| broker.messages("t").len() == before + 100).await;
        let status = if signals == 2 {
            metaq.signal_until_exit(SIGTERM, AFTER_THE_SECOND).await
        } else {
            metaq.signal(SIGTERM);
            metaq.exited(Duration::from_secs(1)).await
        };
        assert_eq!(status.code(), Some(143));
        let stderr = metaq.read_stderr();
        assert!(stderr.contains("100 of 100 messages were acknowledged"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_a_full_disk_rejects_are_counted() {
    let broker = broker().await;
    let mut metaq = Running::start(command("produce", &broker, &[]).stdout(dev_full()));
    let lines = 5000;
    // It may stop reading at any time.
    let _ = metaq.stdin.take().unwrap().write_all("x\n".repeat(lines).as_bytes());
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(8));
    let stderr = metaq.read_stderr();
    assert!(stderr.contains("the results can't be written: No space left on device"), "{stderr}");
    let [first, last, all, stored, rejected, unknown, not_sent] = unwritten(&stderr);
    assert_eq!((first, last, stored + rejected + unknown + not_sent), (1, all, all), "{stderr}");
    assert_eq!((stored, rejected, unknown), (broker.messages("t").len(), 0, 0), "{stderr}");
    assert!(stderr.contains(&format!("{all} lines were read from the input")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_reported_on_stderr_if_the_reader_is_gone() {
    let broker = broker().await;
    let commits = Requests::transactions(Some(TransactionAction::CommitOnePhase));
    let late = broker.faults().plan(commits, Fault::Late(Duration::from_secs(1)));
    let mut metaq = Running::start(&mut command("tx", &broker, &["--commit"]));
    metaq.stdin.take().unwrap().write_all(b"1\n2\n").unwrap();
    let mut output = BufReader::new(metaq.stdout.take().unwrap());
    for _ in 0..2 {
        output.read_line(&mut String::new()).unwrap();
    }
    wait_until(|| late.met() > 0).await;
    drop(output);
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(141));
    let stderr = metaq.read_stderr();
    assert!(stderr.contains("the results can't be written: Broken pipe"), "{stderr}");
    assert!(stderr.contains("transaction TX:") && stderr.contains("was committed (2 messages)"), "{stderr}");
    assert!(stderr.contains("the results of all lines were written"), "{stderr}");
    assert_eq!(broker.messages("t").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_with_unwritable_results_is_rolled_back() {
    let broker = broker().await;
    let mut metaq = Running::start(command("tx", &broker, &["--commit"]).stdout(dev_full()));
    metaq.stdin.take().unwrap().write_all(b"1\n2\n").unwrap();
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(8));
    let stderr = metaq.read_stderr();
    assert!(stderr.contains("was rolled back (2 messages)"), "{stderr}");
    assert_eq!(unwritten(&stderr), [1, 2, 2, 2, 0, 0, 0], "{stderr}");
    assert_eq!(broker.messages("t").len(), 0);
}
