//! The handles of real peers do what they say.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Sends raw requests and returns what comes back until so many bytes are there.
async fn ask(port: u16, request: &[u8], answer: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut bytes = vec![0; answer.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), answer);
}

#[tokio::test]
async fn brokers_register_store_move_and_go_and_a_java_client_reads() {
    let Some(peers) = Peers::get("brokers_register_store_move_and_go_and_a_java_client_reads") else {
        return;
    };
    let started = Instant::now();
    let mut zookeeper = ZooKeeper::start(&peers).await.unwrap();
    println!("ZooKeeper was ready after {:?}", started.elapsed());
    let started = Instant::now();
    let mut broker = JavaBroker::builder(3).topic("t", 2).start(&peers, &zookeeper).await.unwrap();
    println!("the broker was ready after {:?}", started.elapsed());

    ask(broker.port(), b"put t 1 5 0 907060870 7\r\nhello", "result 200 ").await;
    ask(broker.port(), b"put t 0 9 1 968442167 8\r\n\x00\x00\x00\x04attrd", "result 200 ").await;
    let started = Instant::now();
    let mut read = peers.read_topic(&zookeeper, "t", 2, Duration::from_secs(30)).await.unwrap();
    println!("the reader was done after {:?}", started.elapsed());
    read.sort_by_key(|message| message.partition);
    let payloads: Vec<_> =
        read.iter().map(|message| (&message.payload[..], message.attribute.as_deref())).collect();
    assert_eq!(payloads, [(&b"d"[..], Some("attr")), (&b"hello"[..], None)]);

    let client = TcpStream::connect(("127.0.0.1", broker.port())).await.unwrap();
    let port = client.local_addr().unwrap().port();
    while !broker.client_ports().contains(&port) {
        tokio::task::yield_now().await;
    }
    drop(client);

    let old_port = broker.port();
    broker.shut_down().await.unwrap();
    assert!(zookeeper.ephemerals().await.is_empty(), "registry §14: it takes its nodes with it");
    assert!(TcpStream::connect(("127.0.0.1", old_port)).await.is_err());
    broker.restart_elsewhere(&zookeeper).await.unwrap();
    assert_ne!(broker.port(), old_port);
    // It keeps its data, though it shows a partition's only after another put to it.
    ask(broker.port(), b"put t 0 5 0 907060870 9\r\nhello", "result 200 ").await;
    ask(broker.port(), b"put t 1 5 0 907060870 9\r\nhello", "result 200 ").await;
    let read = peers.read_topic(&zookeeper, "t", 4, Duration::from_secs(30)).await.unwrap();
    let mut offsets: Vec<_> = read.iter().map(|message| (message.partition.index, message.offset)).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, [(0, 0), (0, 29), (1, 0), (1, 25)]);

    broker.kill().await.unwrap();
    assert!(!zookeeper.ephemerals().await.is_empty(), "registry §15: its nodes outlive it");
    zookeeper.kill().await.unwrap();
    assert!(zookeeper.ephemerals().await.is_empty());
    zookeeper.restart().await.unwrap();
}
