//! The embedded broker registers in ZooKeeper as a Java broker does.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use metaq_testkit::{
    Broker, Registry,
    peers::{JavaBroker, Peers, ZooKeeper},
};
use tokio::time::{sleep, timeout};
use zookeeper_client::Client as Keeper;

use crate::wire::Client;

const TIMEOUT: Duration = Duration::from_secs(30);

/// By path below the root: whether the node is ephemeral, and its text.
type Tree = BTreeMap<String, (bool, String)>;

/// Returns all nodes below a root.
async fn tree(keeper: &Keeper, root: &str) -> Tree {
    let mut tree = Tree::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        // The node may have been removed in between.
        let Ok((data, stat)) = keeper.get_data(&path).await else { continue };
        let text = String::from_utf8(data).unwrap();
        tree.insert(path[root.len()..].to_owned(), (stat.ephemeral_owner != 0, text));
        let children = keeper.list_children(&path).await.unwrap_or_default();
        paths.extend(children.into_iter().map(|child| format!("{path}/{child}")));
    }
    tree
}

/// Replaces a broker's port and checksum, which differ between brokers.
fn without_own(tree: Tree, port: u16) -> Tree {
    let mask = |(path, (ephemeral, text)): (String, (bool, String))| {
        let text = if path.ends_with("checksum") { "CHECKSUM".to_owned() } else { text };
        let mut text = text.replace(&format!(":{port}"), ":PORT");
        if let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(&text) {
            // The keys have no order.
            text = fields.iter().map(|(key, value)| format!("{key}={value};")).collect();
        }
        (path, (ephemeral, text))
    };
    tree.into_iter().map(mask).collect()
}

/// Waits until the condition holds for the tree.
async fn await_tree(keeper: &Keeper, root: &str, what: &str, holds: impl Fn(&Tree) -> bool) -> Tree {
    let started = Instant::now();
    loop {
        let tree = tree(keeper, root).await;
        if holds(&tree) {
            return tree;
        }
        assert!(started.elapsed() < TIMEOUT, "{what}: {tree:#?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn text<'a>(tree: &'a Tree, path: &str) -> Option<&'a str> {
    tree.get(path).map(|(_, text)| text.as_str())
}

#[tokio::test]
async fn entries_in_zookeeper_match_those_of_a_java_broker() {
    let Some(peers) = Peers::get("entries_in_zookeeper_match_those_of_a_java_broker") else { return };
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
    // The parent of a topic that accepts no messages stays, as after a change of the setting while a broker
    // runs.
    let mut expected = real.clone();
    expected.insert("/brokers/topics-pub/quiet".to_owned(), (false, String::new()));
    assert_eq!(mine, expected);

    // A topic that only a pattern matches is registered with its first message.
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

    // An orderly end leaves the same nodes behind.
    broker.shut_down().await.unwrap();
    java.shut_down().await.unwrap();
    let (mut mine, real) = alike().await;
    mine.retain(|path, _| !path.ends_with("gamma") && !path.ends_with("topics-pub/quiet"));
    assert_eq!(mine, real);
}

#[tokio::test]
async fn a_broker_stays_registered_until_its_session_expires() {
    let Some(peers) = Peers::get("a_broker_stays_registered_until_its_session_expires") else {
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

    // Killed: its nodes stay, and the next broker with its id waits until they are removed.
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

    // After the loss of its session it registers everything again.
    let second = owner(&keeper).await.unwrap();
    drop(keeper);
    zookeeper.freeze();
    sleep(Duration::from_secs(5)).await;
    zookeeper.thaw();
    let started = Instant::now();
    keeper = timeout(TIMEOUT, Keeper::connect(&address)).await.unwrap().unwrap();
    loop {
        if owner(&keeper).await.is_some_and(|owner| owner != second) {
            break;
        }
        assert!(started.elapsed() < TIMEOUT, "it does not register again");
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
async fn a_live_id_is_refused_without_any_change() {
    let Some(peers) = Peers::get("a_live_id_is_refused_without_any_change") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let address = zookeeper.connect_string();
    let keeper = Keeper::connect(&address).await.unwrap();
    let start = |partitions, session| {
        let registry = Registry::zookeeper(&address).session_timeout(Duration::from_secs(session));
        Broker::builder().topic("t", partitions).register_in(registry).start()
    };
    // The session is longer than the second broker waits, even on a slow machine.
    let first = start(2, 30).await.unwrap();
    let before = tree(&keeper, "/meta").await;
    let error = timeout(TIMEOUT, start(3, 2)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    let error = error.to_string();
    let parts =
        ["broker 0 ", &*address, "/meta/brokers/ids/0/master", &first.addr().to_string(), "another id"];
    for part in parts {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(tree(&keeper, "/meta").await, before);

    // A node that another process created instead stays, and so does the broker's own then.
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
async fn an_unreachable_registry_is_an_error() {
    let error = Broker::builder()
        .register_in(Registry::zookeeper("127.0.0.1:1").session_timeout(Duration::ZERO))
        .start();
    let error = timeout(TIMEOUT, error).await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("broker 0 could not be registered at 127.0.0.1:1 within 15s: "), "{error}");
}
