//! ZooKeeper, where brokers register themselves.

mod addresses;
mod brokers;
mod config;
mod connector;
mod diagnosis;
mod follow;
mod nodes;
mod open;
mod publish;
mod recheck;
mod replies;
mod session;
mod shared;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::Topic;
use tokio::{
    sync::oneshot,
    time::{timeout, timeout_at},
};

use crate::{
    Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvents, RegisteredBrokers, TopicWatch,
    backend::{connect_string::ConnectString, deadline::after, notices::Notice, task::runtime},
};
pub use config::ZooKeeperConfig;
use connector::{ConnectError, OpenedSession};
use shared::{Handle, Inner, Reply, Request, WaitingCall};

/// The time for which closing waits for the task that follows the registry. The task stops immediately,
/// except on a runtime that isn't driven.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds brokers in ZooKeeper, where they register themselves.
///
/// All topics share one session, which is opened on first use, and reopened after it has expired; one task
/// follows all of them. Each node is read and watched once. While no server can be reached, and after the
/// session has expired, the last view of each topic remains valid.
///
/// Like the Java client, it creates the path of a missing topic, so that brokers find it, but only below a
/// root that contains brokers, and if it has the right to; otherwise it waits for the path to appear.
///
/// When servers refuse the settings, because of certificates or credentials, [`watch`](Discovery::watch) and
/// [`topics`](Discovery::topics) fail immediately with the reason. The next attempt is made after a backoff
/// that grows from 200 ms to 5 s and is shared by all callers; calls in between return the same error.
#[derive(Clone, Debug)]
pub struct ZooKeeperDiscovery {
    inner: Arc<Inner>,
    /// Notifies the task when the last handle is dropped.
    _handle: Arc<Handle>,
}

impl ZooKeeperDiscovery {
    /// Creates a discovery with the default settings. `connect` is `HOST:PORT,HOST:PORT/ROOT`, optionally
    /// with `zk://` in front; without a root, under which the brokers register, `/meta` is used.
    ///
    /// # Errors
    /// When `connect` is malformed. Nothing is connected to yet.
    pub fn new(connect: &str) -> Result<Self, DiscoveryError> {
        Self::with_config(connect, ZooKeeperConfig::default())
    }

    /// Creates a discovery with other settings.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and when a duration is zero.
    pub fn with_config(connect: &str, config: ZooKeeperConfig) -> Result<Self, DiscoveryError> {
        let ConnectString { hosts, layout } = ConnectString::parse("ZooKeeper", "zk://", connect)?;
        #[cfg(feature = "tls")]
        if config.tls.is_some() {
            // The client library would panic.
            hosts
                .iter()
                .try_for_each(|host| crate::backend::tls::server_name("ZooKeeper", host).map(drop))?;
        }
        let inner = Arc::new(Inner::new(&hosts, layout, config.checked()?));
        let handle = Arc::new(Handle::new(Arc::clone(&inner)));
        Ok(Self { inner, _handle: handle })
    }

    /// Sends a request to the task that follows the registry and waits for its reply, until the connect
    /// timeout or until the discovery is closed.
    async fn ask<T>(&self, request: impl Fn(Reply<T>) -> Request) -> Result<T, DiscoveryError> {
        let inner = &self.inner;
        runtime()?;
        let deadline = after(inner.config.connect_timeout);
        let mut closed = inner.closed.subscribe();
        if *closed.borrow() {
            return Err(DiscoveryError::closed());
        }
        let _waiting = WaitingCall::begin(inner)?;
        let answer = async {
            loop {
                let (reply, answer) = oneshot::channel();
                inner.shared.lock().request(request(reply));
                let mut running = Arc::clone(inner).ensure_followed()?;
                inner.wake.notify_one();
                tokio::select! {
                    biased;
                    // Otherwise the request was lost with a session or a runtime.
                    answer = answer => if let Ok(answer) = answer {
                        return answer;
                    },
                    // The runtime has shut down before the task received the request.
                    _ = running.wait_for(|running| !running) => {}
                }
            }
        };
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(DiscoveryError::closed()),
            answer = timeout_at(deadline, answer) => answer.unwrap_or_else(|_| Err(inner.timeout_error())),
        }
    }
}

#[async_trait]
impl Discovery for ZooKeeperDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        self.ask(|reply| Request::Watch(topic.clone(), reply)).await
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        self.ask(Request::Topics).await
    }

    async fn brokers(&self) -> Result<Option<RegisteredBrokers>, DiscoveryError> {
        runtime()?;
        let (inner, connector) = (&self.inner, &self.inner.connector);
        if *inner.closed.borrow() {
            return Err(DiscoveryError::closed());
        }
        // In a session of its own: the one that follows topics keeps a table of what it has read.
        let listed = async {
            let opened = connector.connect(|_| {}).await.map_err(|error| match error {
                ConnectError::Refused(error) => error,
                error => connector.unreachable(Some(error)),
            })?;
            let listed = brokers::list(&opened.client, &inner.layout).await;
            listed.map_err(|(path, error)| connector.failed("read", &path, error))
        };
        let listed = timeout(inner.config.connect_timeout, listed).await;
        listed.unwrap_or_else(|_| Err(inner.timeout_error())).map(Some)
    }

    async fn explain_absence(&self, _: &Topic) -> Option<String> {
        runtime().ok()?;
        let OpenedSession { client, .. } = self.inner.connector.connect(|_| {}).await.ok()?;
        diagnosis::explain_empty_root(&client, &self.inner.layout).await
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        let inner = &self.inner;
        inner.closed.send_replace(true);
        if runtime().is_ok() {
            let _ = timeout(CLOSE_TIMEOUT, inner.task.stopped()).await;
        }
        let ended = inner.shared.lock().publishers.take_all();
        inner.notices.push(Notice::End(ended, DiscoveryError::closed()));
        inner.notices.deliver(&inner.events);
        inner.events.close();
    }
}

impl Inner {
    /// The error for callers that waited until their deadline.
    fn timeout_error(&self) -> DiscoveryError {
        let shared = self.shared.lock();
        if !shared.is_open {
            return self.connector.unreachable(shared.connect_error.clone());
        }
        let (hosts, limit) = (self.connector.hosts(), self.config.connect_timeout);
        let text = format!("ZooKeeper at {hosts} did not answer within {limit:?}");
        DiscoveryError::new(DiscoveryErrorKind::Unreachable, text)
    }
}
