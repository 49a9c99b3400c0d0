//! `metaq produce` that is told to stop after its input has ended.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use metaq_testkit::{Broker, Fault, Requests};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A `metaq produce` whose input of three lines has ended, and whose messages the broker has.
async fn produce(broker: &Broker, fault: Fault) -> Child {
    let plan = broker.faults().plan(Requests::puts(), fault);
    let mut command = Command::new(env!("CARGO_BIN_EXE_metaq"));
    command.args(["produce", "--cluster", &broker.addr().to_string(), "--topic", "t", "--timeout", "60s"]);
    let mut metaq = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = metaq.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n3\n").unwrap();
    drop(stdin);
    let all_are_there = async {
        while plan.met() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_are_there).await.unwrap();
    metaq
}

fn signal(metaq: &Child, signal: Signal) {
    kill(Pid::from_raw(metaq.id() as i32), signal).unwrap();
}

fn lines(metaq: &mut Child) -> Vec<serde_json::Value> {
    let mut output = String::new();
    metaq.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_reports_what_is_in_flight_as_unknown() {
    for (stop, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let broker = Broker::builder().topic("t", 2).start().await.unwrap();
        let mut metaq = produce(&broker, Fault::Ignore).await;
        // Two that come at once are one.
        let ended = loop {
            signal(&metaq, stop);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if let Some(ended) = metaq.try_wait().unwrap() {
                break ended;
            }
        };
        assert_eq!(ended.code(), Some(status));
        let lines = lines(&mut metaq);
        let numbers: Vec<_> = lines.iter().map(|line| line["line"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3], "{lines:?}");
        assert!(lines.iter().all(|line| line["error"]["outcome"] == "unknown"), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_after_the_end_of_the_input_sets_the_exit_status() {
    let broker = Broker::builder().topic("t", 2).start().await.unwrap();
    let mut metaq = produce(&broker, Fault::Late(Duration::from_secs(2))).await;
    signal(&metaq, Signal::SIGTERM);
    assert_eq!(lines(&mut metaq).len(), 3);
    assert_eq!(metaq.wait().unwrap().code(), Some(143));
    assert_eq!(broker.messages("t").len(), 3);
}
