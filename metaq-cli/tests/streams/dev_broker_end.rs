//! `metaq dev-broker` that exits before it serves: it leaves no entries behind.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use metaq_testkit::peers::{Peers, ZooKeeper};
use nix::sys::signal::Signal;

use crate::common::{Metaq, dev_full};

/// Waits until a broker is registered.
async fn until_registered(zookeeper: &ZooKeeper) {
    let registered = async {
        while !zookeeper.ephemerals().await.iter().any(|path| path.contains("/brokers/ids/")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), registered).await.expect("it is registered");
}

#[tokio::test]
async fn a_dev_broker_that_ends_early_leaves_the_registries() {
    let Some(peers) = Peers::get("a_dev_broker_that_ends_early_leaves_the_registries") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let (cluster, unreachable) = (format!("zk://{}", zookeeper.connect_string()), "zk://127.0.0.1:1/meta");
    let args = |id| ["dev-broker", "--topic", "t:1", "--id", id, "--register", &cluster];

    // The second registry doesn't answer before the signal.
    let metaq = Metaq::start(&[&args("0")[..], &["--register", unreachable]].concat());
    until_registered(&zookeeper).await;
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    assert_eq!((finished.status, &*finished.stdout), (130, ""));
    assert_eq!(zookeeper.ephemerals().await, [""; 0]);

    // The second registry already has a broker with this id.
    let mut other = Metaq::start(&[&args("1")[..6], &[&format!("{cluster}/other")]].concat());
    other.next_line().await;
    let finished =
        Metaq::start(&[&args("1")[..], &["--register", &format!("{cluster}/other")]].concat()).wait().await;
    assert_eq!((finished.status, &*finished.stdout), (5, ""));
    let lines: Vec<_> = finished.stderr.lines().collect();
    let waiting = "metaq: waiting to be registered in ";
    assert!(lines[0].starts_with(waiting) && lines[0].contains("is another process's"), "{lines:?}");
    assert!(lines[1].starts_with("metaq: a broker can't be started: ") && lines.len() == 2, "{lines:?}");
    other.signal(Signal::SIGTERM);
    assert_eq!(other.wait().await.status, 0);
    assert_eq!(zookeeper.ephemerals().await, [""; 0]);

    // The address can't be written.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let said = "metaq: the broker's address can't be written: No space left on device (os error 28)\n";
    for (stdout, status, said) in [(Stdio::from(writer), 141, ""), (dev_full().into(), 8, said)] {
        let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
        metaq.args(args("2")).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || metaq.output().unwrap()).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*stderr), (Some(status), said));
        assert_eq!(zookeeper.ephemerals().await, [""; 0]);
    }
}
