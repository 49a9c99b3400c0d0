//! etcd, with the same keys that brokers write to ZooKeeper.

mod call_error;
mod follow;
mod read;
mod refusal;
mod server;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout_at};

use crate::{
    Credentials, Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvents, EventPublisher,
    RegisteredBrokers, TopicWatch,
    backend::{
        bad_entries::BadEntryReports,
        connect_string::ConnectString,
        deadline::{MAX_DURATION, after, setting},
        notices::{Notice, Notices},
        publishers::Publishers,
        registry::Layout,
        task::{TaskSlot, runtime},
    },
    view::ViewSource,
};
use read::Keys;
use refusal::RefusalBackoff;

/// Settings of [`EtcdDiscovery`]. A duration of zero is refused; one below 10 ms is raised to 10 ms, and a
/// `reread_interval` below 100 ms to 100 ms.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The limit for reading the registry for the first time. Default 10 s.
    pub connect_timeout: Duration,
    /// The limit for a single call, after which another server is tried. Default 2 s.
    pub call_timeout: Duration,
    /// The interval of keep-alive pings; a server that doesn't answer within `call_timeout` is left. Default
    /// 6 s. etcd closes connections on which pings come more often than its `--grpc-keepalive-min-time`, 5 s
    /// by default.
    pub keep_alive: Duration,
    /// The interval at which everything is read again even if no change was reported. Default 60 s.
    pub reread_interval: Duration,
    /// The credentials for reading. Default none.
    pub credentials: Option<Credentials>,
    /// TLS. Default none.
    #[cfg(feature = "_tls")]
    pub tls: Option<crate::TlsConfig>,
    /// The name for which the servers' certificates must be valid. Default the host of each server.
    #[cfg(feature = "_tls")]
    pub server_name: Option<String>,
}

/// The smallest values of the settings.
const MIN_DURATION: Duration = Duration::from_millis(10);
const MIN_REREAD: Duration = Duration::from_millis(100);

impl EtcdConfig {
    /// Checks the settings and limits them to their ranges.
    fn checked(mut self) -> Result<Self, DiscoveryError> {
        let limited = |name, value: &mut Duration, shortest| {
            setting(name, *value, shortest, MAX_DURATION).map(|checked| *value = checked)
        };
        limited("connect_timeout", &mut self.connect_timeout, MIN_DURATION)?;
        limited("call_timeout", &mut self.call_timeout, MIN_DURATION)?;
        limited("keep_alive", &mut self.keep_alive, MIN_DURATION)?;
        limited("reread_interval", &mut self.reread_interval, MIN_REREAD)?;
        Ok(self)
    }
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(6),
            reread_interval: Duration::from_secs(60),
            credentials: None,
            #[cfg(feature = "_tls")]
            tls: None,
            #[cfg(feature = "_tls")]
            server_name: None,
        }
    }
}

/// Finds brokers in etcd, under the same paths as in ZooKeeper: `ROOT/brokers/ids/ID/master` holds a broker's
/// address, and `ROOT/brokers/topics-pub/TOPIC/ID-m` its partitions of a topic. Brokers of MetaQ register
/// only in ZooKeeper; another program must write these keys.
///
/// The whole registry is read and followed once for all topics, from the first watch until the last is
/// dropped. While no server can be reached, the last view of each topic remains valid.
///
/// When etcd refuses access, because of a wrong password or missing rights, [`watch`](Discovery::watch) and
/// [`topics`](Discovery::topics) fail immediately with its reason. As each login costs the servers work, the
/// next attempt is made after a backoff that grows from 500 ms to 30 s and is shared by all callers; calls in
/// between return the same error. A login that takes longer than `call_timeout` costs the servers as much,
/// and is followed by a backoff from 500 ms to 5 s. A login is used as long as its connection lasts and the
/// servers accept it.
#[derive(Clone)]
pub struct EtcdDiscovery {
    inner: Arc<Inner>,
}

struct Inner {
    hosts: Vec<String>,
    layout: Layout,
    config: EtcdConfig,
    events: EventPublisher,
    state: Mutex<State>,
    notices: Notices,
    /// The task that follows the registry.
    task: TaskSlot,
    /// The state of the keys relative to the registry.
    sync: watch::Sender<SyncState>,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    keys: Keys,
    reports: BadEntryReports<Topic>,
    publishers: Publishers,
    /// The number of calls that wait for the keys, or are reading them.
    waiting: usize,
    /// Set if the last event about the registry was `Connected`.
    connected: bool,
    host: usize,
    /// The last refusal of access, until the registry was read again.
    refusal: Option<RefusalBackoff>,
}

#[derive(Clone, Debug)]
enum SyncState {
    Never,
    Synced,
    Lost(DiscoveryError),
    /// The servers refuse access with these settings: calls fail without waiting.
    Refused(DiscoveryError),
}

/// A call that waits for the keys.
struct WaitingCall<'a>(&'a Inner);

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

impl EtcdDiscovery {
    /// Creates a discovery with the default settings. `connect` is `HOST:PORT,HOST:PORT/ROOT`, optionally
    /// with `etcd://` in front; without a root, `/meta` is used.
    ///
    /// # Errors
    /// When `connect` is malformed. Nothing is connected to yet.
    pub fn new(connect: &str) -> Result<Self, DiscoveryError> {
        Self::with_config(connect, EtcdConfig::default())
    }

