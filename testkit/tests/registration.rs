//! The embedded broker registers as a Java broker does.
#![cfg(all(feature = "peers", feature = "zookeeper"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wire;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use metaq_testkit::{
    Broker, Registry,
    peers::{JavaBroker, Peers, ZooKeeper},
};
use tokio::time::{sleep, timeout};
use wire::Client;
use zookeeper_client::Client as Keeper;

const PATIENCE: Duration = Duration::from_secs(30);

/// Path below the root, whether it goes with a session, and the text.
type Tree = BTreeMap<String, (bool, String)>;

/// All nodes below a root.
async fn tree(keeper: &Keeper, root: &str) -> Tree {
    let mut tree = Tree::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        // It may have gone in between.
        let Ok((data, stat)) = keeper.get_data(&path).await else { continue };
        let text = String::from_utf8(data).unwrap();
        tree.insert(path[root.len()..].to_owned(), (stat.ephemeral_owner != 0, text));
        let children = keeper.list_children(&path).await.unwrap_or_default();
        paths.extend(children.into_iter().map(|child| format!("{path}/{child}")));
    }
    tree
}

/// What one broker tells, without its own port and checksum.
fn without_own(tree: Tree, port: u16) -> Tree {
    let mask = |(path, (ephemeral, text)): (String, (bool, String))| {
        let text = if path.ends_with("checksum") { "CHECKSUM".to_owned() } else { text };
        let mut text = text.replace(&format!(":{port}"), ":PORT");
        if let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(&text) {
            // The keys come in either order.
            text = fields.iter().map(|(key, value)| format!("{key}={value};")).collect();
        }
        (path, (ephemeral, text))
    };
    tree.into_iter().map(mask).collect()
}

