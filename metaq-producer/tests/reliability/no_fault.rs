//! Real Java brokers and a real ZooKeeper, and nothing goes wrong.

use std::time::Duration;

use metaq_producer::Message;
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};

use crate::{
    common::{alone, topic_named},
    peers::{
        Count,
        account::{account, by_partition, counted, read},
        figure, in_form,
        load::{Load, Pace, failures, slowest},
        producer,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stored_twice_or_out_of_turn() {
    let Some(peers) = Peers::get("nothing_is_lost_or_stored_twice_or_out_of_turn") else { return };
    let _alone = alone().await;
    let (count, in_turn) = in_form((100_000, 2_000), (1_000_000, 20_000));
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| {
        let broker = JavaBroker::builder(id).topic("t", 4).topic("turns", 1).topic("ordered", 4);
        broker.in_service().setting("unflushThreshold", "1000").start(&peers, &zookeeper)
    };
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (_first, _second) = (first.unwrap(), second.unwrap());
    let (all_at_once, turns, ordered) = (topic_named("t"), topic_named("turns"), topic_named("ordered"));
    // Longer than a busy machine takes.
    let patience = Duration::from_secs(30);
    let producer = producer(&zookeeper, |config| config.send_timeout = patience);
    let keeps_order = crate::peers::producer(&zookeeper, |config| {
        config.send_timeout = patience;
        config.ordered = true;
    });
    producer.publish_topic(&all_at_once).await.unwrap();
    producer.publish_topic(&turns).await.unwrap();
    keeps_order.publish_topic(&ordered).await.unwrap();

    // All at the same time.
    let started = tokio::time::Instant::now();
    let load = Load::of(&producer, &all_at_once, Pace::UnderWay(4096), 0, count);
    let in_order = Load::of(&keeps_order, &ordered, Pace::UnderWay(256), 0, in_turn);
    for n in 0..in_turn {
        // Its partition is the next one each time.
        producer.send(Message::new(turns.clone(), n.to_string())).await.unwrap();
    }
    let in_order = in_order.complete().await;
    let all = load.complete().await;
    let took = started.elapsed();
    assert_eq!((failures(&all), failures(&in_order)), ([0; 3], [0; 3]));
    counted(&keeps_order, &in_order).await;

    let account = account(&peers, &zookeeper, "t", &all).await;
    assert_eq!(account.acknowledged as u64, count);
    figure(format_args!(
        "no fault: 0 lost and 0 stored twice of {}, {:.0} messages a second, slowest {} ms",
        Count(account.acknowledged),
        count as f64 / took.as_secs_f64(),
        slowest(&all).as_millis(),
    ));
    for (topic, partitions) in [("turns", 2), ("ordered", 8)] {
        let stored = by_partition(&read(&peers, &zookeeper, topic, in_turn as usize).await);
        assert_eq!(stored.len(), partitions, "{topic}");
        assert_eq!(stored.values().map(Vec::len).sum::<usize>() as u64, in_turn, "{topic}");
        let swapped =
            |numbers: &Vec<u64>| numbers.windows(2).find(|two| two[0] >= two[1]).map(<[u64]>::to_vec);
        assert_eq!(stored.values().find_map(swapped), None, "{topic}: the order is kept in each partition");
    }
    figure(format_args!(
        "no fault: order kept in each partition: {0} sent one after another, {0} sent at once with the option `ordered`",
        Count(in_turn as usize),
    ));
}
