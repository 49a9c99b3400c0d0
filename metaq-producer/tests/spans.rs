//! The span of each message, with the option `span_per_send`. A test program of its own: another test's
//! thread without a subscriber could have the spans of both switched off.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::join_all};
use metaq_testkit::{Fault, Requests};
use parking_lot::Mutex;
use tracing::{
    Event, Instrument as _, Metadata, Subscriber,
    field::{Field, Visit},
    info_span,
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};

use crate::common::{cluster::Cluster, message, topic, until};

/// The fields of a span that were recorded, and whether it is closed.
#[derive(Clone, Debug, Default)]
struct Recorded {
    name: String,
    parent: Option<u64>,
    fields: BTreeMap<String, String>,
    references: usize,
}

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name().to_owned(), value.to_owned());
    }
}

/// Keeps all spans of the producer, by their ids minus 1.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<(Vec<Recorded>, Vec<u64>)>>);

impl Spans {
    fn collect(&self) -> DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    /// The spans of messages, all of which are closed: parent, partition, outcome, attempts.
    fn take(&self) -> Vec<(Option<u64>, Option<String>, String, String)> {
        let mut inner = self.0.lock();
        let sends = inner.0.iter_mut().filter(|span| span.name == "metaq.send");
        let all = sends.map(|span| {
            span.name = "taken".to_owned();
            assert_eq!(span.references, 0, "{span:?} is closed");
            let mut take = |name| span.fields.remove(name);
            assert_eq!(take("topic").as_deref(), Some("t"));
            let (partition, outcome, attempts) = (take("partition"), take("outcome"), take("attempts"));
            (span.parent, partition, outcome.unwrap(), attempts.unwrap())
        });
        all.collect()
    }

    fn count(&self) -> usize {
        self.0.lock().0.iter().filter(|span| span.name == "metaq.send").count()
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut inner = self.0.lock();
        let parent = if span.is_contextual() { inner.1.last().copied() } else { None };
        let name = span.metadata().name().to_owned();
        let mut recorded = Recorded { name, parent, fields: BTreeMap::new(), references: 1 };
        span.record(&mut recorded);
        inner.0.push(recorded);
        Id::from_u64(inner.0.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        values.record(&mut self.0.lock().0[id.into_u64() as usize - 1]);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, id: &Id) {
        self.0.lock().1.push(id.into_u64());
    }

    fn exit(&self, _: &Id) {
        self.0.lock().1.pop();
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.0.lock().0[id.into_u64() as usize - 1].references += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut inner = self.0.lock();
        let span = &mut inner.0[id.into_u64() as usize - 1];
        span.references -= 1;
        span.references == 0
    }
}

fn ended(outcome: &str, attempts: u32) -> (String, String) {
    (outcome.to_owned(), attempts.to_string())
}

#[tokio::test(start_paused = true)]
async fn each_message_has_a_span_within_that_of_its_caller() {
    let spans = Spans::default();
    let _collecting = spans.collect();
    let cluster = Cluster::new(1, |config| {
        config.span_per_send = true;
        config.retry.initial_backoff = Duration::from_millis(1);
        config.retry.max_backoff = Duration::from_millis(1);
    })
    .await;
    let (producer, faults) = (&cluster.producer, cluster.brokers[0].faults());
    let request = info_span!("request");
    let id = request.id().unwrap().into_u64();
    async {
        producer.send(message("1")).await.unwrap();
        producer.enqueue(message("2")).await.unwrap().await.unwrap();
        producer.try_send(message("3")).unwrap().await.unwrap();
    }
    .instrument(request)
    .await;
    let seen = spans.take();
    assert_eq!(seen.len(), 3);
    for (parent, partition, outcome, attempts) in seen {
        assert!(partition.is_some_and(|partition| partition.starts_with("0-")));
        assert_eq!((parent, (outcome, attempts)), (Some(id), ended("acknowledged", 1)));
    }
    let outcomes = || {
        let seen = spans.take().into_iter();
        seen.map(|(parent, _, outcome, attempts)| {
            assert_eq!(parent, None);
            (outcome, attempts)
        })
        .collect::<Vec<_>>()
    };
    faults.plan(Requests::puts().only(1), Fault::refuse(503, "busy"));
    producer.send(message("again")).await.unwrap();
    assert_eq!(outcomes(), [ended("acknowledged", 2)]);
    faults.plan(Requests::puts().only(1), Fault::refuse(500, "no"));
    producer.send(message("rejected")).await.unwrap_err();
    faults.plan(Requests::puts().only(1), Fault::Swallow);
    producer.send(message("unknown")).await.unwrap_err();
    assert_eq!(outcomes(), [ended("rejected", 1), ended("unknown", 1)]);
    faults.refuse_connections(true);
    faults.close_connections();
    until(async || producer.partitions(&topic()).is_empty()).await;
    producer.send(message("no broker")).await.unwrap_err();
    producer.try_send(message("refused")).unwrap_err();
    drop(producer.send(message("dropped")).now_or_never());
    let handle = producer.enqueue(message("purged")).await.unwrap();
    let _ = producer.purge(&topic());
    drop(handle);
    assert_eq!(outcomes(), std::array::from_fn::<_, 4, _>(|_| ended("not-sent", 0)));
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_outside_have_one_span() {
    let spans = Spans::default();
    let _collecting = spans.collect();
    let cluster = Cluster::new(1, |config| {
        config.span_per_send = true;
        config.max_in_flight = 16;
    })
    .await;
    let faults = cluster.brokers[0].faults();
    faults.refuse_connections(true);
    faults.close_connections();
    until(async || cluster.producer.partitions(&topic()).is_empty()).await;
    let long = Duration::from_secs(3600);
    let sends = (0..10).map(|n| cluster.producer.send_with_timeout(message(n.to_string()), long));
    let late = cluster.producer.send(message("in vain"));
    // Four wait within. The last one gives up.
    let mut waiting = Box::pin(join_all(sends));
    assert!((&mut waiting).now_or_never().is_none());
    assert!(cluster.producer.send_with_timeout(message("given up"), long).now_or_never().is_none());
    let back = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        faults.heal();
    };
    let (outcomes, vain, ()) = tokio::join!(waiting, late, back);
    vain.unwrap_err();
    for outcome in outcomes {
        outcome.unwrap();
    }
    let mut seen: Vec<_> = spans.take().into_iter().map(|(_, _, outcome, _)| outcome).collect();
    seen.sort_unstable();
    assert_eq!(seen.len(), 12);
    assert_eq!([&seen[9], &seen[10], &seen[11]], ["acknowledged", "not-sent", "not-sent"]);
}

#[tokio::test(start_paused = true)]
async fn without_the_option_there_are_none() {
    let spans = Spans::default();
    let _collecting = spans.collect();
    let cluster = Cluster::new(1, |_| {}).await;
    cluster.producer.send(message("1")).await.unwrap();
    cluster.producer.try_send(message("2")).unwrap().await.unwrap();
    assert_eq!(spans.count(), 0);
}
