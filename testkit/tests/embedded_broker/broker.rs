//! The embedded broker alone: behaviour that a Java broker can't show, or shows slowly.

use std::time::{Duration, Instant};

use metaq_protocol::{Limits, TransactionId, XaTransactionId};
use metaq_testkit::{Broker, BrokerBuilder, Flush, Heuristic};
use tokio::{
    io::{AsyncReadExt as _, DuplexStream},
    net::TcpStream,
};

use crate::wire::Client;

fn client(broker: &Broker) -> Client<DuplexStream> {
    Client::new(broker.connect())
}

fn builder() -> BrokerBuilder {
    Broker::builder().topic("t", 2)
}

/// A put of five bytes.
fn put(partition: i32) -> String {
    format!("put t {partition} 5 0 -1 1\r\nhello")
}

fn step(id: &str, action: &str) -> String {
    format!("transaction {id} s {action} 9\r\n")
}

fn put_in(id: &str) -> String {
    format!("put t 0 5 0 -1 {id} 1\r\nhello")
}

/// The partition and offset of a stored put.
fn place(answer: &str) -> (i32, i64) {
    let words: Vec<_> =
        answer.strip_prefix("200 ").unwrap_or_else(|| panic!("{answer}")).split(' ').collect();
    (words[1].parse().unwrap(), words[2].parse().unwrap())
}

#[tokio::test]
async fn many_brokers_start_quickly_and_run_side_by_side() {
    let started = Instant::now();
    let mut brokers = Vec::new();
    for id in 0..50 {
        brokers.push(builder().id(id).start().await.unwrap());
    }
    let each = started.elapsed() / 50;
    println!("a broker starts in {each:?}");
    assert!(each < Duration::from_millis(10));
    let mut ports: Vec<_> = brokers.iter().map(|broker| broker.addr().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 50);
    for broker in &brokers {
        assert_eq!(place(&client(broker).ask(put(1)).await), (1, 0));
    }
    let mut ids: Vec<_> = brokers.iter().map(|broker| broker.messages("t")[0].id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 50, "no two brokers give the same id");
}

/// A put into a local transaction.
fn put_text(id: &str, text: &str) -> String {
    format!("put t 0 {} 0 -1 {id} 1\r\n{text}", text.len())
}

fn payloads(broker: &Broker) -> Vec<String> {
    let all = broker.messages("t");
    all.into_iter().map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect()
}

const LOCAL: &str = "TX:a:1";
const NOT_BEGUN: &str = "500 Local transaction 'TX:a:1' has not been started.";

#[tokio::test]
async fn a_local_transaction_belongs_to_the_connection_that_began_it() {
    let broker = builder().start_without_port().unwrap();
    let (mut one, mut other) = (client(&broker), client(&broker));
    assert_eq!(one.ask(step(LOCAL, "BEGIN")).await, "200 ");
    assert_eq!(place(&one.ask(put_in(LOCAL)).await), (0, -1));
    for request in
        [put_in(LOCAL), step(LOCAL, "COMMIT_ONE_PHASE"), step(LOCAL, "ROLLBACK"), step(LOCAL, "PREPARE")]
    {
        assert_eq!(other.ask(request).await, NOT_BEGUN);
    }
    drop(one);
    broker.wait_until(|broker| broker.open_connections() == 1).await.unwrap();
    assert_eq!(other.ask(step(LOCAL, "COMMIT_ONE_PHASE")).await, NOT_BEGUN);
    assert!(broker.messages("t").is_empty());
}

