//! The Java client takes the embedded broker for a Java broker, and a Java broker takes over its data folder.

use std::time::Duration;

use metaq_testkit::{
    Broker, Registry,
    peers::{JavaBroker, JavaProgram, Peers, ZooKeeper},
};
use tokio::net::TcpStream;

use crate::wire::Client;

const TIMEOUT: Duration = Duration::from_secs(120);

fn program(peers: &Peers) -> JavaProgram {
    peers.java_program("Acceptance", include_str!("../../java/Acceptance.java")).unwrap()
}

/// Runs the program against the broker on this port: one topic directly, another one through the registry.
async fn accept(program: &JavaProgram, port: u16, zookeeper: &ZooKeeper, root: &str) {
    let direct = ["direct", &format!("127.0.0.1:{port}"), "direct", "3"];
    program.run(&direct, TIMEOUT).await.unwrap();
    let registry = ["registry", &zookeeper.connect_string(), root, "registered", "3"];
    program.run(&registry, TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn the_java_client_accepts_the_embedded_broker() {
    let Some(peers) = Peers::get("the_java_client_accepts_the_embedded_broker") else { return };
    let program = program(&peers);
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();

    // The program itself is right: a Java broker passes.
    let real = JavaBroker::builder(0).root("/real").setting("unflushThreshold", "0");
    let real = real.topic("direct", 3).topic("registered", 3).start(&peers, &zookeeper).await.unwrap();
    accept(&program, real.port(), &zookeeper, "/real").await;

    let folder = tempfile::tempdir().unwrap();
    for (root, compat, on_disk) in [("/plain", false, false), ("/compat", true, true)] {
        let mut builder = Broker::builder().id(0).compat(compat).topic("direct", 3).topic("registered", 3);
        if on_disk {
            builder = builder.data_dir(folder.path());
        }
        let registry = Registry::zookeeper(&format!("{}{root}", zookeeper.connect_string()));
        let broker = builder.register_in(registry).start().await.unwrap();
        accept(&program, broker.addr().port(), &zookeeper, root).await;
        assert!(!broker.messages("direct").is_empty() && !broker.messages("registered").is_empty());
        broker.shut_down().await.unwrap();
    }
}

/// A message: partition, offset, id, attribute and payload.
type Message = (i32, i64, i64, Option<String>, Vec<u8>);

/// Returns the messages of a topic.
fn held(broker: &Broker, topic: &str) -> Vec<Message> {
    let messages = broker.messages(topic).into_iter();
    let plain = messages.map(|m| (m.partition.index, m.offset, m.id, m.attribute, m.payload.to_vec()));
    plain.collect()
}

#[tokio::test]
async fn java_and_embedded_brokers_take_over_each_others_folders() {
    let Some(peers) = Peers::get("java_and_embedded_brokers_take_over_each_others_folders") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let embedded = || Broker::builder().topic("t", 2).max_segment_size(1000).data_dir(&data).start();
    let broker = embedded().await.unwrap();
    let mut client = Client::new(TcpStream::connect(("127.0.0.1", broker.addr().port())).await.unwrap());
    for n in 0..100 {
        let payload = "x".repeat(n);
        let put = if n % 3 == 0 {
            format!("put t {} {} 1 -1 1\r\n\0\0\0\x02at{payload}", n % 2, n + 6)
        } else {
            format!("put t {} {n} 0 -1 1\r\n{payload}", n % 2)
        };
        assert!(client.ask(put).await.starts_with("200 "));
    }
    client.ask("transaction TX:a:1 s BEGIN 1\r\n").await;
    client.ask("put t 1 5 0 -1 TX:a:1 1\r\nin tx").await;
    assert_eq!(client.ask("transaction TX:a:1 s COMMIT_ONE_PHASE 1\r\n").await, "200 ");
    // The folder also contains the embedded broker's own files.
    client.ask("transaction XID:1:01:01:q s BEGIN 1\r\n").await;
    client.ask("put t 1 5 0 -1 XID:1:01:01:q 1\r\nin xa").await;
    assert_eq!(client.ask("transaction XID:1:01:01:q s PREPARE 1\r\n").await, "200 0");
    let before = held(&broker, "t");
    assert_eq!(before.len(), 101);
    assert!(std::fs::read_dir(data.join("t-0")).unwrap().count() > 2, "several segments");
    broker.shut_down().await.unwrap();

    // A Java broker on the folder returns every message, and adds to it.
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let java = JavaBroker::builder(0).topic("t", 2).setting("unflushThreshold", "0");
    let java = java.setting("dataPath", &data.display().to_string()).setting("maxSegmentSize", "1000");
    let mut java = java.start(&peers, &zookeeper).await.unwrap();
    let read = peers.read_topic(&zookeeper, "t", before.len(), TIMEOUT).await.unwrap();
    let read: Vec<_> =
        read.into_iter().map(|m| (m.partition.index, m.offset, m.id, m.attribute, m.payload)).collect();
    assert_eq!(read, before);
    let mut client = Client::new(TcpStream::connect(("127.0.0.1", java.port())).await.unwrap());
    let answer = client.ask("put t 0 8 0 -1 1\r\nby java!").await;
    assert!(answer.starts_with("200 "), "{answer}");
    java.shut_down().await.unwrap();

    let broker = embedded().await.unwrap();
    let mut after = held(&broker, "t");
    let of_java = after.iter().position(|message| message.4 == b"by java!").unwrap();
    let (_, offset, ..) = after.remove(of_java);
    assert_eq!(after, before);
    assert!(answer.ends_with(&format!(" 0 {offset}")), "{answer} {offset}");
    let newest = after.iter().map(|message| message.2).max().unwrap();
    let mut client = Client::new(TcpStream::connect(("127.0.0.1", broker.addr().port())).await.unwrap());
    let answer = client.ask("put t 0 5 0 -1 1\r\nhello").await;
    let id: i64 = answer.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(id > newest, "ids rise");
}
