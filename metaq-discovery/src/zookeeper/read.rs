//! Reading the nodes of one topic, each with a one-shot watch on it.

use std::{future::Future, sync::Arc};

use metaq_protocol::Topic;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, Error, OneshotWatcher};

use super::{Inner, session::is_dead};
use crate::{DiscoveryError, DiscoveryErrorKind, supervise::catch};

/// Reads the nodes of one topic.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) inner: Arc<Inner>,
    pub(super) topic: Topic,
}

impl Reader {
    /// Creates the topic's path if it isn't there and may be created.
    pub(super) async fn create(&self, client: &Client) -> Result<(), DiscoveryError> {
        let path = self.inner.layout.topic(&self.topic);
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        match self.call(client, "create", &path, client.mkdir(&path, &options)).await? {
            // Without the right to write, the path has to be made by a broker; until then its appearance is watched.
            Ok(()) | Err(Error::NodeExists | Error::NoAuth | Error::NotReadOnly) => Ok(()),
            Err(error) => Err(self.inner.sessions.failed("create", &path, error)),
        }
    }

    /// The names of the topic's children; none while there is no such topic.
    pub(super) async fn children(
        &self,
        client: &Client,
    ) -> Result<(Vec<String>, OneshotWatcher), DiscoveryError> {
        let path = self.inner.layout.topic(&self.topic);
        loop {
            match self.call(client, "list", &path, client.list_and_watch_children(&path)).await? {
                Ok(listed) => return Ok(listed),
                Err(Error::NoNode) => {}
                Err(error) => return Err(self.inner.sessions.failed("list", &path, error)),
            }
            match self.call(client, "watch", &path, client.check_and_watch_stat(&path)).await? {
                Ok((None, watcher)) => return Ok((Vec::new(), watcher)),
                Ok((Some(_), _)) => {} // It has appeared meanwhile.
                Err(error) => return Err(self.inner.sessions.failed("watch", &path, error)),
            }
        }
    }

    /// The data of a node, or none while there is no such node, and what tells when that changes.
    pub(super) async fn node(
        &self,
        client: &Client,
        path: &str,
    ) -> Result<(Option<Vec<u8>>, OneshotWatcher), DiscoveryError> {
        loop {
            match self.call(client, "read", path, client.get_and_watch_data(path)).await? {
                Ok((data, _, watcher)) => return Ok((Some(data), watcher)),
                Err(Error::NoNode) => {}
                Err(error) => return Err(self.inner.sessions.failed("read", path, error)),
            }
            match self.call(client, "watch", path, client.check_and_watch_stat(path)).await? {
                Ok((None, watcher)) => return Ok((None, watcher)),
                Ok((Some(_), _)) => {} // It has appeared meanwhile.
                Err(error) => return Err(self.inner.sessions.failed("watch", path, error)),
            }
        }
    }

    async fn call<T>(
        &self,
        client: &Client,
        what: &str,
        path: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, DiscoveryError> {
        self.inner.call(client, what, path, call).await
    }
}

impl Inner {
    /// Bounds a call in time: the client library waits while it is disconnected. A client that panics, or whose session's
    /// task has died, isn't used again.
    pub(super) async fn call<T>(
        &self,
        client: &Client,
        what: &str,
        path: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, DiscoveryError> {
        let (limit, hosts) = (self.config.call_timeout, self.sessions.hosts());
        match timeout(limit, catch(call)).await {
            Ok(Ok(result)) => {
                if result.as_ref().is_err_and(is_dead) {
                    self.sessions.discard(client);
                }
                Ok(result)
            }
            Ok(Err(panic)) => {
                self.sessions.discard(client);
                let text = format!("the client of ZooKeeper panicked when it was to {what} {path}: {panic}");
                Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text))
            }
            Err(_) => {
                let text = format!("ZooKeeper at {hosts} did not {what} {path} within {limit:?}");
                Err(DiscoveryError::new(DiscoveryErrorKind::Unreachable, text))
            }
        }
    }
}
