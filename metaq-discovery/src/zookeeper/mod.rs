//! ZooKeeper, where brokers register themselves.

mod follow;
mod read;
mod session;
mod watched;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{timeout, timeout_at},
};

use crate::{
    Credentials, Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvents, EventPublisher, TopicWatch,
    connect::ConnectString,
    deadline::{LONGEST, after, setting},
    registry::Layout,
    reports::Reports,
    supervise::runtime,
};
use follow::Follower;
use session::Sessions;
use watched::WatchedTopic;

/// How long closing waits for the tasks that follow topics.
const LONGEST_CLOSE: Duration = Duration::from_millis(500);

/// The least that settings are taken as.
const SHORTEST: Duration = Duration::from_millis(10);
const SHORTEST_REREAD: Duration = Duration::from_millis(100);
const SHORTEST_SILENCE: Duration = Duration::from_millis(100);
const SHORTEST_SESSION: Duration = Duration::from_secs(1);

/// The protocol has milliseconds in 32 bits with a sign.
const LONGEST_SESSION: Duration = Duration::from_millis(i32::MAX as u64);

/// Settings of [`ZooKeeperDiscovery`]. A duration of zero is refused. Shorter ones than these are taken as these:
/// 1 s for `session_timeout`, 100 ms for `silence_timeout` and `reread_interval`, 10 ms for the others.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ZooKeeperConfig {
    /// After how long without contact the servers end the session. Default 30 s, as the Java client (rule S-5). The
    /// servers may have limits of their own.
    pub session_timeout: Duration,
    /// How long connecting, and reading a topic for the first time, may take. Default 10 s.
    pub connect_timeout: Duration,
    /// A server that is silent for so long is taken for lost, and another connection is made; it is asked whether it is
    /// there before. Nothing is lost by a false alarm, but it costs the servers work. Default 4 s; 2/5 of the session
    /// timeout where this is more than 3/5 of that.
    pub silence_timeout: Duration,
    /// How long a single call may take before the topic is read anew. Default 5 s.
    pub call_timeout: Duration,
    /// How often everything is read anew even if no change was reported. Default 60 s.
    pub reread_interval: Duration,
    /// Whom to read as, by the scheme `digest`. Default nobody, which is enough for what brokers make: everybody may read
    /// that.
    pub credentials: Option<Credentials>,
    /// TLS, on which the servers have another port. Default none.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::TlsConfig>,
}

impl ZooKeeperConfig {
    /// The settings within their limits.
    fn checked(mut self) -> Result<Self, DiscoveryError> {
        let limited = |name, value: &mut Duration, shortest, longest| {
            setting(name, *value, shortest, longest).map(|checked| *value = checked)
        };
        limited("session_timeout", &mut self.session_timeout, SHORTEST_SESSION, LONGEST_SESSION)?;
        limited("connect_timeout", &mut self.connect_timeout, SHORTEST, LONGEST)?;
        limited("silence_timeout", &mut self.silence_timeout, SHORTEST_SILENCE, LONGEST_SESSION)?;
        limited("call_timeout", &mut self.call_timeout, SHORTEST, LONGEST)?;
        limited("reread_interval", &mut self.reread_interval, SHORTEST_REREAD, LONGEST)?;
        Ok(self)
    }
}

impl Default for ZooKeeperConfig {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_secs(5),
            reread_interval: Duration::from_secs(60),
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// Finds brokers in ZooKeeper, where they register themselves.
///
/// All topics share one session, which is opened at the first use, and opened anew after it has expired. While no
/// server can be reached, and after the session has expired, the last view of each topic holds.
///
/// Like the Java client, it creates the path of a topic that isn't there, so that there is something to watch (rule
/// P-4); where that isn't allowed, it waits for the path to appear.
#[derive(Clone, Debug)]
pub struct ZooKeeperDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    sessions: Arc<Sessions>,
    layout: Layout,
    config: ZooKeeperConfig,
    events: EventPublisher,
    /// By the number of the follower.
    reports: Mutex<Reports<u64>>,
    followers: AtomicU64,
    /// How many topics are followed by a task now.
    following: watch::Sender<usize>,
    closed: watch::Sender<bool>,
}

impl ZooKeeperDiscovery {
    /// A discovery with the default settings. `connect` is `HOST:PORT,HOST:PORT/ROOT`, optionally with `zk://` before
    /// it; the root, under which the brokers register, is `/meta` when left out.
    ///
    /// # Errors
    /// When `connect` is malformed. Nothing is connected to yet.
    pub fn new(connect: &str) -> Result<Self, DiscoveryError> {
        Self::with_config(connect, ZooKeeperConfig::default())
    }

    /// A discovery with other settings.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and when a duration is zero.
    pub fn with_config(connect: &str, config: ZooKeeperConfig) -> Result<Self, DiscoveryError> {
        let ConnectString { hosts, layout } = ConnectString::parse("ZooKeeper", "zk://", connect)?;
        let events = EventPublisher::default();
        #[cfg(feature = "tls")]
        if config.tls.is_some() {
            // The client library would panic.
            hosts.iter().try_for_each(|host| crate::tls::server_name("ZooKeeper", host).map(drop))?;
        }
        let config = config.checked()?;
        Ok(Self {
            inner: Arc::new(Inner {
                sessions: Arc::new(Sessions::new(&hosts, &config, events.clone())),
                layout,
                config,
                events,
                reports: Mutex::default(),
                followers: AtomicU64::new(0),
                following: watch::Sender::default(),
                closed: watch::Sender::new(false),
            }),
        })
    }

    /// Runs `work`, but not beyond the connect timeout nor the closing of the discovery.
    async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, DiscoveryError>>,
    ) -> Result<T, DiscoveryError> {
        let limit = self.inner.config.connect_timeout;
        runtime()?;
        let deadline = after(limit);
        let mut closed = self.inner.closed.subscribe();
        tokio::select! {
            done = timeout_at(deadline, work) => done.unwrap_or_else(|_| {
                let text = format!("ZooKeeper at {} did not answer within {limit:?}", self.inner.sessions.hosts());
                Err(DiscoveryError::new(DiscoveryErrorKind::Unreachable, text))
            }),
            _ = closed.wait_for(|closed| *closed) => Err(DiscoveryError::closed()),
        }
    }
}

#[async_trait]
impl Discovery for ZooKeeperDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let mut follower = Follower::new(Arc::clone(&self.inner), topic.clone());
        let view = self.bounded(follower.first_view()).await?;
        WatchedTopic::start(Arc::clone(&self.inner), topic.clone(), follower, view)
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        let inner = &self.inner;
        let path = inner.layout.topics();
        let read = async {
            let client = inner.sessions.client().await?;
            match inner.call(&client, "list", &path, client.list_children(&path)).await? {
                Ok(names) => Ok(names),
                Err(zookeeper_client::Error::NoNode) => Ok(Vec::new()),
                Err(error) => Err(inner.sessions.failed("list", &path, error)),
            }
        };
        let mut topics: Vec<_> =
            self.bounded(read).await?.iter().filter_map(|name| Topic::new(name).ok()).collect();
        topics.sort_unstable();
        Ok(topics)
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        self.inner.closed.send_replace(true);
        if runtime().is_ok() {
            // Before the session, because the client library panics in watchers that outlive it. On a runtime that isn't
            // driven they don't end.
            let mut following = self.inner.following.subscribe();
            let _ = timeout(LONGEST_CLOSE, following.wait_for(|count| *count == 0)).await;
        }
        self.inner.sessions.close();
        self.inner.events.close();
    }
}
