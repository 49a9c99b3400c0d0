//! Observing views and events during an outage of a registry.

use std::{sync::OnceLock, time::Duration};

use futures_util::FutureExt as _;
use metaq_discovery::{Discovery, DiscoveryEvent, DiscoveryEvents, TopicView, TopicWatch};
use tokio::{
    runtime::{Builder, Handle},
    time::{Instant, sleep, timeout},
};

use super::convergence::{is_in_time, reach};

/// The time to wait for a result that is late, to report its delay instead of a timeout.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Observes every view of a topic during outages of its registry.
///
/// Works only while the discovery watches a single topic, since it relies on events: a [`TopicWatch`] skips
/// views.
#[derive(Debug)]
pub struct Observer {
    watch: TopicWatch,
    events: DiscoveryEvents,
    brokers: usize,
    /// The events since [`take_events`](Self::take_events) was called.
    log: Vec<String>,
}

/// Formats a view as `id@port:partitions …`.
#[must_use]
pub fn text(view: &TopicView) -> String {
    let brokers = view.brokers().iter();
    let texts = brokers.map(|b| format!("{}@{}:{}", b.id, b.addr.port(), b.partitions.unwrap_or_default()));
    texts.collect::<Vec<_>>().join(" ")
}

impl Observer {
    /// Starts to observe the topic of `watch`, while the registry works.
    #[must_use]
    pub fn new(discovery: &dyn Discovery, watch: &TopicWatch) -> Self {
        let events = discovery.events();
        Self { watch: watch.clone(), events, brokers: watch.current().brokers().len(), log: Vec::new() }
    }

    /// Waits until the view is `wanted`, in the form of [`text`]. `since` is when that could be expected:
    /// when the registry was back, or when the change was made. Returns the time since then.
    ///
    /// # Panics
    /// When it takes more than 2 s, beside the time by which timers are late on a busy machine, or a view was
    /// empty.
    pub async fn wait_for_view(&mut self, wanted: &str, since: Instant) -> Duration {
        let late = reach(&mut self.watch, wanted).await;
        let took = since.elapsed();
        self.log = self.take_events();
        let events = &self.log;
        let current = text(&self.watch.current());
        let Some(late) = late else {
            panic!("the view is {current:?}, not {wanted:?}, {took:?} after it could be; events: {events:?}");
        };
        assert!(
            is_in_time(took, late),
            "the view became {wanted:?} {took:?} after it could, timers were {late:?} late; events: {events:?}"
        );
        took
    }

    /// Waits for an event, in its text form. Returns the time that it took.
    ///
    /// # Panics
    /// When it doesn't arrive within 20 s.
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

    /// Returns all events since the last call.
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

/// Runs `start` on a separate runtime, so that [`Tasks`] doesn't count the tasks that it starts: a relay of a
/// proxy lasts as long as the server keeps its end of the connection, which may be for ever if the server
/// accepted it while starting.
///
/// # Panics
/// When `start` panics, or no runtime can be built.
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

/// The number of tasks at one time, to check later that no further one is left.
#[derive(Clone, Copy, Debug)]
pub struct Tasks(usize);

impl Tasks {
    /// Counts the tasks of the current runtime.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn now() -> Self {
        Self(Handle::current().metrics().num_alive_tasks())
    }

    /// Waits until no more tasks are left than were counted.
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
