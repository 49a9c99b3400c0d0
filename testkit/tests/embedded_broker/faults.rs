//! Faults on demand affect the requests that they are planned for, in the same way each time.

use std::time::Duration;

use bytes::Bytes;
use metaq_testkit::{Broker, Command, Fault, Opaque, Record, Requests, Status, TransactionAction};
use tokio::{
    io::{AsyncReadExt as _, DuplexStream},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::wire::{Client, shown};

fn start() -> Broker {
    Broker::builder().topic("t", 2).topic("u", 1).start_without_port().unwrap()
}

fn client(broker: &Broker) -> Client<DuplexStream> {
    Client::new(broker.connect())
}

fn put(topic: &str, partition: i32, opaque: i32) -> String {
    format!("put {topic} {partition} 5 0 -1 {opaque}\r\nhello")
}

/// Returns the statuses of puts that are sent one after another.
async fn statuses(client: &mut Client<DuplexStream>, puts: &[(&str, i32)]) -> Vec<String> {
    let mut statuses = Vec::new();
    for (topic, partition) in puts {
        let answer = client.ask(put(topic, *partition, 1)).await;
        statuses.push(answer.split(' ').next().unwrap().to_owned());
    }
    statuses
}

/// Returns the opaques of the next responses.
async fn opaques(client: &mut Client<DuplexStream>, count: usize) -> Vec<i32> {
    let mut opaques = Vec::new();
    for _ in 0..count {
        opaques.push(client.next().await.unwrap().opaque().0);
    }
    opaques
}

#[tokio::test]
async fn a_fault_affects_only_matching_requests() {
    let broker = start();
    let mut one = client(&broker);
    let third = broker.faults().plan(Requests::puts().only(3), Fault::refuse(503, "busy"));
    assert_eq!(statuses(&mut one, &[("t", 0); 5]).await, ["200", "200", "503", "200", "200"]);
    assert_eq!((third.met(), broker.messages("t").len()), (1, 4));

    let to_u = broker.faults().plan(Requests::puts().of_topic("u"), Fault::refuse(500, "not u"));
    let to_1 =
        broker.faults().plan(Requests::any().of_partition(1).after(1).first(2), Fault::refuse(403, "1"));
    let puts = [("t", 1), ("u", 0), ("t", 1), ("t", 0), ("t", 1), ("t", 1)];
    assert_eq!(statuses(&mut one, &puts).await, ["200", "500", "403", "200", "403", "200"]);
    assert_eq!((to_u.met(), to_1.met()), (1, 2));
    assert_eq!(one.ask("version 1\r\n").await, "200 0.1", "it names no partition");
    to_u.cancel();
    assert_eq!(statuses(&mut one, &[("u", 0)]).await, ["200"]);

    let on_second = broker.faults().plan(Requests::any().on_connection(2), Fault::refuse(500, "you"));
    let mut two = client(&broker);
    assert_eq!(two.ask("version 1\r\n").await, "500 you");
    assert_eq!(one.ask("version 1\r\n").await, "200 0.1");
    broker.faults().heal();
    assert_eq!(two.ask("version 1\r\n").await, "200 0.1");
    assert_eq!(on_second.met(), 1);

    let begins = Requests::transactions(Some(TransactionAction::Begin));
    broker.faults().plan(begins, Fault::refuse(500, "no"));
    assert_eq!(one.ask("transaction TX:a:1 s BEGIN 1\r\n").await, "500 no");
    assert_eq!(one.ask("transaction null s RECOVER 1\r\n").await, "200 ");
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let broker = start();
    let faults = broker.faults();
    let mut one = client(&broker);
    let stored = || broker.messages("t").len();

    // Carried out or not, answered or not.
    for (fault, carried_out, answer) in [
        (Fault::Answer(Status(500), "after all".to_owned()), true, Some("500 after all")),
        (Fault::Refuse(Status(418), "no".to_owned()), false, Some("418 no")),
        (Fault::Swallow, true, None),
        (Fault::Ignore, false, None),
    ] {
        let before = stored();
        faults.plan(Requests::puts().only(1), fault);
        one.send(put("t", 0, 1)).await;
        match answer {
            Some(answer) => assert_eq!(shown(one.next().await.as_ref()), answer),
            None => one.expect_silence().await,
        }
        assert_eq!(stored() - before, usize::from(carried_out));
    }

    faults.plan(Requests::puts().only(1), Fault::Opaque(Opaque(-7)));
    one.send(put("t", 0, 1)).await;
    assert_eq!(opaques(&mut one, 1).await, [-7]);
    faults.plan(Requests::puts().only(1), Fault::Twice);
    one.send(put("t", 0, 8)).await;
    assert_eq!(opaques(&mut one, 2).await, [8, 8]);
    one.expect_silence().await;

    // Overtaken by other responses, as far as there are any.
    faults.plan(Requests::puts().only(1), Fault::Behind(2));
    one.send((0..5).map(|n| put("t", 0, n)).collect::<String>()).await;
    assert_eq!(opaques(&mut one, 5).await, [1, 2, 0, 3, 4]);
    faults.plan(Requests::puts().only(1), Fault::Behind(9));
    one.send(put("t", 0, 1) + &put("t", 0, 2)).await;
    assert_eq!(opaques(&mut one, 2).await, [2, 1]);
    faults.heal();

    faults.plan(Requests::versions().only(1), Fault::Bytes(Bytes::from_static(b"result 200 2 5\r\nhi")));
    assert_eq!(one.ask("version 1\r\n").await, "200 hi");
    faults.plan(Requests::versions().only(1), Fault::Close);
    assert_eq!(one.ask(put("t", 0, 3) + "version 1\r\n").await.split(' ').next(), Some("200"));
    assert!(one.next().await.is_none());

    // A part of a response, and random bytes.
    let mut raw = broker.connect();
    faults.plan(Requests::versions().only(1), Fault::Cut(11));
    tokio::io::AsyncWriteExt::write_all(&mut raw, b"version 60\r\n").await.unwrap();
    let mut seen = Vec::new();
    raw.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"result 200 ");
    let mut raw = broker.connect();
    faults.plan(Requests::versions().only(1), Fault::Garbage(1000));
    tokio::io::AsyncWriteExt::write_all(&mut raw, b"version 60\r\nquit\r\n").await.unwrap();
    let mut garbage = Vec::new();
    raw.read_to_end(&mut garbage).await.unwrap();
    assert_eq!(garbage.len(), 1000);
    assert!(garbage.windows(2).any(|pair| pair[0] != pair[1]));
}