/// Waits until the tree is so.
async fn await_tree(keeper: &Keeper, root: &str, what: &str, holds: impl Fn(&Tree) -> bool) -> Tree {
    let started = Instant::now();
    loop {
        let tree = tree(keeper, root).await;
        if holds(&tree) {
            return tree;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {tree:#?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn text<'a>(tree: &'a Tree, path: &str) -> Option<&'a str> {
    tree.get(path).map(|(_, text)| text.as_str())
}

#[tokio::test]
async fn it_registers_what_a_java_broker_registers() {
    let Some(peers) = Peers::get("it_registers_what_a_java_broker_registers") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let address = zookeeper.connect_string();
    let keeper = Keeper::connect(&address).await.unwrap();
    let java = JavaBroker::builder(3).root("/java").topic("alpha", 3).topic("dyn*", 2).topic("beta", 1);
    let java = java.topic_with("quiet", 1, &[("acceptPublish", "false")]);
    let mut java = java.start(&peers, &zookeeper).await.unwrap();
    let builder =
        Broker::builder().id(3).topic("alpha", 3).topic("dyn*", 2).topic("beta", 1).topic("quiet", 1);
    let started = Instant::now();
    let broker = builder.register_in(Registry::zookeeper(&format!("{address}/mine"))).start().await.unwrap();
    println!("registered after {:?}", started.elapsed());
    let (port, java_port) = (broker.addr().port(), java.port());
    broker.set_accepts("quiet", false, true);
    await_tree(&keeper, "/mine", "quiet", |tree| !tree.contains_key("/brokers/topics-pub/quiet/3-m")).await;
    let alike = async || {
        let real = without_own(tree(&keeper, "/java").await, java_port);
        let mine = without_own(tree(&keeper, "/mine").await, port);
        (mine, real)
    };
    let (mine, real) = alike().await;
    // The parent of a topic that takes no messages stays, as when the setting is changed while a broker runs.
    let mut expected = real.clone();
    expected.insert("/brokers/topics-pub/quiet".to_owned(), (false, String::new()));
    assert_eq!(mine, expected);

    // A topic that only a pattern takes comes with its first message.
    let put = "put dynamic 0 5 0 -1 1\r\nhello";
    for port in [port, java_port] {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert!(Client::new(stream).ask(put).await.starts_with("200 "));
    }
    let known = |tree: &Tree| tree.contains_key("/brokers/topics/dynamic/3-m");
    await_tree(&keeper, "/java", "dynamic", known).await;
    await_tree(&keeper, "/mine", "dynamic", known).await;
    let (mine, real) = alike().await;
    for path in
        ["/brokers/topics-pub/dynamic/3-m", "/brokers/topics-sub/dynamic/3-m", "/brokers/topics/dynamic/3-m"]
    {
        assert_eq!(mine.get(path), real.get(path), "{path}");
    }

    // More partitions, and a new topic.
    let checksum =
        text(&tree(&keeper, "/mine").await, "/brokers/ids/3/master_config_checksum").unwrap().to_owned();
    broker.set_topic("alpha", 6);
    broker.set_topic("gamma", 5);
    let more = |tree: &Tree| {
        text(tree, "/brokers/topics-pub/alpha/3-m") == Some(r#"{"broker":"3-m","numParts":6}"#)
            && text(tree, "/brokers/topics/gamma/3-m") == Some("5")
            && text(tree, "/brokers/ids/3/master_config_checksum").is_some_and(|now| now != checksum)
    };
    await_tree(&keeper, "/mine", "partitions", more).await;

    // An orderly end leaves the same behind.
    broker.shut_down().await.unwrap();
    java.shut_down().await.unwrap();
    let (mut mine, real) = alike().await;
    mine.retain(|path, _| !path.ends_with("gamma") && !path.ends_with("topics-pub/quiet"));
    assert_eq!(mine, real);
}

#[tokio::test]
async fn it_stays_registered_and_its_entries_outlive_a_kill_only_so_long() {
    let Some(peers) = Peers::get("it_stays_registered_and_its_entries_outlive_a_kill_only_so_long") else {
        return;
    };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let address = zookeeper.connect_string();
    let mut keeper = Keeper::connect(&address).await.unwrap();
    let master = "/meta/brokers/ids/0/master";
    let owner =
        async |keeper: &Keeper| keeper.check_stat(master).await.unwrap().map(|stat| stat.ephemeral_owner);
    let registry = || Registry::zookeeper(&address).session_timeout(Duration::from_secs(2));
    let start = || Broker::builder().topic("t", 2).register_in(registry()).start();

    // Killed: its nodes stay, and whoever comes next with its id waits for them to go.
    let killed = start().await.unwrap();
    let first = owner(&keeper).await.unwrap();
    let old = killed.addr().to_string();
    drop(killed);
    let started = Instant::now();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(owner(&keeper).await, Some(first));
    let broker = start().await.unwrap();
    println!("registered {:?} after the kill", started.elapsed());
    assert!(started.elapsed() > Duration::from_secs(1), "the old session had its time");
    assert_ne!(owner(&keeper).await, Some(first));
    let now = tree(&keeper, "/meta").await;
    assert_eq!(text(&now, "/brokers/ids/0/master"), Some(&*broker.addr().to_string()));
    assert_ne!(broker.addr().to_string(), old);

    // Its session is lost: it registers all anew.
    let second = owner(&keeper).await.unwrap();
    drop(keeper);
    zookeeper.freeze();
    sleep(Duration::from_secs(5)).await;
    zookeeper.thaw();
    let started = Instant::now();
    keeper = timeout(PATIENCE, Keeper::connect(&address)).await.unwrap().unwrap();
    loop {
        if owner(&keeper).await.is_some_and(|owner| owner != second) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "it does not register again");
        sleep(Duration::from_millis(20)).await;
    }
    println!("registered again {:?} after the thaw", started.elapsed());
    let whole =
        |tree: &Tree| text(tree, "/brokers/topics-pub/t/0-m") == Some(r#"{"broker":"0-m","numParts":2}"#);
    await_tree(&keeper, "/meta", "all of it", whole).await;

    // A slave's node keeps the broker's own, which is emptied (registry §20).
    let options = zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
    keeper.create("/meta/brokers/ids/0/slave1", b"meta://h:1", &options).await.unwrap();
    broker.shut_down().await.unwrap();
    let left = tree(&keeper, "/meta").await;
    assert_eq!(text(&left, "/brokers/ids/0"), Some(""));
    assert!(left.values().all(|(ephemeral, _)| !ephemeral), "{left:#?}");
}

#[tokio::test]
async fn a_broker_with_the_id_of_a_live_one_is_refused_and_changes_nothing() {
    let Some(peers) = Peers::get("a_broker_with_the_id_of_a_live_one_is_refused") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let address = zookeeper.connect_string();
    let keeper = Keeper::connect(&address).await.unwrap();
    let start = |partitions, session| {
        let registry = Registry::zookeeper(&address).session_timeout(Duration::from_secs(session));
        Broker::builder().topic("t", partitions).register_in(registry).start()
    };
    // Its session is longer than the second waits, however slow the machine is.
    let first = start(2, 30).await.unwrap();
    let before = tree(&keeper, "/meta").await;
    let error = timeout(PATIENCE, start(3, 2)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    let error = error.to_string();
    let parts =
        ["broker 0 ", &*address, "/meta/brokers/ids/0/master", &first.addr().to_string(), "another id"];
    for part in parts {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(tree(&keeper, "/meta").await, before);

    // A node that somebody else made instead is left alone as well, and so is the broker's own then.
    let master = "/meta/brokers/ids/0/master";
    let options = zookeeper_client::CreateMode::Ephemeral.with_acls(zookeeper_client::Acls::anyone_all());
    keeper.delete(master, None).await.unwrap();
    keeper.create(master, b"meta://h:1", &options).await.unwrap();
    keeper.set_data("/meta/brokers/ids/0", b"meta://h:1", None).await.unwrap();
    first.shut_down().await.unwrap();
    let left = tree(&keeper, "/meta").await;
    assert_eq!(text(&left, "/brokers/ids/0/master"), Some("meta://h:1"));
    assert_eq!(text(&left, "/brokers/ids/0"), Some("meta://h:1"));
    assert_eq!(left.values().filter(|(ephemeral, _)| *ephemeral).count(), 1, "{left:#?}");
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told() {
    let error = Broker::builder()
        .register_in(Registry::zookeeper("127.0.0.1:1").session_timeout(Duration::ZERO))
        .start();
    let error = timeout(PATIENCE, error).await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("broker 0 could not be registered at 127.0.0.1:1 within 15s: "), "{error}");
}
