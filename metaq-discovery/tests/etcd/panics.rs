//! Panics on the task that follows, and on tasks of the client library. They come from a subscriber of
//! `tracing`, which the library calls in many places.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metaq_discovery::{BrokerId, Discovery, DiscoveryErrorKind, EtcdConfig, EtcdDiscovery};
use metaq_testkit::{
    conformance::{Observer, RegistryUnderTest as _, on_own_runtime, text, topic},
    peers::EtcdProgram,
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{Event, Metadata, Subscriber, span};

use crate::registry::{Registry, TIMEOUT, addr};

/// Panics this many times when a module whose path begins with `target` records something.
#[derive(Clone)]
struct Panicking {
    target: &'static str,
    left: Arc<AtomicUsize>,
}

impl Panicking {
    fn panic_once(&self, metadata: &Metadata<'_>) {
        let is_meant = metadata.target().starts_with(self.target);
        let take = |left: usize| left.checked_sub(1);
        if is_meant && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            panic!("a subscriber panics in {}", metadata.target());
        }
    }

    /// Arms the subscriber, and waits until it has panicked.
    async fn panics(&self, times: usize) {
        self.left.store(times, Ordering::SeqCst);
        let armed = Instant::now();
        while self.left.load(Ordering::SeqCst) > 0 {
            assert!(armed.elapsed() < TIMEOUT, "{} records nothing", self.target);
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Subscriber for Panicking {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(self.target)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.panic_once(event.metadata());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Lets the modules of `target` panic while the registry changes, and checks that the registry is still
/// followed. Single-threaded, because the subscriber is set for this thread.
async fn goes_on_after_panics(program: &EtcdProgram, target: &'static str, reread_interval: Duration) {
    let panicking = Panicking { target, left: Arc::default() };
    let _subscribed = tracing::subscriber::set_default(panicking.clone());
    let registry = on_own_runtime({
        let program = program.clone();
        async move { Registry::start(&program).await }
    })
    .await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let mut config = EtcdConfig::default();
    config.keep_alive = Duration::from_millis(500);
    config.reread_interval = reread_interval;
    let discovery = EtcdDiscovery::with_config(&registry.endpoint, config).unwrap();
    let watch = discovery.watch(&topic()).await.unwrap();
    let mut observer = Observer::new(&discovery, &watch);
    for (round, times) in (2..).zip([1, 1, 2, 3]) {
        panicking.panics(times).await;
        let panicked = Instant::now();
        registry.register(BrokerId(0), addr(1000), round).await;
        observer.wait_for_view(&format!("0@1000:{round}"), panicked).await;
        assert_eq!(discovery.topics().await.unwrap(), [topic()]);
        assert_eq!(text(&discovery.watch(&topic()).await.unwrap().current()), format!("0@1000:{round}"));
    }
    // Calls don't wait for a task that panics repeatedly, and return the reason.
    panicking.left.store(usize::MAX, Ordering::SeqCst);
    timeout(TIMEOUT, discovery.close()).await.expect("closing doesn't wait");
    let mut watch = watch;
    let ended = async {
        loop {
            if let Err(error) = watch.changed().await {
                return error;
            }
        }
    };
    assert_eq!(timeout(TIMEOUT, ended).await.unwrap().kind(), DiscoveryErrorKind::Closed);
    panicking.left.store(0, Ordering::SeqCst);
}

#[tokio::test]
async fn a_panic_restarts_the_following_task() {
    let Some(program) = EtcdProgram::get("a_panic_restarts_the_following_task") else { return };
    // Every call is queued by the caller.
    goes_on_after_panics(&program, "tower::buffer::service", Duration::from_millis(200)).await;
}

#[tokio::test]
async fn a_panic_of_the_librarys_tasks_is_detected() {
    let Some(program) = EtcdProgram::get("a_panic_of_the_librarys_tasks_is_detected") else {
        return;
    };
    goes_on_after_panics(&program, "h2::codec::framed_read", Duration::from_secs(3600)).await;
}
