//! Reading the nodes of one topic, each with a one-shot watch on it.

use std::{future::Future, sync::Arc};

use metaq_protocol::Topic;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, Error, OneshotWatcher};

use super::Inner;
use crate::{DiscoveryError, DiscoveryErrorKind};

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
        match self.call("create", &path, client.mkdir(&path, &options)).await? {
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
            match self.call("list", &path, client.list_and_watch_children(&path)).await? {
                Ok(listed) => return Ok(listed),
                Err(Error::NoNode) => {}
                Err(error) => return Err(self.inner.sessions.failed("list", &path, error)),
            }
            match self.call("watch", &path, client.check_and_watch_stat(&path)).await? {
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
            match self.call("read", path, client.get_and_watch_data(path)).await? {
                Ok((data, _, watcher)) => return Ok((Some(data), watcher)),
                Err(Error::NoNode) => {}
                Err(error) => return Err(self.inner.sessions.failed("read", path, error)),
            }
            match self.call("watch", path, client.check_and_watch_stat(path)).await? {
                Ok((None, watcher)) => return Ok((None, watcher)),
                Ok((Some(_), _)) => {} // It has appeared meanwhile.
                Err(error) => return Err(self.inner.sessions.failed("watch", path, error)),
            }
        }
    }

    /// Bounds a call in time: the client library waits while it is disconnected.
    async fn call<T>(
        &self,
        what: &str,
        path: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, DiscoveryError> {
        let limit = self.inner.config.call_timeout;
        timeout(limit, call).await.map_err(|_| {
            let text = format!(
                "ZooKeeper at {} did not {what} {path} within {limit:?}",
                self.inner.sessions.hosts()
            );
            DiscoveryError::new(DiscoveryErrorKind::Unreachable, text)
        })
    }
}