#[tokio::test(start_paused = true)]
async fn a_late_response_arrives_when_due_and_others_before_it() {
    let broker = start();
    let mut one = client(&broker);
    broker.faults().plan(Requests::puts().only(1), Fault::Late(Duration::from_secs(5)));
    broker.faults().plan(Requests::puts().only(2), Fault::Late(Duration::from_secs(3)));
    let started = Instant::now();
    one.send((0..4).map(|n| put("t", 0, n)).collect::<String>()).await;
    assert_eq!(opaques(&mut one, 2).await, [2, 3]);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(broker.messages("t").len(), 4, "it was carried out at once");
    assert_eq!(opaques(&mut one, 1).await, [1]);
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_eq!(opaques(&mut one, 1).await, [0]);
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn a_connection_is_cut_at_any_byte() {
    let broker = start();
    let whole = b"result 200 3 1\r\n0.1result 200 3 2\r\n0.1";
    for after in 0..=whole.len() {
        broker.faults().cut(None, after as u64);
        let mut raw = broker.connect();
        tokio::io::AsyncWriteExt::write_all(&mut raw, b"version 1\r\nversion 2\r\nversion 3\r\n")
            .await
            .unwrap();
        let mut seen = Vec::new();
        raw.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, whole[..after]);
        broker.faults().heal();
    }
    // At the end of a response that no other follows.
    broker.faults().cut(None, 19);
    let mut one = client(&broker);
    assert_eq!(one.ask("version 1\r\n").await, "200 0.1");
    assert!(one.next().await.is_none());
    broker.faults().heal();
    // One connection, but not the next.
    let numbers = broker.accepted_connections();
    broker.faults().cut(Some(numbers + 1), 5);
    assert_eq!(client(&broker).ask("version 1\r\n").await, "closed");
    assert_eq!(client(&broker).ask("version 1\r\n").await, "200 0.1");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_broker_is_silent_and_resumes_after_a_thaw() {
    let broker = start();
    let mut one = client(&broker);
    assert_eq!(one.ask("version 1\r\n").await, "200 0.1");
    broker.faults().freeze();
    one.send("version 2\r\n").await;
    let mut two = client(&broker);
    two.send("version 3\r\n").await;
    assert!(timeout(Duration::from_secs(10), one.next()).await.is_err());
    assert!(timeout(Duration::from_secs(10), two.next()).await.is_err());
    broker.faults().thaw();
    assert_eq!(opaques(&mut one, 1).await, [2]);
    assert_eq!(opaques(&mut two, 1).await, [3]);

    broker.faults().close_connections();
    assert!(one.next().await.is_none());
    assert_eq!(client(&broker).ask("version 1\r\n").await, "200 0.1");
    broker.faults().refuse_connections(true);
    assert_eq!(client(&broker).ask("version 1\r\n").await, "closed");
    broker.faults().refuse_connections(false);
    assert_eq!(client(&broker).ask("version 1\r\n").await, "200 0.1");

    // Stranded connections receive nothing more, and new ones work.
    let mut stranded = client(&broker);
    assert_eq!(stranded.ask("version 1\r\n").await, "200 0.1");
    broker.faults().strand_connections();
    stranded.send("put t 0 5 0 -1 2\r\nhello").await;
    assert!(timeout(Duration::from_secs(10), stranded.next()).await.is_err());
    assert_eq!(client(&broker).ask("version 1\r\n").await, "200 0.1");
    broker.faults().heal();
    assert!(timeout(Duration::from_secs(10), stranded.next()).await.is_err());
    assert!(broker.messages("t").is_empty());
    broker.faults().close_connections();
    assert!(stranded.next().await.is_none());

    // A frozen connection can be closed as well.
    let mut last = client(&broker);
    assert_eq!(last.ask("version 1\r\n").await, "200 0.1");
    broker.faults().freeze();
    broker.faults().close_connections();
    assert!(last.next().await.is_none());
}

/// Returns the results of many puts under random faults.
async fn run(seed: u64) -> (Vec<String>, Vec<u8>) {
    let broker = Broker::builder().topic("t", 4).seed(seed).start_without_port().unwrap();
    broker.faults().plan(Requests::puts().with_chance(0.3), Fault::refuse(503, "drawn"));
    broker.faults().plan(Requests::versions(), Fault::Garbage(64));
    let mut client = client(&broker);
    let mut answers = Vec::new();
    for _ in 0..200 {
        answers.push(client.ask("put t -1 5 0 -1 1\r\nhello").await);
    }
    let mut raw = broker.connect();
    tokio::io::AsyncWriteExt::write_all(&mut raw, b"version 1\r\nquit\r\n").await.unwrap();
    let mut garbage = Vec::new();
    raw.read_to_end(&mut garbage).await.unwrap();
    (answers, garbage)
}

#[tokio::test]
async fn a_seed_repeats_the_same_run() {
    let (answers, garbage) = run(7).await;
    let refused = answers.iter().filter(|answer| answer.starts_with("503")).count();
    assert!((30..=90).contains(&refused), "{refused} of 200 at a chance of 0.3");
    assert!((0..4).all(|n| answers.iter().any(|answer| answer.split(' ').nth(2) == Some(&n.to_string()))));
    assert_eq!(run(7).await, (answers.clone(), garbage.clone()));
    let other = run(8).await;
    assert!(other.0 != answers && other.1 != garbage);
}

#[tokio::test]
async fn faults_apply_over_tcp_as_well() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let connect =
        async || Client::new(TcpStream::connect(("127.0.0.1", broker.addr().port())).await.unwrap());
    broker.faults().plan(Requests::versions().on_connection(2), Fault::Cut(3));
    let (mut one, mut two) = (connect().await, connect().await);
    assert_eq!(one.ask("version 1\r\n").await, "200 0.1");
    assert_eq!(two.ask("version 1\r\n").await, "closed");
    // Responses in transit arrive although the client goes on sending.
    let mut three = connect().await;
    three.send("version 1\r\nversion 2\r\nbogus\r\n".to_owned() + &"version 3\r\n".repeat(20_000)).await;
    assert_eq!(shown(three.next().await.as_ref()), "200 0.1");
    assert_eq!(shown(three.next().await.as_ref()), "200 0.1");
    assert!(three.next().await.is_none());
}

