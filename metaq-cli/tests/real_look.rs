//! The commands that look at a cluster, with real Java brokers that register in a real ZooKeeper.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Finished, Metaq};
use metaq_testkit::{
    Broker, Registry,
    peers::{JavaBroker, Peers, ZooKeeper},
};
use zookeeper_client::{Acls, Client, CreateMode};

async fn run(command: &str, cluster: &str) -> Finished {
    let args: Vec<_> = command.split(' ').chain(["--cluster", cluster]).collect();
    Metaq::start(&args).finish(b"").await
}

#[tokio::test]
async fn commands_find_and_read_what_real_brokers_have() {
    let Some(peers) = Peers::get("commands_find_and_read_what_real_brokers_have") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let (first, second) = tokio::join!(
        JavaBroker::builder(0).topic("orders", 2).topic("quiet", 1).start(&peers, &zookeeper),
        JavaBroker::builder(1).topic("orders", 1).start(&peers, &zookeeper),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    let cluster = format!("zk://{}", zookeeper.connect_string());

    let lines: Vec<_> =
        (0..3000_u32).map(|n| format!("заказ {n} {}", "x".repeat(n as usize % 500))).collect();
    let args = ["produce", "--cluster", &cluster, "--topic", "orders", "--attribute", "ключ"];
    let produced = Metaq::start(&args).finish((lines.join("\n") + "\n").as_bytes()).await;
    assert_eq!(produced.status, 0, "{}", produced.stderr);

    let finished = run("topics", &cluster).await;
    let expected = "TOPIC   PARTITIONS  BROKERS\norders  3           0:2 1:1\nquiet   1           0:1\n";
    assert_eq!((finished.status, &*finished.stdout), (0, expected));

    let pinged = run("brokers --ping --json", &cluster).await;
    assert_eq!(pinged.status, 0, "{}", pinged.stderr);
    let ids: Vec<_> =
        pinged.json().iter().map(|line| (line["id"].clone(), line["version"].clone())).collect();
    assert_eq!(ids, [(0.into(), "0.1".into()), (1.into(), "0.1".into())]);

    // Messages become readable when they are flushed, a moment after they were acknowledged.
    let produced = produced.json();
    let mut read = Vec::new();
    for _ in 0..300 {
        let finished = run("read orders --json", &cluster).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""));
        read = finished.json();
        if read.len() == lines.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(read.len(), lines.len());
    let by_line = |line: &serde_json::Value| lines[line["line"].as_u64().unwrap() as usize - 1].clone();
    let place = |line: &serde_json::Value| (line["partition"].to_string(), line["offset"].as_i64().unwrap());
    let mut expected: Vec<_> =
        produced.iter().map(|line| (place(line), by_line(line), line["id"].clone())).collect();
    let mut found: Vec<_> = read
        .iter()
        .map(|line| (place(line), line["data"].as_str().unwrap().to_owned(), line["id"].clone()))
        .collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, expected, "each is where its receipt says");
    assert!(read.iter().all(|line| line["attribute"] == "ключ"));

    let offsets = run("partitions orders --offsets --json", &cluster).await.json();
    let bytes: i64 = offsets.iter().map(|line| line["end"].as_i64().unwrap()).sum();
    let attribute = 4 + "ключ".len();
    let stored: usize = lines.iter().map(|line| 20 + attribute + line.len()).sum();
    assert_eq!((offsets.len(), bytes), (3, stored as i64));

    let stats = run("stats --output prometheus", &cluster).await;
    assert_eq!(stats.status, 0, "{}", stats.stderr);
    assert_eq!(stats.stdout.matches("metaq_broker_up{").count(), 2);
    assert!(
        stats
            .stdout
            .contains(&format!("metaq_broker_uptime_seconds{{broker=\"1\",addr=\"{}\"}}", second.addr()))
    );

    // A topic that no broker offers leaves nothing behind in ZooKeeper.
    let before = run("topics --json", &cluster).await.stdout;
    for command in ["topics none", "partitions none", "read none"] {
        let finished = run(command, &cluster).await;
        assert_eq!((finished.status, &*finished.stdout), (4, ""), "{command}: {}", finished.stderr);
    }
    assert_eq!(run("topics --json", &cluster).await.stdout, before);

    let direct = run("read orders --json", &first.addr().to_string()).await;
    assert_eq!(
        direct.json().len(),
        read.iter().filter(|line| line["partition"].as_str().unwrap().starts_with('0')).count()
    );
}

#[tokio::test]
async fn slaves_and_brokers_without_topics_are_listed() {
    let Some(peers) = Peers::get("slaves_and_brokers_without_topics_are_listed") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::zookeeper(&zookeeper.connect_string());
    let master = Broker::builder().id(0).topic("t", 1).register_in(registry).start().await.unwrap();
    let slave = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    // As a slave registers, and as a master without topics does.
    let client = Client::connect(&zookeeper.connect_string()).await.unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    client.mkdir("/meta/brokers/ids/7", &options).await.unwrap();
    for (path, data) in [
        ("/meta/brokers/ids/0/slave1", slave.addr().to_string()),
        ("/meta/brokers/topics-pub/t/0-s1", r#"{"numParts":1,"broker":"0-s1"}"#.to_owned()),
        ("/meta/brokers/ids/7/master", "meta://127.0.0.1:1".to_owned()),
        ("/meta/brokers/ids/7/master_config_checksum", "1007315325".to_owned()),
        ("/meta/brokers/ids/7/slave0", "nowhere".to_owned()),
    ] {
        client.create(path, data.as_bytes(), &options).await.unwrap();
    }
    let cluster = format!("zk://{}", zookeeper.connect_string());
    let finished = run("brokers", &cluster).await;
    let rows: Vec<Vec<_>> = finished.stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    let (first, second) = (master.addr().to_string(), slave.addr().to_string());
    let expected = [
        ["ID", "ROLE", "ADDRESS", "TOPICS"],
        ["0", "master", &first, "1"],
        ["0", "slave1", &second, "-"],
        ["7", "master", "meta://127.0.0.1:1", "0"],
    ];
    assert_eq!((finished.status, rows), (0, expected.map(Vec::from).to_vec()));
    let said = "an entry of the registry is not used: /meta/brokers/ids/7/slave0: ";
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
    let pinged = run("brokers --ping --json", &cluster).await;
    let lines = pinged.json();
    assert_eq!((pinged.status, lines.len()), (5, 3), "{}", pinged.stderr);
    assert_eq!((&lines[1]["role"], &lines[1]["version"]), (&"slave1".into(), &"0.1".into()));
    assert!(lines[2]["error"].is_string());
    // Producers send nothing to slaves, and figures of one would count its messages twice.
    assert_eq!(run("stats 0", &cluster).await.stdout.matches("broker 0 ").count(), 1);
    let asked = run(&format!("stats {second}"), &cluster).await;
    assert!(asked.status == 0 && asked.stdout.contains(&second), "{}", asked.stderr);
}
