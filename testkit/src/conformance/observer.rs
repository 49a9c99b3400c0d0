//! Looking on while a registry has trouble.

use std::{sync::OnceLock, time::Duration};

use futures_util::FutureExt as _;
use metaq_discovery::{Discovery, DiscoveryEvent, DiscoveryEvents, TopicView, TopicWatch};
use tokio::{
    runtime::{Builder, Handle},
    time::{Instant, sleep, timeout},
};

/// A change has to be seen so soon after it was made, or after the registry is back.
pub(super) const MAX_CONVERGENCE: Duration = Duration::from_secs(2);

/// The time for which a result is awaited before it is judged, to say how long it took instead.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Sees every view of a topic through trouble with its registry.
///
/// Only while a single topic of the discovery is watched, as its events are what is looked at: a [`TopicWatch`] skips
/// views.
#[derive(Debug)]
pub struct Observer {
    watch: TopicWatch,
    events: DiscoveryEvents,
    brokers: usize,
    /// The events that were told since [`take_events`](Self::take_events) was called.
    log: Vec<String>,
}

/// A view as `id@port:partitions …`.
#[must_use]
pub fn text(view: &TopicView) -> String {
    let brokers = view.brokers().iter();
    let texts = brokers.map(|b| format!("{}@{}:{}", b.id, b.addr.port(), b.partitions.unwrap_or_default()));
    texts.collect::<Vec<_>>().join(" ")
}

impl Observer {
    /// Begins to look at the topic of `watch`, in a moment without trouble.
    #[must_use]
    pub fn new(discovery: &dyn Discovery, watch: &TopicWatch) -> Self {
        let events = discovery.events();
        Self { watch: watch.clone(), events, brokers: watch.current().brokers().len(), log: Vec::new() }
    }

    /// Waits until the view is `wanted`, as [`text`] shows it. `since` is when that could be expected: when the registry
    /// was back, or when the change was made. Returns how long it took since.
    ///
    /// # Panics
    /// When it takes more than 2 s, or a view was empty.
    pub async fn wait_for_view(&mut self, wanted: &str, since: Instant) -> Duration {
        let reached = timeout(TIMEOUT, async {
            while text(&self.watch.current()) != wanted {
                self.watch.changed().await.expect("the watch goes on");
            }
        });
        let reached = reached.await.is_ok();
        let took = since.elapsed();
        self.log = self.take_events();
        let events = &self.log;
        let current = text(&self.watch.current());
        assert!(
            reached,
            "the view is {current:?}, not {wanted:?}, {took:?} after it could be; events: {events:?}"
        );
        assert!(
            took <= MAX_CONVERGENCE,
            "the view became {wanted:?} {took:?} after it could; events: {events:?}"
        );
        took
    }

    /// Waits for another event, shown as text; returns how long it took.
    ///
    /// # Panics
    /// When it isn't told within 20 s.
    pub async fn wait_for_event(&mut self, wanted: &str) -> Duration {
        let started = Instant::now();
        let received = timeout(TIMEOUT, async {
            loop {
                let event = self.events.next().await.expect("the events go on");
                self.record(&event);
                if event.to_string() == wanted {
                    return;
                }
            }
        });
        let received = received.await.is_ok();
        assert!(received, "the event {wanted:?} arrives, after {:?}", self.log);
        started.elapsed()
    }

    /// All events since the last call.
    ///
    /// # Panics
    /// When a view was empty.
    pub fn take_events(&mut self) -> Vec<String> {
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.record(&event);
        }
        std::mem::take(&mut self.log)
    }

    fn record(&mut self, event: &DiscoveryEvent) {
        match event {
            DiscoveryEvent::ViewChanged(change) => {
                self.brokers = self.brokers + change.added.len() - change.removed.len();
                assert!(self.brokers > 0, "a view became empty: {change:?}");
            }
            DiscoveryEvent::Missed(count) => panic!("{count} events were missed: a view may have been empty"),
            _ => {}
        }
        self.log.push(event.to_string());
    }
}

/// Runs `start` on a runtime of its own, for the tasks that it starts not to be counted by [`Tasks`]: a relay of a proxy
/// lasts as long as the server keeps its end, which one that was starting when it let somebody in does for ever.
///
/// # Panics
/// When `start` does, or no runtime can be built.
pub async fn on_own_runtime<T: Send + 'static>(start: impl Future<Output = T> + Send + 'static) -> T {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    });
    runtime.spawn(start).await.expect("what is started apart doesn't panic")
}

/// The number of tasks that there were, to see that none is left of what was done since.
#[derive(Clone, Copy, Debug)]
pub struct Tasks(usize);

impl Tasks {
    /// The tasks of the current runtime now.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn now() -> Self {
        Self(Handle::current().metrics().num_alive_tasks())
    }

    /// Waits until there are no more tasks than there were.
    ///
    /// # Panics
    /// When that takes more than 20 s.
    pub async fn wait_until_none_left(self) {
        let ended = timeout(TIMEOUT, async {
            while Self::now().0 > self.0 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(ended.await.is_ok(), "there were {} tasks, and {} are left", self.0, Self::now().0);
    }
}