#[tokio::test]
async fn a_record_contains_matching_requests_even_with_faults() {
    let broker = start();
    let (mut one, mut two) = (client(&broker), client(&broker));
    assert_eq!(one.ask(put("t", 0, 1)).await.split(' ').next(), Some("200"));
    let puts = broker.record(Requests::puts().of_topic("t"));
    let all = broker.record(Requests::any().after(1).first(2));
    broker.faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    assert_eq!(one.ask(put("t", 1, 2)).await, "500 no");
    assert_eq!(two.ask(put("t", 0, 3)).await, "500 no");
    assert_eq!(two.ask(put("u", 0, 4)).await, "500 no");
    assert_eq!(two.ask("version 5\r\n").await, "200 0.1");
    let seen = |record: &Record| {
        let seen = record.all().into_iter().map(|request| (request.connection, request.command.opaque().0));
        seen.collect::<Vec<_>>()
    };
    assert_eq!(seen(&puts), [(1, 2), (2, 3)]);
    assert_eq!(seen(&all), [(2, 3), (2, 4)]);
    let Command::Put(put) = &puts.take()[1].command else { panic!("no put") };
    assert_eq!((&put.topic[..], put.partition, put.data.to_bytes()), ("t", 0, Bytes::from_static(b"hello")));
    assert_eq!(puts.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wait_ends_when_its_condition_holds() {
    const CLIENTS: usize = 8;
    let broker = Broker::builder().topic("t", 2).topic("u", 1).start().await.unwrap();
    for round in 1..=50 {
        for n in 0..CLIENTS {
            let port = broker.addr().port();
            tokio::spawn(async move {
                let mut client = Client::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
                client.ask(put("t", (n % 2) as i32, 1)).await;
            });
        }
        assert_eq!(broker.wait_for("t", round * CLIENTS).await.unwrap().len(), round * CLIENTS);
        broker.wait_until(|broker| broker.open_connections() == 0).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_times_out_reports_the_state() {
    let builder = Broker::builder().topic("t", 2).wait_timeout(Duration::from_secs(7));
    let broker = builder.start_without_port().unwrap();
    let mut one = client(&broker);
    one.ask(put("t", 0, 1)).await;
    let started = Instant::now();
    let error = broker.wait_for("t", 2).await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed()), (std::io::ErrorKind::TimedOut, Duration::from_secs(7)));
    assert_eq!(
        error.to_string(),
        "after 7s, broker 0 has 1 of 2 messages of the topic t; 1 connections were made to it, 1 are open"
    );
    assert!(broker.wait_until(|_| false).await.is_err());
}
