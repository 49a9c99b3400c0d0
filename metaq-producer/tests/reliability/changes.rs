//! Real Java brokers that come, move and go, and what they have registered changes: it is followed within a
//! second, and nothing else is touched.

use std::time::Duration;

use metaq_producer::{BrokerAddr, Partition, Producer, Topic};
use metaq_testkit::{
    peers::{JavaBroker, Peers, ZooKeeper},
    proxy::Proxy,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    common::{alone, topic_named},
    peers::{
        Count, Times,
        account::{account, counted},
        figure, in_form,
        load::{Load, Pace, Sent},
        producer,
        registry::Registry,
    },
};

/// The registry's change has to be followed within this. In the short form other work has the machine, too.
fn followed_within() -> Duration {
    in_form(Duration::from_secs(5), Duration::from_secs(1))
}

const PACE: Pace = Pace::PerSecond(2000);

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the partitions that can be sent to are as wanted, and until what was sent before has its
/// outcome.
async fn settles(
    load: &Load,
    producer: &Producer,
    topic: &Topic,
    wanted: impl Fn(&[Partition]) -> bool,
) -> Instant {
    let reached = async {
        while !wanted(&producer.partitions(topic)) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("the partitions are as wanted");
    producer.flush().await;
    let now = Instant::now();
    load.first(now, |_| true).await;
    now
}

/// Whether it is stored in one of the partitions of broker 1 that are taken away and given back.
fn is_in_changing(sent: &Sent) -> bool {
    sent.outcome.as_ref().is_ok_and(|receipt| receipt.partition.broker.0 == 1 && receipt.partition.index >= 2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_data_alone_are_followed_within_a_second() {
    let Some(peers) = Peers::get("changes_of_data_alone_are_followed_within_a_second") else { return };
    let _alone = alone().await;
    let times = in_form(5, 50);
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("t", 4).start(&peers, &zookeeper);
    let (stays, changes) = tokio::join!(broker(0), broker(1));
    let (stays, changes) = (stays.unwrap(), changes.unwrap());
    // Another address at which it answers.
    let proxy = Proxy::start(format!("127.0.0.1:{}", changes.port())).await.unwrap();
    let elsewhere = BrokerAddr::new("127.0.0.1", proxy.addr().port()).unwrap();
    let registry = Registry::open(&zookeeper).await;
    let (topic, producer) = (topic_named("t"), producer(&zookeeper, |_| {}));
    producer.publish_topic(&topic).await.unwrap();
    let load = Load::start(&producer, &topic, PACE);
    load.reaches(&changes.addr(), Instant::now()).await;
    let connections = stays.client_ports();

    let [mut moved, mut fewer, mut more, mut removed, mut added] = [(); 5].map(|()| Times::default());
    for _ in 0..times {
        for addr in [elsewhere.clone(), changes.addr()] {
            let since = Instant::now();
            registry.move_broker(1, &addr).await;
            moved.push(load.reaches(&addr, since).await);
        }
        let reached = async {
            while changes.client_ports().len() > 1 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the connection to where it was is closed");

        let of_changes = changes.client_ports();
        let since = Instant::now();
        registry.set_partitions(&topic, 1, 2).await;
        let settled = settles(&load, &producer, &topic, |partitions| partitions.len() == 4 + 2).await;
        fewer.push(load.last(since, is_in_changing));
        assert_eq!(load.last(settled, is_in_changing), Duration::ZERO, "none is sent there any more");
        let since = Instant::now();
        registry.set_partitions(&topic, 1, 4).await;
        more.push(load.first(since, is_in_changing).await);
        assert_eq!(changes.client_ports(), of_changes, "its connection is as it was");

        let since = Instant::now();
        registry.withdraw(&topic, 1).await;
        let settled = settles(&load, &producer, &topic, |partitions| partitions.len() == 4).await;
        removed.push(load.last(since, |sent| sent.is_stored_by(&changes.addr())));
        assert_eq!(load.last(settled, |sent| sent.is_stored_by(&changes.addr())), Duration::ZERO);
        let since = Instant::now();
        registry.offer(&topic, 1, 4).await;
        added.push(load.reaches(&changes.addr(), since).await);
    }
    assert_eq!(stays.client_ports(), connections, "nobody touched the other's connection");
    let all = load.end().await;
    counted(&producer, &all).await;
    let account = account(&peers, &zookeeper, "t", &all).await;
    for (what, took) in [
        (format!("broker moved, its address alone ×{}: used there after", 2 * times), &moved),
        (format!("partitions taken away ×{times}: the last message to one after"), &fewer),
        (format!("partitions added ×{times}: used after"), &more),
        (format!("broker withdrawn ×{times}: the last message to it after"), &removed),
        (format!("broker offered ×{times}: used after"), &added),
    ] {
        figure(format_args!("{what} {took}"));
        assert!(took.max() <= followed_within(), "{what} {took}");
    }
    figure(format_args!(
        "changes of data: {} messages, all acknowledged, 0 lost, and the other broker's connection as it was",
        Count(account.acknowledged),
    ));
    assert_eq!((account.unknown, account.rejected, account.not_sent), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_changes_are_followed_without_disturbing_others() {
    let Some(peers) = Peers::get("broker_changes_are_followed_without_disturbing_others") else {
        return;
    };
    let _alone = alone().await;
    let times = in_form(1, 10);
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id, partitions| JavaBroker::builder(id).topic("flow", partitions).start(&peers, &zookeeper);
    let (stays, moves) = tokio::join!(broker(0, 4), broker(1, 2));
    let (stays, mut moves) = (stays.unwrap(), moves.unwrap());
    let (topic, producer) = (topic_named("flow"), producer(&zookeeper, |_| {}));
    producer.publish_topic(&topic).await.unwrap();
    let of_stays = stays.client_ports();
    assert_eq!((of_stays.len(), moves.client_ports().len()), (1, 1), "one connection for each broker");
    let load = Load::start(&producer, &topic, PACE);
    load.reaches(&stays.addr(), Instant::now()).await;
    load.reaches(&moves.addr(), Instant::now()).await;

    let (mut came, mut moved) = (Times::default(), Times::default());
    let mut third = None;
    for _ in 0..times {
        // A third broker comes.
        let of_moves = moves.client_ports();
        let mut comes = match third.take() {
            None => broker(2, 2).await.unwrap(),
            Some(mut third) => {
                JavaBroker::restart(&mut third, &zookeeper).await.unwrap();
                third
            }
        };
        came.push(load.reaches(&comes.addr(), Instant::now()).await);
        assert_eq!((stays.client_ports(), moves.client_ports()), (of_stays.clone(), of_moves), "D-7");

        // One moves to another port.
        let of_third = comes.client_ports();
        let old = moves.addr();
        moves.restart_elsewhere(&zookeeper).await.unwrap();
        moved.push(load.reaches(&moves.addr(), Instant::now()).await);
        assert_ne!(moves.addr(), old);
        assert_eq!((stays.client_ports(), comes.client_ports()), (of_stays.clone(), of_third), "D-7");

        // The third goes, properly.
        let of_moves = moves.client_ports();
        comes.shut_down().await.unwrap();
        let gone = Instant::now();
        load.first(gone + Duration::from_millis(500), |_| true).await;
        assert_eq!(load.last(gone, |sent| sent.outcome.is_err()), Duration::ZERO, "nothing is sent to it");
        let brokers = load.rates(gone, gone.elapsed()).into_keys().collect::<Vec<_>>();
        let mut left = vec![stays.addr(), moves.addr()];
        left.sort();
        assert_eq!(brokers, left);
        assert_eq!((stays.client_ports(), moves.client_ports()), (of_stays.clone(), of_moves), "D-7");
        assert_eq!(comes.client_ports().len(), 0);
        third = Some(comes);
    }
    // It comes back to show what it has, which it does after a put to each of its partitions.
    let mut third = third.unwrap();
    third.restart(&zookeeper).await.unwrap();
    let back = Instant::now();
    for index in [0, 1] {
        let partition = Partition::new(2, index);
        load.first(back, |sent| sent.outcome.as_ref().is_ok_and(|receipt| receipt.partition == partition))
            .await;
    }
    let all = load.end().await;
    counted(&producer, &all).await;
    let account = account(&peers, &zookeeper, "flow", &all).await;
    figure(format_args!(
        "broker started ×{times}: used {came} after it was registered; moved to another port ×{times}: {moved}; stopped ×{times}; \
         0 lost of {}, {} unknown, of which {} are stored",
        Count(account.acknowledged),
        account.unknown,
        account.stored_all_the_same
    ));
    // A broker cuts its connections when it ends; what was under way on them then is all that may fail.
    assert_eq!((account.rejected, account.not_sent), (0, 0));
    assert!(came.max() <= followed_within(), "R-2: used {came} after it was registered");
    assert!(moved.max() <= followed_within(), "R-4, K-1: used {moved} after it was registered");

    let report = producer.close(Duration::from_secs(5)).await;
    assert_eq!((report.unknown, report.unsent), (0, vec![]));
    // The brokers' end of a connection goes a moment after ours.
    let none_is_left = async {
        while !(stays.client_ports().is_empty() && moves.client_ports().is_empty()) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(2), none_is_left).await.expect("no connection is left");
    assert_eq!(zookeeper.connections().await, 3, "no session is left beside those of the brokers");
}
