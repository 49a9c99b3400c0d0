//! A session with ZooKeeper.

use std::{io, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

use super::Session;

/// How long a call may take: the library waits while it is disconnected.
const CALL: Duration = Duration::from_secs(5);

const LASTING: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

struct ZooKeeperSession(Client);

pub(super) async fn connect(hosts: &[String], session_timeout: Duration) -> io::Result<Box<dyn Session>> {
    let hosts = hosts.join(",");
    // A session that outlives its client, as that of a process that is killed does.
    let connector =
        Client::connector().with_session_timeout(session_timeout).with_detached().with_fail_eagerly();
    let client = call("connect to", &hosts, connector.connect(&hosts)).await?;
    Ok(Box::new(ZooKeeperSession(client)))
}

async fn call<T>(what: &str, path: &str, made: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
    match timeout(CALL, made).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(what, path, &error)),
        Err(_) => Err(io::Error::other(format!("ZooKeeper took longer than {CALL:?} to {what} {path}"))),
    }
}

fn failed(what: &str, path: &str, error: &Error) -> io::Error {
    io::Error::other(format!("ZooKeeper failed to {what} {path}: {error}"))
}

impl ZooKeeperSession {
    async fn make_parents(&self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => {
                call("create", parent, self.0.mkdir(parent, &LASTING)).await
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Session for ZooKeeperSession {
    async fn create(&self, path: &str, text: &str) -> io::Result<()> {
        self.make_parents(path).await?;
        loop {
            let created = timeout(CALL, self.0.create(path, text.as_bytes(), &EPHEMERAL)).await;
            match created {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(Error::NodeExists)) => {}
                Ok(Err(error)) => return Err(failed("create", path, &error)),
                Err(_) => return call("create", path, std::future::pending()).await,
            }
            let (stat, watcher) = call("look at", path, self.0.check_and_watch_stat(path)).await?;
            // The node of a former process goes with its session.
            if stat.is_some() {
                tokio::select! {
                    _ = watcher.changed() => {}
                    () = self.ended() => return Err(failed("create", path, &Error::SessionExpired)),
                }
            }
        }
    }

    async fn write(&self, path: &str, text: &str) -> io::Result<()> {
        call("create", path, self.0.mkdir(path, &LASTING)).await?;
        call("write", path, self.0.set_data(path, text.as_bytes(), None)).await.map(drop)
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        let removed = async {
            match self.0.delete(path, None).await {
                Err(Error::NoNode) => Ok(()),
                other => other,
            }
        };
        call("remove", path, removed).await
    }

    async fn remove_or_empty(&self, path: &str) -> io::Result<()> {
        let removed = async {
            match self.0.delete(path, None).await {
                Err(Error::NoNode) => Ok(()),
                Err(Error::NotEmpty) => self.0.set_data(path, &[], None).await.map(drop),
                other => other,
            }
        };
        call("remove", path, removed).await
    }

    async fn ended(&self) {
        let mut states = self.0.state_watcher();
        while !states.peek_state().is_terminated() {
            states.changed().await;
        }
    }

    async fn end(&self) -> io::Result<()> {
        // A detached session can't be closed; without entries it may as well expire.
        Ok(())
    }
}