#[tokio::test]
async fn local_transactions_of_one_key_share_their_messages() {
    let broker = builder().start_without_port().unwrap();
    let (mut one, mut other) = (client(&broker), client(&broker));
    // The first commit stores the messages of both connections, the second those that followed.
    for client in [&mut one, &mut other] {
        assert_eq!(client.ask(step(LOCAL, "BEGIN")).await, "200 ");
    }
    one.ask(put_text(LOCAL, "a")).await;
    other.ask(put_text(LOCAL, "b")).await;
    assert_eq!(one.ask(step(LOCAL, "COMMIT_ONE_PHASE")).await, "200 ");
    assert_eq!(payloads(&broker), ["a", "b"]);
    other.ask(put_text(LOCAL, "c")).await;
    assert_eq!(other.ask(step(LOCAL, "COMMIT_ONE_PHASE")).await, "200 ");
    assert_eq!(payloads(&broker), ["a", "b", "c"]);

    // A rollback drops the messages of both connections; the commit succeeds and stores nothing.
    for client in [&mut one, &mut other] {
        assert_eq!(client.ask(step(LOCAL, "BEGIN")).await, "200 ");
    }
    one.ask(put_text(LOCAL, "d")).await;
    assert_eq!(other.ask(step(LOCAL, "ROLLBACK")).await, "200 ");
    assert_eq!(one.ask(step(LOCAL, "COMMIT_ONE_PHASE")).await, "200 ");
    assert_eq!(payloads(&broker).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn local_messages_outlive_the_connection_but_not_the_timeout() {
    let broker = builder().start_without_port().unwrap();
    for (begin, advanced, stored) in [
        ("BEGIN", 3600, &["left", "new"][..]),
        ("BEGIN 1", 0, &["left", "new", "left", "new"]),
        ("BEGIN 1", 1, &["left", "new", "left", "new", "new"]),
    ] {
        let mut one = client(&broker);
        one.ask(step(LOCAL, begin)).await;
        one.ask(put_text(LOCAL, "left")).await;
        drop(one);
        broker.wait_until(|broker| broker.open_connections() == 0).await.unwrap();
        tokio::time::advance(Duration::from_secs(advanced)).await;
        let mut other = client(&broker);
        assert_eq!(other.ask(step(LOCAL, "BEGIN")).await, "200 ");
        other.ask(put_text(LOCAL, "new")).await;
        assert_eq!(other.ask(step(LOCAL, "COMMIT_ONE_PHASE")).await, "200 ");
        assert_eq!(payloads(&broker), stored, "{begin}");
        drop(other);
        broker.wait_until(|broker| broker.open_connections() == 0).await.unwrap();
    }

    // A timeout in one connection drops the messages of the other, too.
    let (mut one, mut other) = (client(&broker), client(&broker));
    one.ask(step(LOCAL, "BEGIN 1")).await;
    other.ask(step(LOCAL, "BEGIN")).await;
    other.ask(put_text(LOCAL, "dropped")).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(one.ask(put_text(LOCAL, "late")).await, NOT_BEGUN);
    assert_eq!(other.ask(step(LOCAL, "COMMIT_ONE_PHASE")).await, "200 ");
    assert_eq!(payloads(&broker).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_expired_transaction_is_rolled_back_unless_prepared() {
    let broker = builder().max_transaction_timeout(Duration::from_secs(60)).start_without_port().unwrap();
    let mut client = client(&broker);
    let xa = ["XID:1:01:01:q", "XID:1:02:02:q", "XID:1:03:03:q", "XID:1:04:04:q"];
    // The second requests more than the maximum, the third no timeout, and the fourth is prepared in time.
    for (id, timeout) in xa.iter().zip([" 5", " 1000", "", " 5"]) {
        assert_eq!(client.ask(step(id, &format!("BEGIN{timeout}"))).await, "200 ");
        assert_eq!(place(&client.ask(put_in(id)).await), (0, -1));
    }
    client.ask(step("TX:a:1", "BEGIN 5")).await;
    assert_eq!(place(&client.ask(put_in("TX:a:1")).await), (0, -1));

    tokio::time::advance(Duration::from_millis(4_999)).await;
    assert_eq!(client.ask(step(xa[3], "PREPARE")).await, "200 0");
    assert_eq!(place(&client.ask(put_in("TX:a:1")).await), (0, -1));
    tokio::time::advance(Duration::from_millis(1)).await;
    let not_begun =
        |id: &str| format!("500 XAException:code=-4,msg=XA transaction '{id}' has not been started.");
    assert_eq!(
        client.ask(step("TX:a:1", "COMMIT_ONE_PHASE")).await,
        "500 Local transaction 'TX:a:1' has not been started."
    );
    assert_eq!(client.ask(step(xa[0], "PREPARE")).await, not_begun(xa[0]));
    tokio::time::advance(Duration::from_secs(55)).await;
    assert_eq!(client.ask(step(xa[1], "PREPARE")).await, not_begun(xa[1]), "the cap is 60 s");
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(client.ask(step(xa[2], "PREPARE")).await, "200 0", "it has no timeout");
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(client.ask(step("null", "RECOVER")).await, format!("200 {}\r\n{}", xa[2], xa[3]));
    for (id, stored) in [(xa[2], 1), (xa[3], 2)] {
        assert_eq!(client.ask(step(id, "COMMIT_TWO_PHASE")).await, "200 ");
        assert_eq!(broker.messages("t").len(), stored);
    }
}

#[tokio::test]
async fn an_operators_decision_is_reported_until_forgotten() {
    let broker = builder().start_without_port().unwrap();
    let mut client = client(&broker);
    let outcomes = [
        (Heuristic::Committed, "code=7", "committed"),
        (Heuristic::RolledBack, "code=6", "rolled back"),
        (Heuristic::Completed, "code=8", "completed"),
    ];
    for (n, (heuristic, code, word)) in outcomes.into_iter().enumerate() {
        let key = format!("XID:1:0{n}:0{n}:q");
        let Ok(TransactionId::Xa(id)) = key.parse::<TransactionId>() else { panic!("{key}") };
        let id: XaTransactionId = id;
        assert!(!broker.decide(&id, heuristic).unwrap());
        client.ask(step(&key, "BEGIN")).await;
        client.ask(put_in(&key)).await;
        assert!(!broker.decide(&id, heuristic).unwrap(), "only what is prepared");
        assert_eq!(client.ask(step(&key, "PREPARE")).await, "200 0");
        assert!(broker.decide(&id, heuristic).unwrap());
        let text = format!("XA transaction '{key}' has been heuristically {word}.");
        let outcome = format!("500 XAException:{code},msg={text}");
        assert_eq!(client.ask(step(&key, "COMMIT_TWO_PHASE")).await, outcome);
        assert_eq!(client.ask(put_in(&key)).await, format!("500 {text}"));
        assert_eq!(client.ask(step("null", "RECOVER q")).await, format!("200 {key}"));
        assert_eq!(client.ask(step(&key, "FORGET")).await, "200 ");
        assert_eq!(client.ask(step("null", "RECOVER q")).await, "200 ");
        let unknown = format!("500 XAException:code=-4,msg=XA transaction '{key}' has not been started.");
        assert_eq!(client.ask(step(&key, "ROLLBACK")).await, unknown);
    }
    assert_eq!(broker.messages("t").len(), 1, "only the first was committed");
}

#[tokio::test]
async fn messages_become_readable_by_count_or_flush() {
    let get = |offset: i64| format!("get t g 0 {offset} 1000 1\r\n");
    let hidden = |offset: i64| format!("404 Could not find message at position {offset}");

    let broker = builder().flush(Flush::ByHand).start_without_port().unwrap();
    let mut one = client(&broker);
    for _ in 0..3 {
        one.ask(put(0)).await;
    }
    assert_eq!(one.ask(get(0)).await, hidden(0));
    assert_eq!(one.ask("offset t g 0 1000 1\r\n").await, "200 0");
    broker.flush().unwrap();
    assert_eq!(one.ask(get(0)).await, "value 75");
    one.ask(put(0)).await;
    assert_eq!(one.ask(get(75)).await, hidden(75));
    assert_eq!(one.ask(get(50)).await, "value 50", "what is unflushed comes along with what is flushed");
    assert_eq!(one.ask("get t g 0 9223372036854775807 10 1\r\n").await, "301 75");

    let rules = Flush::After { messages: 2, interval: Duration::from_secs(3600) };
    let broker = builder().flush(rules).start_without_port().unwrap();
    let mut one = client(&broker);
    for messages in [0, 0, 75] {
        one.ask(put(0)).await;
        let shown = if messages == 0 { hidden(0) } else { format!("value {messages}") };
        assert_eq!(one.ask(get(0)).await, shown);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_become_readable_after_their_time() {
    let rules = Flush::After { messages: 1000, interval: Duration::from_secs(10) };
    let broker = builder().flush(rules).start_without_port().unwrap();
    let mut client = client(&broker);
    tokio::time::advance(Duration::from_secs(60)).await;
    client.ask(put(0)).await;
    tokio::time::advance(Duration::from_millis(9_999)).await;
    client.ask(put(0)).await;
    assert_eq!(client.ask("get t g 0 0 100 1\r\n").await, "404 Could not find message at position 0");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(client.ask("get t g 0 0 100 1\r\n").await, "value 50");
}

#[tokio::test]
async fn offsets_follow_segments_and_the_oldest_can_be_dropped() {
    let folder = tempfile::tempdir().unwrap();
    for on_disk in [false, true] {
        let builder = builder().max_segment_size(60);
        let builder = if on_disk { builder.data_dir(folder.path()) } else { builder };
        let broker = builder.start_without_port().unwrap();
        let mut client = client(&broker);
        // Three messages of 25 bytes to a segment.
        for n in 0..7 {
            assert_eq!(place(&client.ask(put(0)).await), (0, n * 25));
        }
        for (offset, start) in [(0, 0), (74, 0), (75, 75), (149, 75), (150, 150), (175, 175), (-1, 0)] {
            assert_eq!(client.ask(format!("offset t g 0 {offset} 1\r\n")).await, format!("200 {start}"));
        }
        assert_eq!(client.ask("get t g 0 50 1000 1\r\n").await, "value 25", "a get ends with its segment");
        assert_eq!(broker.messages("t").len(), 7);
        assert!(broker.drop_oldest_segment("t", 0).unwrap());
        assert_eq!(client.ask("get t g 0 0 1000 1\r\n").await, "301 75");
        assert_eq!(client.ask("offset t g 0 0 1\r\n").await, "200 75");
        assert_eq!(broker.messages("t").len(), 4);
        assert!(broker.drop_oldest_segment("t", 0).unwrap());
        assert!(!broker.drop_oldest_segment("t", 0).unwrap());
        let stats = client.ask("stats offsets 1\r\n").await;
        assert!(stats.contains("t part 0 min_offset 150 max_offset 175\r\n"), "{stats}");
    }
}

#[tokio::test]
async fn messages_on_disk_outlive_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let builder = || builder().topic("u*", 1).data_dir(folder.path());
    let broker = builder().start_without_port().unwrap();
    let mut one = client(&broker);
    for partition in [0, 1, 0] {
        one.ask(put(partition)).await;
    }
    one.ask("put ux 0 2 1 -1 1\r\nhi").await;
    one.ask("put ux 0 5 1 -1 1\r\n\0\0\0\x01a").await;
    for id in ["XID:1:01:01:q", "XID:1:02:02:q", "XID:1:03:03:q", "TX:a:1"] {
        one.ask(step(id, "BEGIN")).await;
        one.ask(put_in(id)).await;
    }
    assert_eq!(one.ask(step("XID:1:02:02:q", "PREPARE")).await, "200 0");
    assert_eq!(one.ask(step("XID:1:01:01:q", "PREPARE")).await, "200 0");
    let before = broker.messages("t");
    assert_eq!(before.len(), 3);
    drop(broker);

    // A message that was half written in a power failure.
    let file = folder.path().join("t-1/00000000000000000000.meta");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 50, 1, 2, 3]);
    std::fs::write(&file, bytes).unwrap();

    let broker = builder().start_without_port().unwrap();
    let mut one = client(&broker);
    assert_eq!(broker.messages("t"), before);
    assert_eq!(one.ask("get ux g 0 0 100 1\r\n").await, "value 47", "as it was put, sound or not");
    assert_eq!(one.ask(step("null", "RECOVER")).await, "200 XID:1:01:01:q\r\nXID:1:02:02:q");
    assert_eq!(one.ask(step("XID:1:02:02:q", "COMMIT_TWO_PHASE")).await, "200 ");
    assert_eq!(one.ask(step("XID:1:01:01:q", "ROLLBACK")).await, "200 ");
    assert_eq!(place(&one.ask(put(1)).await), (1, 25), "behind what is sound");
    let after = broker.messages("t");
    assert_eq!(after.len(), 5);
    let newest = after.last().unwrap();
    assert!(before.iter().all(|message| message.id < newest.id), "ids rise over a restart");
    drop(broker);
    let broker = builder().start_without_port().unwrap();
    assert_eq!(client(&broker).ask(step("null", "RECOVER")).await, "200 ", "what was ended stays so");
}

#[tokio::test]
async fn a_full_broker_refuses_like_one_with_a_full_disk() {
    let broker = builder().capacity(60).start_without_port().unwrap();
    let mut client = client(&broker);
    client.ask(put(0)).await;
    client.ask(put(0)).await;
    let full = format!("500 Put message to [broker '{}'] [partition 't-0'] failed.", broker.addr());
    assert_eq!(client.ask(put(0)).await, full);
    client.ask(step("TX:a:1", "BEGIN")).await;
    client.ask(put_in("TX:a:1")).await;
    let rolled_back = "500 XAException:code=104,msg=STORE COMMIT FAILED: Transaction rolled back.";
    assert_eq!(client.ask(step("TX:a:1", "COMMIT_ONE_PHASE")).await, rolled_back);
    assert_eq!(broker.messages("t").len(), 2);
}

#[tokio::test]
async fn limits_hold_except_with_the_java_brokers_defects() {
    let limits = Limits::default().with_max_line(100).with_max_body(1000);
    let put = format!("put t 0 2000 0 -1 1\r\n{}", "x".repeat(2000));
    for (compat, answer) in [(false, "closed"), (true, "200")] {
        let broker = builder().limits(limits).compat(compat).start_without_port().unwrap();
        let answered = client(&broker).ask(&put).await;
        assert_eq!(answered.split(' ').next(), Some(answer));
        let long = format!("version 5 {}\r\n", "x".repeat(100));
        assert_eq!(client(&broker).ask(long).await.split(' ').next(), Some(answer));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let broker = builder().start_without_port().unwrap();
    let mut client = client(&broker);
    let started = tokio::time::Instant::now();
    assert_eq!(client.ask("version 1\r\n").await, "200 0.1");
    let mut stream = client.stream;
    assert!(tokio::time::timeout(Duration::from_secs(299), stream.read_u8()).await.is_err());
    assert!(stream.read_u8().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(301));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_frees_the_port_and_closes_connections() {
    let mut broker = builder().start().await.unwrap();
    let port = broker.addr().port();
    for _ in 0..20 {
        let mut client = Client::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        assert_eq!(client.ask("version 1\r\n").await, "200 0.1");
        broker.shut_down().await.unwrap();
        assert!(client.next().await.is_none());
        broker = builder().port(port).start().await.unwrap();
    }
    let connector = broker.connector();
    drop(broker);
    // The serving task ends when the runtime next runs it.
    while connector.connect().is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(connector.connect().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_broker_restarts_on_its_port_with_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = builder().id(3).data_dir(folder.path()).start().await.unwrap();
    let addr = broker.addr().clone();
    let connect = async || Client::new(TcpStream::connect(("127.0.0.1", addr.port())).await.unwrap());
    for n in 0..50 {
        let mut client = connect().await;
        assert_eq!(place(&client.ask(put(0)).await), (0, n * 25));
        let killed = broker.kill().await;
        assert_eq!(client.ask("version 1\r\n").await, "closed");
        let refused = TcpStream::connect(("127.0.0.1", addr.port())).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        broker = killed.start().await.unwrap();
        assert_eq!(*broker.addr(), addr);
    }
    assert_eq!(broker.messages("t").len(), 50);
}

#[tokio::test]
async fn dropping_a_segment_frees_capacity_of_a_full_broker() {
    let folder = tempfile::tempdir().unwrap();
    for on_disk in [false, true] {
        let builder = builder().max_segment_size(50).capacity(110);
        let builder = if on_disk { builder.data_dir(folder.path()) } else { builder };
        let broker = builder.start_without_port().unwrap();
        let mut client = client(&broker);
        for _ in 0..4 {
            assert!(client.ask(put(0)).await.starts_with("200"));
        }
        assert!(client.ask(put(0)).await.starts_with("500"));
        assert!(broker.drop_oldest_segment("t", 0).unwrap());
        for answer in ["200", "200", "500"] {
            assert!(client.ask(put(0)).await.starts_with(answer));
        }
    }
}

#[tokio::test]
async fn an_invalid_message_hides_no_other_partition() {
    let broker = builder().start_without_port().unwrap();
    let mut client = client(&broker);
    client.ask(put(0)).await;
    client.ask("put t 0 5 1 -1 1\r\nhello").await;
    client.ask(put(1)).await;
    let shown = broker.messages("t").iter().map(|stored| stored.partition.index).collect::<Vec<_>>();
    assert_eq!(shown, [0, 1]);
}

#[tokio::test]
async fn no_message_id_repeats_after_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for round in 0..4 {
        let broker = builder().data_dir(folder.path()).start_without_port().unwrap();
        let mut client = client(&broker);
        let id = format!("XID:1:0{round}:0{round}:q");
        client.ask(step(&id, "BEGIN")).await;
        // None of these is in a log when the broker ends.
        for _ in 0..3 {
            let answer = client.ask(put_in(&id)).await;
            let id: i64 = answer.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(ids.last().is_none_or(|last| *last < id), "{id} rises");
            ids.insert(id);
        }
        client.ask(step(&id, "PREPARE")).await;
    }
    assert_eq!(ids.len(), 12);
}

#[tokio::test]
async fn a_large_prepared_message_and_decisions_outlive_the_broker() {
    const LARGE: usize = 65 << 20;
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let limits = Limits::default().with_max_body(LARGE);
        builder().limits(limits).data_dir(folder.path()).start_without_port().unwrap()
    };
    let broker = start();
    let mut one = client(&broker);
    let large = "XID:1:09:09:q";
    one.ask(step(large, "BEGIN")).await;
    one.ask(format!("put t 0 {LARGE} 0 -1 {large} 1\r\n{}", "x".repeat(LARGE))).await;
    assert_eq!(one.ask(step(large, "PREPARE")).await, "200 0");
    let decided = ["XID:1:03:03:q", "XID:1:02:02:q", "XID:1:01:01:q"];
    let heuristics = [Heuristic::Committed, Heuristic::RolledBack, Heuristic::Completed];
    for (key, heuristic) in decided.into_iter().zip(heuristics) {
        one.ask(step(key, "BEGIN")).await;
        one.ask(put_in(key)).await;
        one.ask(step(key, "PREPARE")).await;
        let Ok(TransactionId::Xa(id)) = key.parse() else { panic!("{key}") };
        assert!(broker.decide(&id, heuristic).unwrap());
    }
    drop(broker);
    let broker = start();
    let mut one = client(&broker);
    assert_eq!(broker.messages("t").len(), 1);
    assert_eq!(one.ask(step("null", "RECOVER")).await, format!("200 {large}\r\n{}", decided.join("\r\n")));
    for (key, code) in decided.into_iter().zip([7, 6, 8]) {
        let outcome = one.ask(step(key, "COMMIT_TWO_PHASE")).await;
        assert!(outcome.starts_with(&format!("500 XAException:code={code},")), "{outcome}");
        assert_eq!(one.ask(step(key, "FORGET")).await, "200 ");
    }
    assert_eq!(one.ask(step(large, "COMMIT_TWO_PHASE")).await, "200 ");
    drop(broker);
    let broker = start();
    assert_eq!(client(&broker).ask(step("null", "RECOVER")).await, "200 ");
    assert_eq!(broker.messages("t").len(), 2);
}
