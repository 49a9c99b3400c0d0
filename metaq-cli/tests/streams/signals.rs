//! `metaq produce` that receives a signal after the end of its input.

use std::{io::Write as _, time::Duration};

use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;

use crate::common::{Running, broker, command, json_lines, line_numbers, stop_ignoring_hangups, wait_until};

/// Starts `metaq produce` with three lines, and waits until the broker has their messages.
async fn produce(broker: &Broker, fault: Fault) -> Running {
    let plan = broker.faults().plan(Requests::puts(), fault);
    let mut metaq = Running::start(&mut command("produce", broker, &["--timeout", "60s"]));
    metaq.stdin.take().unwrap().write_all(b"1\n2\n3\n").unwrap();
    wait_until(|| plan.met() == 3).await;
    metaq
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_reports_messages_in_flight_as_unknown() {
    stop_ignoring_hangups();
    for (signal, status) in [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let broker = broker().await;
        let mut metaq = produce(&broker, Fault::Ignore).await;
        let exited = metaq.signal_until_exit(signal, Duration::from_secs(20)).await;
        assert_eq!(exited.code(), Some(status));
        let lines = json_lines(metaq.read_stdout().as_bytes());
        assert_eq!(line_numbers(&lines), [1, 2, 3], "{lines:?}");
        assert!(lines.iter().all(|line| line["error"]["outcome"] == "unknown"), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_after_the_end_of_the_input_sets_the_exit_status() {
    let broker = broker().await;
    let metaq = produce(&broker, Fault::Late(Duration::from_secs(2))).await;
    metaq.signal(Signal::SIGTERM);
    let output = metaq.output().await;
    assert_eq!((json_lines(&output.stdout).len(), output.status.code()), (3, Some(143)));
    assert_eq!(broker.messages("t").len(), 3);
}
