//! Names of local transactions, which brokers merge when two processes have the same. A test program of its
//! own: its processes would take the time of other tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::HashSet,
    env,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use metaq_producer::transaction::TransactionOptions;
use metaq_testkit::EmbeddedRegistry;

use crate::common::{
    cluster::{broker, producer},
    message, topic,
};

const PROCESSES: usize = 50;
const SESSIONS: usize = 200;

/// Says to a process that it is to print sessions.
const PRINTS: &str = "METAQ_PRINTS_SESSIONS";

/// Prints the names of transactions, each of a producer of its own.
#[allow(clippy::print_stdout, reason = "the other process reads it")]
#[tokio::main(flavor = "current_thread")]
async fn print_sessions() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    for _ in 0..SESSIONS {
        let producer = producer(&registry, |_| {});
        producer.publish_topic(&topic()).await.unwrap();
        let mut transaction = producer.begin(TransactionOptions::new());
        transaction.send(message("x")).await.unwrap();
        println!("{}", transaction.id().unwrap());
        transaction.rollback().await.unwrap();
    }
}

#[test]
fn sessions_of_many_processes_never_meet() {
    const NAME: &str = "sessions_of_many_processes_never_meet";
    if env::var_os(PRINTS).is_some() {
        return print_sessions();
    }
    let (started, printed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while started.fetch_add(1, Relaxed) < PROCESSES {
                    let mut command = Command::new(env::current_exe().unwrap());
                    command.args(["--exact", NAME, "--nocapture"]).env(PRINTS, "").stderr(Stdio::inherit());
                    let output = command.output().unwrap();
                    assert!(output.status.success(), "{output:?}");
                    let text = String::from_utf8(output.stdout).unwrap();
                    let names = text.lines().filter(|line| line.starts_with("TX:")).map(str::to_owned);
                    printed.lock().unwrap().extend(names);
                }
            });
        }
    });
    let printed = printed.into_inner().unwrap();
    assert_eq!(printed.len(), PROCESSES * SESSIONS);
    let distinct: HashSet<_> = printed.iter().collect();
    assert_eq!(distinct.len(), printed.len(), "names that were given twice");
}