    /// Creates a discovery with other settings.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and when a duration is zero.
    pub fn with_config(connect: &str, config: EtcdConfig) -> Result<Self, DiscoveryError> {
        let ConnectString { hosts, layout } = ConnectString::parse("etcd", "etcd://", connect)?;
        #[cfg(feature = "_tls")]
        if config.tls.is_some() {
            let mut names = config.server_name.iter().chain(&hosts);
            names.try_for_each(|name| crate::backend::tls::server_name("etcd", name).map(drop))?;
        }
        let config = config.checked()?;
        Ok(Self {
            inner: Arc::new(Inner {
                hosts,
                layout,
                config,
                events: EventPublisher::default(),
                state: Mutex::default(),
                notices: Notices::default(),
                task: TaskSlot::default(),
                sync: watch::Sender::new(SyncState::Never),
                closed: watch::Sender::new(false),
            }),
        })
    }

    /// Waits until the keys match the registry. They are followed from then on until they are no longer
    /// needed.
    async fn synced(&self) -> Result<WaitingCall<'_>, DiscoveryError> {
        runtime()?;
        let inner = &self.inner;
        let mut sync = inner.sync.subscribe();
        let mut closed = inner.closed.subscribe();
        if *closed.borrow() {
            return Err(DiscoveryError::closed());
        }
        let waiting = {
            let mut state = inner.state.lock();
            if let Some(refused) = state.refusal.as_ref().and_then(RefusalBackoff::active_error) {
                return Err(refused);
            }
            state.waiting += 1;
            WaitingCall(inner)
        };
        let limit = inner.config.connect_timeout;
        let settled = async {
            loop {
                let mut running = Arc::clone(inner).ensure_followed()?;
                let settled = |sync: &SyncState| !matches!(sync, SyncState::Never | SyncState::Lost(_));
                tokio::select! {
                    biased;
                    settled = sync.wait_for(settled) => return match settled.as_deref() {
                        Ok(SyncState::Refused(error)) => Err(error.clone()),
                        _ => Ok(()),
                    },
                    // The runtime that followed the registry has shut down: follow it on this one.
                    _ = running.wait_for(|running| !running) => {}
                }
            }
        };
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Err(DiscoveryError::closed()),
            settled = timeout_at(after(limit), settled) => if let Ok(settled) = settled {
                return settled.map(|()| waiting);
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

impl fmt::Debug for EtcdDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, closed) = (self.inner.state.lock().keys.len(), *self.inner.closed.borrow());
        let mut shown = f.debug_struct("EtcdDiscovery");
        shown.field("hosts", &self.inner.hosts).field("keys", &keys).field("closed", &closed);
        shown.finish_non_exhaustive()
    }
}

#[async_trait]
impl Discovery for EtcdDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let _waiting = self.synced().await?;
        let inner = &self.inner;
        let watch = {
            let mut state = inner.state.lock();
            if *inner.closed.borrow() {
                return Err(DiscoveryError::closed());
            }
            let (view, bad) = state.keys.view(topic, &inner.layout);
            inner.report(&mut state, topic.clone(), bad);
            state.publishers.watch(view)
        };
        inner.notices.deliver(&inner.events);
        Ok(watch.with_source(Arc::<Inner>::clone(inner)))
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        let _waiting = self.synced().await?;
        Ok(self.inner.state.lock().keys.topics())
    }

    async fn brokers(&self) -> Result<Option<RegisteredBrokers>, DiscoveryError> {
        let _waiting = self.synced().await?;
        Ok(Some(self.inner.state.lock().keys.brokers(&self.inner.layout)))
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        self.inner.closed.send_replace(true);
        let ended = self.inner.state.lock().publishers.take_all();
        self.inner.notices.push(Notice::End(ended, DiscoveryError::closed()));
        self.inner.notices.deliver(&self.inner.events);
        self.inner.events.close();
    }
}

impl ViewSource for Inner {
    fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError> {
        if *self.closed.borrow() {
            return Err(DiscoveryError::closed());
        }
        let [followed, panicking, inner] = [(); 3].map(|()| Arc::clone(&self));
        let panicked = move |panic: &str| {
            let text = format!("the task that follows etcd panicked and is restarted: {panic}");
            panicking.set_lost(SyncState::Lost(DiscoveryError::new(DiscoveryErrorKind::Failed, text)));
        };
        let follow = move || Arc::clone(&followed).follow();
        self.task.ensure_running("etcd follower", follow, panicked, move || inner.is_needed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_keys() {
        let discovery = EtcdDiscovery::new("h:1").unwrap();
        for n in 0..10_000 {
            let key = format!("/meta/brokers/topics-pub/t{n}/0-m");
            let value = br#"{"numParts":1}"#;
            discovery.inner.state.lock().keys.apply(&discovery.inner.layout, key.as_bytes(), Some(value));
        }
        let shown = format!("{discovery:?}");
        assert!(shown.contains("h:1") && shown.contains("10000") && shown.len() < 1024, "{shown}");
    }
}
