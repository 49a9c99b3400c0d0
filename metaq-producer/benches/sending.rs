//! The producer's own part of sending: a transport of the benchmark's own takes every put and says at once
//! that it was stored.
//!
//! `cargo bench -p metaq-producer`

use std::{
    hint::black_box,
    mem,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_main};
use metaq_producer::{
    BrokerAddr, BrokerId, Message, Partition, PartitionSelector, Producer, Topic,
    discovery::{StaticDiscovery, TopicView},
    selector::{RandomSelector, RoundRobinSelector},
    transport::Transport,
};
use metaq_protocol::{Command, PutRef, PutResponse};
use metaq_transport::{
    CompletionToken, Completions, Connection, ConnectionState, PendingResponse, ReceivedResponse,
    TransportError, TransportErrorKind,
};
use tokio::{runtime::Builder, sync::watch, time::Instant};

type Ended = Vec<(u64, Result<ReceivedResponse, TransportError>)>;

/// Answers when the benchmark asks for it, since a connection may not answer while a put is submitted.
#[derive(Clone, Debug, Default)]
struct AtOnce {
    ended: Arc<Mutex<Ended>>,
    completions: Arc<Mutex<Option<Arc<dyn Completions>>>>,
}

impl AtOnce {
    fn answer(&self) {
        let mut ended = mem::take(&mut *self.ended.lock().expect("nobody panics"));
        if let Some(completions) = &*self.completions.lock().expect("nobody panics") {
            completions.completed(&mut ended);
        }
    }
}

#[async_trait]
impl Transport for AtOnce {
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let state = watch::Sender::new(ConnectionState::Ready);
        Ok(Arc::new(Stored { transport: self.clone(), broker: broker.clone(), state }))
    }
}

#[derive(Debug)]
struct Stored {
    transport: AtOnce,
    broker: BrokerAddr,
    state: watch::Sender<ConnectionState>,
}

#[async_trait]
impl Connection for Stored {
    fn broker(&self) -> &BrokerAddr {
        &self.broker
    }

    fn submit(&self, _: &mut Command, _: Instant) -> Result<PendingResponse, TransportError> {
        Err(TransportError::new(TransportErrorKind::Closed, self.broker.clone()))
    }

    fn submit_put(
        &self,
        put: PutRef<'_>,
        _: Instant,
        notify: CompletionToken<'_>,
    ) -> Result<bool, TransportError> {
        let mut completions = self.transport.completions.lock().expect("nobody panics");
        completions.get_or_insert_with(|| Arc::clone(notify.completions));
        let answer = PutResponse::new(1, put.partition, 0).into();
        self.transport.ended.lock().expect("nobody panics").push((notify.token, Ok(answer)));
        Ok(false)
    }

    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.submit(command, deadline)
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    fn close(&self, _: Instant) {
        self.state.send_replace(ConnectionState::Closed);
    }
}

fn sending(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let topic: Topic = "orders".parse().expect("a name");
    let addr = BrokerAddr::new("nowhere", 1).expect("an address");
    let view = TopicView::new(topic.clone()).with_broker(BrokerId(0), addr, 8);
    let transport = AtOnce::default();
    let builder = Producer::builder().discovery(StaticDiscovery::new([view])).transport(transport.clone());
    let producer = builder.build().expect("a producer");
    runtime.block_on(producer.publish_topic(&topic)).expect("it is there");
    let payload = Bytes::from(vec![0x5a; 128]);
    let mut group = criterion.benchmark_group("sending");
    group.bench_function("message/128B", |bencher| {
        bencher.iter(|| Message::new(topic.clone(), black_box(&payload).clone()));
    });
    for count in [1_usize, 64, 1024] {
        let mut handles = Vec::with_capacity(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("enqueue_and_await/{count}"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    for _ in 0..count {
                        let message = Message::new(topic.clone(), payload.clone());
                        handles.push(producer.enqueue(message).await.expect("there is capacity"));
                    }
                    transport.answer();
                    for handle in handles.drain(..) {
                        black_box(handle.await.expect("it was stored"));
                    }
                });
            });
        });
    }
    group.finish();
}

fn selectors(criterion: &mut Criterion) {
    let topic: Topic = "orders".parse().expect("a name");
    let partitions: Vec<_> = (0..64).map(|n| Partition::new(n / 8, n % 8)).collect();
    let message = Message::new(topic.clone(), "x").with_key("customer-7");
    let mut group = criterion.benchmark_group("selectors");
    let selectors: [(&str, Box<dyn PartitionSelector>); 2] =
        [("round_robin", Box::new(RoundRobinSelector::new())), ("random", Box::new(RandomSelector::new()))];
    for (name, selector) in selectors {
        group.bench_function(name, |bencher| {
            bencher.iter(|| selector.select(&topic, black_box(&partitions), black_box(&message)));
        });
    }
    group.finish();
}

fn main_group() {
    let mut criterion = Criterion::default().configure_from_args();
    sending(&mut criterion);
    selectors(&mut criterion);
}

criterion_main!(main_group);
