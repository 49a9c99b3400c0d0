//! Allocations of messages, counted on the thread that sends them: the producer and its
//! connection run there, the broker on another.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::VecDeque, hint::black_box, sync::mpsc, thread};

use allocation_counter::measure;
use bytes::Bytes;
use metaq_producer::{BrokerAddr, Message, Producer, ProducerConfig, Topic};
use metaq_testkit::Broker;
use tokio::{runtime::Builder, sync::oneshot};

const SIZE: usize = 128;

/// Runs a broker on a thread of its own while `test` runs.
fn with_broker(test: impl FnOnce(&BrokerAddr, &dyn Fn())) {
    let (told, addr) = mpsc::channel();
    let (over, end) = oneshot::channel::<()>();
    let (freeze, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let (is_frozen, frozen) = mpsc::channel();
    let broker = thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            let broker = Broker::builder().topic("t", 4).start().await.unwrap();
            told.send(broker.addr().clone()).unwrap();
            tokio::spawn(async move {
                while asked.recv().await.is_some() {
                    broker.faults().freeze();
                    is_frozen.send(()).unwrap();
                }
            });
            let _ = end.await;
        });
    });
    let addr = addr.recv().unwrap();
    test(&addr, &|| {
        freeze.send(()).unwrap();
        frozen.recv().unwrap();
    });
    over.send(()).unwrap();
    broker.join().unwrap();
}

fn producer(addr: &BrokerAddr, config: ProducerConfig) -> Producer {
    Producer::builder().broker(addr.clone()).config(config).build().unwrap()
}

#[test]
fn a_message_allocates_nothing() {
    with_broker(|addr, _| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let topic = Topic::new("t").unwrap();
        let payload = Bytes::from(vec![b'x'; SIZE]);
        let producer = producer(addr, ProducerConfig::default());
        let send = async |count: usize, window: usize| {
            let mut handles = VecDeque::with_capacity(window);
            for _ in 0..count {
                if handles.len() == window {
                    let handle: metaq_producer::SendHandle = handles.pop_front().unwrap();
                    black_box(handle.await.unwrap());
                }
                let message = Message::new(topic.clone(), payload.clone());
                handles.push_back(producer.enqueue(message).await.unwrap());
            }
            for handle in handles {
                black_box(handle.await.unwrap());
            }
        };
        runtime.block_on(producer.publish_topic(&topic)).unwrap();
        for window in [1, 64, 1024] {
            let count = 20_000;
            runtime.block_on(send(count, window));
            let counted = measure(|| runtime.block_on(send(count, window)));
            let each = counted.count_total as f64 / count as f64;
            println!("{each:.4} allocations a message with {window} in flight");
            // Now and then a buffer is exchanged; nothing is allocated for a message.
            assert!(each < 0.02, "{each} with {window} in flight: {counted:?}");
        }
    });
}

/// The bytes that a producer holds with this number of messages in flight, handles included.
fn held(count: usize) -> i64 {
    let mut held = 0;
    with_broker(|addr, freeze| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let topic = Topic::new("t").unwrap();
        // Small, so that the sockets hold them all.
        let payload = Bytes::from(vec![b'x'; 16]);
        let _shared = payload.clone();
        let mut config = ProducerConfig::default();
        config.max_in_flight = 2 * count;
        let producer = producer(addr, config);
        runtime.block_on(producer.publish_topic(&topic)).unwrap();
        freeze();
        let mut handles = Vec::new();
        let counted = measure(|| {
            handles.reserve_exact(count);
            runtime.block_on(async {
                for _ in 0..count {
                    let message = Message::new(topic.clone(), payload.clone());
                    handles.push(producer.enqueue(message).await.unwrap());
                }
            });
        });
        let stats = runtime.block_on(producer.stats());
        assert_eq!(stats.unacknowledged, count);
        held = counted.bytes_current;
    });
    held
}

#[test]
fn message_in_flight_takes_at_most_256_bytes_of_overhead() {
    // Powers of two, as tables grow by doubling, and no more than the sockets hold on a busy machine too.
    let (few, many) = (4 * 1024, 8 * 1024);
    let (with_few, with_many) = (held(few), held(many));
    // What a connection takes anyhow, its buffers above all, is not a message's.
    let each = (with_many - with_few) / (many - few) as i64;
    println!("{each} bytes for each message in flight, its handle included; {with_few} for {few} in all");
    assert!((200..=256).contains(&each), "{each} bytes: {with_few} and {with_many}");
}
