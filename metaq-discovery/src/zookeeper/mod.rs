//! ZooKeeper, where brokers register themselves.

mod addresses;
mod config;
mod connector;
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
    Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvents, TopicWatch,
    backend::{connect_string::ConnectString, deadline::after, notices::Notice, task::runtime},
};
pub use config::ZooKeeperConfig;
use shared::{Handle, Inner, Reply, Request, WaitingCall};

/// The time for which closing waits for the task that follows the registry. It ends at once, but on a runtime that isn't driven
/// it doesn't.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds brokers in ZooKeeper, where they register themselves.
///
/// All topics share one session, which is opened at the first use, and opened anew after it has ended; one task follows all
/// of them. Each node is read and watched once. While no server can be reached, and after the session has expired, the last
/// view of each topic holds.
///
/// Like the Java client, it creates the path of a topic that isn't there, so that brokers find it, but only
/// below a root that holds brokers, and where that is allowed; otherwise it waits for the path to appear.
///
/// When servers refuse to be used as configured, because of certificates or credentials, [`watch`](Discovery::watch) and
/// [`topics`](Discovery::topics) fail at once with the reason. They are asked again after pauses that grow from 200 ms to
/// 5 s, whoever asks; calls in between return the same error.
#[derive(Clone, Debug)]
pub struct ZooKeeperDiscovery {
    inner: Arc<Inner>,
    /// Tells the task when nobody can use the discovery any more.
    _handle: Arc<Handle>,
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

    /// Has the task that follows the registry answer a request, but not beyond the connect timeout nor the closing of the
    /// discovery.
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
                    // Otherwise the request has ended with a session or a runtime.
                    answer = answer => if let Ok(answer) = answer {
                        return answer;
                    },
                    // The runtime has ended before the request was taken up.
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
    /// The error of who has waited for too long.
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
