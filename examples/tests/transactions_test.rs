//! The examples of transactions, run as programs: with embedded brokers as they are, and against a real Java broker that is
//! killed, too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, process::Stdio, time::Duration};

use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// Cargo builds the examples of a package before it runs all of the package's tests.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing; cargo builds it when it runs all tests of the package",
        program.display()
    );
    let mut command = Command::new(program);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs it to its end; returns what it printed.
async fn run(name: &str, args: &[&str]) -> String {
    let output = example(name).args(args).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test]
async fn the_example_of_a_local_transaction_shows_what_it_says() {
    let text = run("local_transaction", &[]).await;
    assert!(text.contains("a thousand cups: not booked\n"), "{text}");
    let orders = text.lines().find(|line| line.starts_with("orders: ")).unwrap();
    assert!(orders.contains("two cups") && orders.contains("three cups"), "{text}");
    assert!(!orders.contains("thousand"), "{text}");
}

#[tokio::test]
async fn the_example_of_two_phases_shows_that_database_and_broker_agree() {
    let text = run("two_phase", &[]).await;
    for said in [
        "recovered and rolled back: killed when prepared\n",
        "recovered and committed: killed when decided\n",
        "in the database: killed when committed, killed when decided, one cup, two cups\n",
        "at the broker:   killed when committed, killed when decided, one cup, two cups\n",
    ] {
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn database_and_java_broker_agree_though_both_programs_are_killed() {
    let Some(peers) = Peers::get("database_and_java_broker_agree_though_both_programs_are_killed") else {
        return;
    };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let mut broker = JavaBroker::builder(0).topic("orders", 1).start(&peers, &zookeeper).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("shop.db").display().to_string();
    let address = broker.addr().to_string();
    run("two_phase", &["sell", &database, &address, "sold", ""]).await;
    for step in ["prepared", "decided", "committed"] {
        let order = format!("killed when {step}");
        let mut child =
            example("two_phase").args(["sell", &database, &address, &order, step]).spawn().unwrap();
        let mut steps = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(line) = steps.next_line().await.unwrap() {
            if line == step {
                child.kill().await.unwrap();
            }
        }
        assert!(!child.wait().await.unwrap().success());
    }
    broker.kill().await.unwrap();
    broker.restart(&zookeeper).await.unwrap();
    let text = run("two_phase", &["recover", &database, &address]).await;
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["recovered and committed: killed when decided", "recovered and rolled back: killed when prepared"]
    );
    assert_eq!(run("two_phase", &["recover", &database, &address]).await, "", "nothing is left");
    let orders = run("two_phase", &["orders", &database, &address]).await;
    let orders: Vec<_> = orders.lines().collect();
    assert_eq!(orders, ["killed when committed", "killed when decided", "sold"]);
    let read = peers.read_topic(&zookeeper, "orders", orders.len(), Duration::from_secs(60)).await.unwrap();
    let mut read: Vec<_> = read.iter().map(|message| str::from_utf8(&message.payload).unwrap()).collect();
    read.sort_unstable();
    assert_eq!(read, orders);
}
