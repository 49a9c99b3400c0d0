//! One broker without a registry.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use metaq_discovery::{
    Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvents, EventPublisher, MAX_PARTITIONS,
    TopicView, TopicWatch, ViewPublisher,
};
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use metaq_transport::{Connection, ConnectionState};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    route::pool::Pool,
    stats::remote::{ask, raw},
};

/// The time that connecting and asking may take before a topic is used without the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The interval at which the broker is asked again.
const REFRESH: Duration = Duration::from_secs(30);

/// Before a connection that is gone is replaced, and after a panic.
const PAUSE: Duration = Duration::from_secs(1);

/// Every topic is on one broker, which is asked for its id and its configuration by `stats` (protocol §3.4).
/// The configuration says how many partitions a topic has; `stats TOPIC` counts only those that hold
/// something. Of a topic that isn't configured, or if the broker doesn't answer, it chooses the partition
/// itself, and its id isn't known (rule S-14). As long as it was never reached, it has no partitions, so that
/// no message is sent before its partitions are known.
#[derive(Debug)]
pub(crate) struct DirectDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    broker: BrokerAddr,
    pool: Arc<Pool>,
    events: EventPublisher,
    closed: watch::Sender<bool>,
}

impl DirectDiscovery {
    pub(crate) fn new(broker: BrokerAddr, pool: Arc<Pool>) -> Self {
        let (events, closed) = (EventPublisher::default(), watch::Sender::new(false));
        Self { inner: Arc::new(Inner { broker, pool, events, closed }) }
    }
}

#[async_trait]
impl Discovery for DirectDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let inner = Arc::clone(&self.inner);
        if *inner.closed.borrow() {
            return Err(closed());
        }
        let runtime = runtime()?;
        let connection = inner.connect().await?;
        let deadline = Instant::now() + PATIENCE;
        // A broker that can't be reached is the route's business.
        let ready = timeout_at(deadline, settled(&*connection)).await.unwrap_or(false);
        let view = match ready {
            true => inner.ask(&*connection, topic, deadline).await.unwrap_or_else(|| inner.unknown(topic)),
            false => inner.unreached(topic),
        };
        let (publisher, watch) = TopicWatch::channel(view);
        // The watch ends with the runtime, and says so; the next call of `watch` begins again on its own
        // runtime.
        runtime.spawn(inner.follow(topic.clone(), connection, ready, publisher));
        Ok(watch)
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        runtime()?;
        let connection = self.inner.connect().await?;
        let deadline = Instant::now() + PATIENCE;
        let _ = timeout_at(deadline, settled(&*connection)).await;
        // An attempt that failed has a reason, such as a certificate, and the request would not.
        let state = connection.state().borrow().clone();
        if let ConnectionState::Connecting { last_error: Some(error), .. } = state {
            let text = format!("broker {} can't be asked for its topics", self.inner.broker);
            return Err(DiscoveryError::with_source(DiscoveryErrorKind::Unreachable, text, error));
        }
        let told = ask(&*connection, Some("topics"), deadline).await.map_err(|reason| {
            let text = format!("broker {} did not tell its topics: {reason}", self.inner.broker);
            DiscoveryError::new(DiscoveryErrorKind::Unreachable, text)
        })?;
        let named = told.iter().filter(|(_, value)| value.is_some());
        let mut topics: Vec<_> = named.filter_map(|(name, _)| Topic::new(name).ok()).collect();
        topics.sort_unstable();
        Ok(topics)
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        self.inner.closed.send_replace(true);
        self.inner.events.close();
    }
}

impl Inner {
    async fn connect(&self) -> Result<Arc<dyn Connection>, DiscoveryError> {
        self.pool.any(&self.broker).await.map_err(|error| {
            let text = format!("broker {} can't be used", self.broker);
            DiscoveryError::with_source(DiscoveryErrorKind::Failed, text, error)
        })
    }

    fn unknown(&self, topic: &Topic) -> TopicView {
        TopicView::new(topic.clone()).with_address(self.broker.clone())
    }

    fn unreached(&self, topic: &Topic) -> TopicView {
        TopicView::new(topic.clone()).with_broker(BrokerId::UNKNOWN, self.broker.clone(), 0)
    }

