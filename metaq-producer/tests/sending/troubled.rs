//! A cluster with a broker in trouble, beside one that works.

use std::time::Duration;

use futures_util::future::join_all;
use metaq_producer::{Producer, ProducerConfig, SendError, SendReceipt};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::{
    task::{JoinHandle, yield_now},
    time::Instant,
};

use crate::common::{
    cluster::{Pinned, broker, builder, counts, pinned},
    topic, until,
};

/// The time that a message to the healthy broker may take.
pub(crate) const PROMPTLY: Duration = Duration::from_millis(10);

pub(crate) const LONG: Duration = Duration::from_secs(600);

/// The longest wait of a test that runs in real time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The fault that keeps messages from broker 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Frozen,
    /// It reads, and doesn't answer.
    Silent,
    Away,
}

/// A broker 0 in trouble, a broker 1 that works, and a producer whose messages say where they go.
pub(crate) struct Troubled {
    pub(crate) registry: EmbeddedRegistry,
    pub(crate) failing: Option<Broker>,
    pub(crate) working: Broker,
    pub(crate) producer: Producer,
}

impl Troubled {
    pub(crate) async fn new(trouble: Trouble, change: impl FnOnce(&mut ProducerConfig)) -> Self {
        let registry = EmbeddedRegistry::new();
        let (failing, working) = (broker(&registry, 0), broker(&registry, 1));
        let producer = builder(&registry, change).selector(Pinned).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        let mut this = Self { registry, failing: Some(failing), working, producer };
        let failing = this.failing.as_ref().unwrap();
        match trouble {
            Trouble::Frozen => failing.faults().freeze(),
            Trouble::Silent => drop(failing.faults().plan(Requests::puts(), Fault::Swallow)),
            Trouble::Away => {
                this.failing = None;
                let producer = &this.producer;
                until(async || producer.partitions(&topic()).len() == 2).await;
            }
        }
        this
    }

    pub(crate) fn recover(&mut self) {
        match &self.failing {
            Some(failing) => failing.faults().heal(),
            None => self.failing = Some(broker(&self.registry, 0)),
        }
    }

    /// Sends messages to a partition of broker 0, each in a task of its own, and waits until all of them
    /// wait.
    pub(crate) async fn send_to_failing(
        &self,
        count: usize,
        payload: impl Fn(usize) -> String,
    ) -> Vec<JoinHandle<Result<SendReceipt, SendError>>> {
        let before = counts(&self.producer).await.offered;
        let mut tasks = Vec::new();
        for n in 0..count {
            let (producer, message) = (self.producer.clone(), pinned("0-0", payload(n)));
            tasks.push(tokio::spawn(async move { producer.send_with_timeout(message, LONG).await }));
            // One after another.
            yield_now().await;
        }
        until(async || counts(&self.producer).await.offered == before + count as u64).await;
        tasks
    }

    /// Sends messages to the broker that works, some at a time, each of which has to be there at once.
    pub(crate) async fn send_to_working(&self, count: usize, payload: impl Fn(usize) -> String) {
        for first in (0..count).step_by(4) {
            let started = Instant::now();
            let sends = (first..count.min(first + 4)).map(|n| {
                let message = pinned(&format!("1-{}", n % 2), payload(n));
                self.producer.send(message)
            });
            for outcome in join_all(sends).await {
                outcome.unwrap();
            }
            assert!(started.elapsed() <= PROMPTLY, "{first}: {:?}", started.elapsed());
        }
    }
}
