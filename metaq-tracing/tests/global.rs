//! What the layer itself causes to be logged. It needs a process of its own, because its subscriber is that
//! of all threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use metaq_producer::{Producer, ProducerConfig};
use metaq_testkit::Broker;
use metaq_tracing::{LayerGuard, LayerStats, MetaqLayer};
use tracing::{Event, Subscriber};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

const SOON: Duration = Duration::from_secs(60);

/// Counts the events of the crates of metaq, whichever thread logs them.
#[derive(Clone, Default)]
struct OfMetaq(Arc<AtomicU64>);

impl<S: Subscriber> Layer<S> for OfMetaq {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("metaq_") {
            self.0.fetch_add(1, SeqCst);
        }
    }
}

/// A value whose text logs.
struct Logs;

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tracing::info!("within an event");
        f.write_str("it logs")
    }
}

fn assert_balanced(stats: &LayerStats) {
    let sum = stats.sent + stats.dropped.total() + stats.failed.total() + stats.buffered;
    assert_eq!(stats.offered, sum, "{stats:?}");
}

async fn until(guards: &[LayerGuard; 2], is_so: impl Fn(&LayerStats) -> bool) {
    let began = Instant::now();
    while !guards.iter().all(|guard| is_so(&guard.stats())) {
        assert!(began.elapsed() < SOON, "{guards:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_layer_causes_is_not_sent() {
    let broker = Broker::builder().topic("a", 2).topic("b", 2).start().await.unwrap();
    let addr = broker.addr().clone();
    let producer = |timeout| {
        let mut config = ProducerConfig::default();
        // Each message opens and ends a span.
        config.span_per_send = true;
        config.send_timeout = timeout;
        Producer::builder().broker(addr.clone()).config(config).build().unwrap()
    };
    let timeout = Duration::from_secs(1);
    let (first, of_first) = MetaqLayer::builder(producer(timeout), "a".parse().unwrap()).build().unwrap();
    // Only its thread protects it.
    let builder = MetaqLayer::builder(producer(timeout), "b".parse().unwrap());
    let (second, of_second) = builder.exclude_targets([""; 0]).build().unwrap();
    let of_metaq = OfMetaq::default();
    tracing_subscriber::registry().with(of_metaq.clone()).with(first).with(second).init();
    let guards = [of_first, of_second];

    let threads = (0..4).map(|_| {
        thread::spawn(|| {
            for n in 0..250 {
                tracing::trace!(n, "an event");
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    until(&guards, |stats| stats.sent == 1000).await;
    assert!(of_metaq.0.load(SeqCst) > 0, "the producers log what they do");
    assert!(guards.iter().all(|guard| guard.stats().offered == 1000), "{guards:?}");

    // While the broker is away, both say that events can't be sent; when it is back, that they are.
    let before = of_metaq.0.load(SeqCst);
    let restart = broker.kill().await;
    tracing::info!("meanwhile");
    until(&guards, |_| of_metaq.0.load(SeqCst) >= before + 2).await;
    let broker = restart.start().await.unwrap();
    until(&guards, |stats| stats.buffered == 0).await;
    assert!(guards.iter().all(|guard| guard.stats().offered == 1001), "{guards:?}");

    // Both format the event, and either sees what is logged meanwhile.
    tracing::info!(field = ?Logs, "outside");
    until(&guards, |stats| stats.buffered == 0).await;
    for guard in &guards {
        let stats = guard.stats();
        assert_eq!((stats.offered, stats.dropped.nested), (1004, 2), "{stats:?}");
        assert_balanced(&stats);
    }
    // What another producer logs is sent by the second layer alone.
    let other = producer(timeout);
    other.publish_topic(&"a".parse().unwrap()).await.unwrap();
    until(&guards, |stats| stats.buffered == 0 && guards[1].stats().offered > 1004).await;
    assert_eq!(guards[0].stats().offered, 1004);
    for guard in guards {
        let stats = guard.shutdown(SOON).await;
        assert_balanced(&stats);
        assert_eq!(stats.buffered, 0);
    }
    drop(broker);
}