    /// Asks the broker about the topic; none if it doesn't know it, or doesn't answer.
    async fn ask(&self, connection: &dyn Connection, topic: &Topic, deadline: Instant) -> Option<TopicView> {
        let config = raw(connection, Some("config"), deadline).await.ok()?;
        let partitions = configured_partitions(str::from_utf8(&config).ok()?, topic)?;
        let figures = ask(connection, None, deadline).await.ok()?;
        let id = figures.get("broker_id")?.trim().parse().ok().filter(|id| *id >= 0)?;
        Some(TopicView::new(topic.clone()).with_broker(BrokerId(id), self.broker.clone(), partitions))
    }

    /// Asks again whenever the connection was re-established, and periodically, until the topic isn't watched
    /// any more or the discovery is closed. A panic, of a `tracing` subscriber say, is contained.
    async fn follow(
        self: Arc<Self>,
        topic: Topic,
        connection: Arc<dyn Connection>,
        mut asked: bool,
        publisher: ViewPublisher,
    ) {
        let mut is_unreached = !asked;
        let mut is_closed = self.closed.subscribe();
        let mut connection = Some(connection);
        loop {
            // A connection that is gone is replaced.
            let following = async {
                let current = match connection.take() {
                    Some(connection) => connection,
                    None => match self.connect().await {
                        Ok(connection) => connection,
                        // Asked again after the pause.
                        Err(_) => return,
                    },
                };
                self.follow_connection(&topic, &*current, asked, &mut is_unreached, &publisher).await;
            };
            tokio::select! {
                _ = AssertUnwindSafe(following).catch_unwind() => {}
                () = publisher.closed() => return,
                _ = is_closed.wait_for(|closed| *closed) => return publisher.end(closed()),
            }
            asked = false;
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = publisher.closed() => return,
                _ = is_closed.wait_for(|closed| *closed) => return publisher.end(closed()),
            }
        }
    }

    /// Asks over one connection until its state is gone with it.
    async fn follow_connection(
        &self,
        topic: &Topic,
        connection: &dyn Connection,
        mut asked: bool,
        is_unreached: &mut bool,
        publisher: &ViewPublisher,
    ) {
        let mut state = connection.state();
        loop {
            let (is_ready, is_closed) = {
                let state = state.borrow_and_update();
                (state.is_ready(), state.is_closed())
            };
            if is_closed {
                return;
            }
            if is_ready && !asked {
                // The view that was published before holds while there is no answer.
                let answer = self.ask(connection, topic, Instant::now() + PATIENCE).await;
                let view = answer.or_else(|| is_unreached.then(|| self.unknown(topic)));
                *is_unreached &= view.is_none();
                if let Some(view) = view {
                    self.events.publish(publisher, view);
                }
            }
            asked = false;
            if let Ok(Err(_)) = timeout(REFRESH, state.changed()).await {
                return;
            }
        }
    }
}

/// The runtime of the caller.
fn runtime() -> Result<Handle, DiscoveryError> {
    crate::deadline::runtime().ok_or_else(|| {
        let text =
            "there is no Tokio runtime with timers here; call this from a task, or within Runtime::block_on";
        DiscoveryError::new(DiscoveryErrorKind::NoRuntime, text)
    })
}

fn closed() -> DiscoveryError {
    DiscoveryError::new(DiscoveryErrorKind::Closed, "the discovery was closed")
}

/// Waits until the connection is ready, or it is known why it isn't; true when it is ready.
async fn settled(connection: &dyn Connection) -> bool {
    let mut state = connection.state();
    let settled =
        state.wait_for(|state| !matches!(state, ConnectionState::Connecting { last_error: None, .. }));
    settled.await.is_ok_and(|state| state.is_ready())
}

