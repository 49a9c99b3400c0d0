//! etcd, with the keys that brokers have in ZooKeeper.

mod follow;
mod read;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    Credentials, Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvents, EventPublisher, TopicWatch,
    connect::ConnectString, publishers::Publishers, registry::Layout, reports::Reports,
};
use read::Keys;

/// Settings of [`EtcdDiscovery`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// How long reading the registry for the first time may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a single call may take before another server is tried. Default 2 s.
    pub call_timeout: Duration,
    /// A server that is silent for so long is asked whether it is there, and left if it doesn't answer within the same
    /// time. Default 2 s.
    pub keep_alive: Duration,
    /// How often everything is read anew even if no change was reported. Default 60 s.
    pub reread_interval: Duration,
    /// Whom to read as. Default nobody.
    pub credentials: Option<Credentials>,
    /// TLS. Default none.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::TlsConfig>,
    /// The name that the servers' certificates have to hold for. Default the host of each server.
    #[cfg(feature = "tls")]
    pub server_name: Option<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(2),
            reread_interval: Duration::from_secs(60),
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            server_name: None,
        }
    }
}

/// Finds brokers in etcd, under the same paths as in ZooKeeper: `ROOT/brokers/ids/ID/master` holds a broker's address, and
/// `ROOT/brokers/topics-pub/TOPIC/ID-m` its partitions of a topic. Brokers of MetaQ register in ZooKeeper only; something
/// else has to write these keys.
///
/// The whole registry is read and followed once for all topics, from the first watch until the last is dropped. While no
/// server can be reached, the last view of each topic holds.
#[derive(Clone, Debug)]
pub struct EtcdDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hosts: Vec<String>,
    layout: Layout,
    config: EtcdConfig,
    events: EventPublisher,
    state: Mutex<State>,
    /// Whether the keys are those of the registry now.
    sync: watch::Sender<SyncState>,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    keys: Keys,
    reports: Reports<Topic>,
    publishers: Publishers,
    /// How many calls wait for the keys to be read, or are reading them.
    waiting: usize,
    /// Whether a task follows the registry.
    followed: bool,
    host: usize,
}

#[derive(Clone, Debug)]
enum SyncState {
    Never,
    Synced,
    Lost(DiscoveryError),
    /// None of the servers can be talked to as it is configured: nobody needs to wait.
    #[cfg(feature = "tls")]
    Refused(DiscoveryError),
}

/// One of the calls that wait for the keys.
struct Waiting<'a>(&'a Inner);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

impl EtcdDiscovery {
    /// A discovery with the default settings. `connect` is `HOST:PORT,HOST:PORT/ROOT`, optionally with `etcd://` before
    /// it; the root is `/meta` when left out.
    ///
    /// # Errors
    /// When `connect` is malformed. Nothing is connected to yet.
    pub fn new(connect: &str) -> Result<Self, DiscoveryError> {
        Self::with_config(connect, EtcdConfig::default())
    }

    /// A discovery with other settings.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_config(connect: &str, config: EtcdConfig) -> Result<Self, DiscoveryError> {
        let ConnectString { hosts, layout } = ConnectString::parse("etcd", "etcd://", connect)?;
        #[cfg(feature = "tls")]
        if config.tls.is_some() {
            let mut names = config.server_name.iter().chain(&hosts);
            names.try_for_each(|name| crate::tls::server_name("etcd", name).map(drop))?;
        }
        let (events, state) = (EventPublisher::default(), Mutex::default());
        let (sync, closed) = (watch::Sender::new(SyncState::Never), watch::Sender::new(false));
        Ok(Self { inner: Arc::new(Inner { hosts, layout, config, events, state, sync, closed }) })
    }

    /// Waits until the keys are those of the registry. They are followed from then on until nobody needs them.
    async fn synced(&self) -> Result<Waiting<'_>, DiscoveryError> {
        let inner = &self.inner;
        let mut sync = inner.sync.subscribe();
        let mut closed = inner.closed.subscribe();
        let waiting = {
            let mut state = inner.state.lock();
            state.waiting += 1;
            if !std::mem::replace(&mut state.followed, true) {
                inner.sync.send_replace(SyncState::Never);
                tokio::spawn(Arc::clone(inner).follow());
            }
            Waiting(inner)
        };
        let limit = inner.config.connect_timeout;
        let settled = |sync: &SyncState| !matches!(sync, SyncState::Never | SyncState::Lost(_));
        let settled = timeout_at(Instant::now() + limit, sync.wait_for(settled));
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Err(DiscoveryError::closed()),
            settled = settled => match settled.ok().and_then(Result::ok).as_deref() {
                #[cfg(feature = "tls")]
                Some(SyncState::Refused(error)) => return Err(error.clone()),
                Some(_) => return Ok(waiting),
                None => {}
            },
        }
        let text = format!("no etcd answered at {} within {limit:?}", inner.hosts.join(","));
        Err(match &*inner.sync.borrow() {
            SyncState::Lost(error) => {
                DiscoveryError::with_source(DiscoveryErrorKind::Unreachable, text, error.clone())
            }
            _ => DiscoveryError::new(DiscoveryErrorKind::Unreachable, text),
        })
    }
}

#[async_trait]
impl Discovery for EtcdDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let _waiting = self.synced().await?;
        let mut state = self.inner.state.lock();
        if *self.inner.closed.borrow() {
            return Err(DiscoveryError::closed());
        }
        let (view, bad) = state.keys.view(topic, &self.inner.layout);
        state.reports.report(topic.clone(), bad, &self.inner.events);
        Ok(state.publishers.watch(view))
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        let _waiting = self.synced().await?;
        Ok(self.inner.state.lock().keys.topics(&self.inner.layout))
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        self.inner.closed.send_replace(true);
        self.inner.state.lock().publishers.clear();
    }
}