/// The number of partitions of a topic in the configuration of a broker; none if it isn't configured.
fn configured_partitions(config: &str, topic: &Topic) -> Option<u32> {
    let (mut section, mut default, mut own) = ("", "1", None);
    for line in config.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim();
        }
        let named = section.strip_prefix("topic=").is_some_and(|name| *topic == name.trim());
        if named && own.is_none() {
            own = Some(None);
        }
        let Some((_, value)) = line.split_once('=').filter(|(key, _)| key.trim() == "numPartitions") else {
            continue;
        };
        if named {
            own = Some(Some(value.trim()));
        } else if section == "system" {
            default = value.trim();
        }
    }
    let partitions = own?.unwrap_or(default).parse().ok();
    partitions.filter(|count| (1..=MAX_PARTITIONS).contains(count))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use metaq_testkit::Broker;
    use metaq_transport::TcpTransport;

    use super::*;
    use crate::health::EventSender;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    fn pool() -> Arc<Pool> {
        Arc::new(Pool::new(Arc::new(TcpTransport::default()), 1, EventSender::default()))
    }

    #[test]
    fn single_broker_is_asked_again_on_each_runtime() {
        let outside = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let broker = outside.block_on(Broker::builder().topic("t", 2).start()).unwrap();
        let discovery = DirectDiscovery::new(broker.addr().clone(), pool());
        let topic: Topic = "t".parse().unwrap();
        let unwatched = discovery.watch(&topic).now_or_never().unwrap().unwrap_err();
        assert_eq!(unwatched.kind(), DiscoveryErrorKind::NoRuntime);
        assert_eq!(
            discovery.topics().now_or_never().unwrap().unwrap_err().kind(),
            DiscoveryErrorKind::NoRuntime
        );
        let mut watches: Vec<TopicWatch> = Vec::new();
        for _ in 0..3 {
            block_on(async {
                for watch in &mut watches {
                    let error = watch.changed().await.unwrap_err();
                    assert!(error.kind() == DiscoveryErrorKind::NoRuntime, "{error}");
                }
                let watch = discovery.watch(&topic).await.unwrap();
                assert_eq!(watch.current().partitions().len(), 2);
                watches.push(watch);
            });
        }
        block_on(async {
            let mut watch = discovery.watch(&topic).await.unwrap();
            discovery.close().await;
            assert_eq!(watch.changed().await.unwrap_err().kind(), DiscoveryErrorKind::Closed);
        });
        outside.block_on(async { drop(broker) });
    }

    #[tokio::test]
    async fn broker_that_comes_later_is_asked_before_it_has_partitions() {
        for (served, expected) in [("t", vec![0, 1]), ("other", vec![-1])] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let discovery = DirectDiscovery::new(BrokerAddr::new("127.0.0.1", port).unwrap(), pool());
            let mut watch = discovery.watch(&"t".parse().unwrap()).await.unwrap();
            assert_eq!((watch.current().brokers().len(), watch.current().partitions()), (1, &[][..]));
            let _broker = Broker::builder().topic(served, 2).port(port).start().await.unwrap();
            watch.changed().await.unwrap();
            let view = watch.current();
            let partitions: Vec<_> = view.partitions().iter().map(|partition| partition.index).collect();
            assert_eq!(partitions, expected);
        }
    }

    #[tokio::test]
    async fn statistics_may_take_any_time() {
        let broker = Broker::builder().topic("t", 2).start().await.unwrap();
        let pool = pool();
        let connection = pool.any(broker.addr()).await.unwrap();
        settled(&*connection).await;
        let [second, long] = [1, u64::from(u32::MAX)].map(Duration::from_secs);
        for timeout in [Duration::ZERO, Duration::from_nanos(1), second, long, Duration::MAX] {
            let told = pool.broker_stats(None, crate::deadline::after(timeout)).await;
            let is_answered = told.len() == 1 && told[0].1.is_ok();
            assert!(is_answered || timeout < second, "{timeout:?}: {told:?}");
        }
    }

    #[test]
    fn a_configuration_tells_the_partitions_of_its_topics() {
        let config = "; made by hand\r\n[system]\r\nbrokerId = 0\r\nnumPartitions=4\r\n[zookeeper]\r\n\
                      [topic=a]\r\n# numPartitions=9\r\nnumPartitions = 2\r\n[topic=b]\r\nstat=true\r\n\
                      [topic=none]\r\nnumPartitions=0\r\n[topic=odd]\r\nnumPartitions=x\r\n";
        let partitions = |name: &str| configured_partitions(config, &name.parse().unwrap());
        assert_eq!((partitions("a"), partitions("b")), (Some(2), Some(4)));
        assert_eq!((partitions("none"), partitions("odd"), partitions("c")), (None, None, None));
        assert_eq!(configured_partitions("[topic=a]", &"a".parse().unwrap()), Some(1));
        assert_eq!(configured_partitions("", &"a".parse().unwrap()), None);
    }
}
