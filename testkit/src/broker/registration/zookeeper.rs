//! A session with ZooKeeper.

use std::{io, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{net::TcpStream, time::timeout};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, Stat};

use super::session::{ExistingEntry, REGISTER_TIMEOUT, Session};

/// The time limit of a call: the library waits while it is disconnected.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The limit on finding out why a server can't be connected to.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

struct ZooKeeperSession {
    client: Client,
    /// The time to wait for the node of a former process. ZooKeeper doesn't report the timeout of another
    /// session, so this session's, and a margin, stands for it.
    max_lifetime: Duration,
}

pub(super) async fn connect(hosts: &[String], session_timeout: Duration) -> io::Result<Box<dyn Session>> {
    let joined = hosts.join(",");
    // A session that outlives its client, like that of a killed process.
    let connector =
        Client::connector().with_session_timeout(session_timeout).with_detached().with_fail_eagerly();
    let client = match timeout(CALL_TIMEOUT, connector.connect(&joined)).await {
        Ok(Ok(client)) => client,
        Ok(Err(Error::NoHosts)) => return Err(io::Error::other(no_hosts(hosts).await)),
        Ok(Err(error)) => return Err(call_error("connect to", &joined, &error)),
        Err(_) => return call("connect to", &joined, std::future::pending()).await,
    };
    Ok(Box::new(ZooKeeperSession { client, max_lifetime: session_timeout + REGISTER_TIMEOUT }))
}

/// Describes why no server can be connected to: the library has one error for all reasons.
async fn no_hosts(hosts: &[String]) -> String {
    let reasons =
        hosts.iter().map(async |host| match timeout(PROBE_TIMEOUT, TcpStream::connect(host)).await {
            Ok(Ok(_)) => format!("{host} accepts connections, but begins no session"),
            Ok(Err(error)) => format!("{host}: {error}"),
            Err(_) => format!("{host}: no connection within {PROBE_TIMEOUT:?}"),
        });
    format!("no server of ZooKeeper can be used: {}", join_all(reasons).await.join("; "))
}

async fn call<T>(what: &str, path: &str, made: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
    match timeout(CALL_TIMEOUT, made).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(call_error(what, path, &error)),
        Err(_) => {
            Err(io::Error::other(format!("ZooKeeper took longer than {CALL_TIMEOUT:?} to {what} {path}")))
        }
    }
}

fn call_error(what: &str, path: &str, error: &Error) -> io::Error {
    io::Error::other(format!("ZooKeeper failed to {what} {path}: {error}"))
}

impl ZooKeeperSession {
    async fn make_parents(&self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => {
                call("create", parent, self.client.mkdir(parent, &PERSISTENT)).await
            }
            _ => Ok(()),
        }
    }

    async fn read(&self, path: &str) -> io::Result<Option<(String, Stat)>> {
        let read = async {
            match self.client.get_data(path).await {
                Ok((data, stat)) => Ok(Some((String::from_utf8_lossy(&data).into_owned(), stat))),
                Err(Error::NoNode) => Ok(None),
                Err(error) => Err(error),
            }
        };
        call("read", path, read).await
    }
}

#[async_trait]
impl Session for ZooKeeperSession {
    fn number(&self) -> i64 {
        self.client.session_id().0
    }

    async fn create(&self, path: &str, text: &str) -> io::Result<Option<ExistingEntry>> {
        self.make_parents(path).await?;
        loop {
            let created = timeout(CALL_TIMEOUT, self.client.create(path, text.as_bytes(), &EPHEMERAL)).await;
            match created {
                Ok(Ok(_)) => return Ok(None),
                Ok(Err(Error::NodeExists)) => {}
                Ok(Err(error)) => return Err(call_error("create", path, &error)),
                Err(_) => return call("create", path, std::future::pending()).await,
            }
            let Some((text, stat)) = self.read(path).await? else { continue };
            let session = Some(stat.ephemeral_owner).filter(|owner| *owner != 0);
            return Ok(Some(ExistingEntry {
                session,
                text,
                max_lifetime: self.max_lifetime,
                revision: stat.czxid,
            }));
        }
    }

    async fn wait_until_gone(&self, path: &str, existing: &ExistingEntry) -> io::Result<()> {
        loop {
            let (stat, watcher) = call("look at", path, self.client.check_and_watch_stat(path)).await?;
            if stat.is_none_or(|stat| stat.czxid != existing.revision) {
                return Ok(());
            }
            let _ = watcher.changed().await;
        }
    }

    async fn write(&self, path: &str, text: &str, _held: &str) -> io::Result<i64> {
        // The nodes of this session exist as long as the session, and writing takes a session.
        call("create", path, self.client.mkdir(path, &PERSISTENT)).await?;
        let written = call("write", path, self.client.set_data(path, text.as_bytes(), None)).await?;
        Ok(written.version.into())
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        let Some((_, stat)) = self.read(path).await? else { return Ok(()) };
        if stat.ephemeral_owner != self.number() {
            return Ok(());
        }
        let removed = async {
            match self.client.delete(path, Some(stat.version)).await {
                Err(Error::NoNode | Error::BadVersion) => Ok(()),
                other => other,
            }
        };
        call("remove", path, removed).await
    }

    async fn remove_or_empty(&self, path: &str, version: i64) -> io::Result<()> {
        let Ok(version) = i32::try_from(version) else { return Ok(()) };
        let removed = async {
            let removed = match self.client.delete(path, Some(version)).await {
                Err(Error::NotEmpty) => self.client.set_data(path, &[], Some(version)).await.map(drop),
                other => other,
            };
            match removed {
                Err(Error::NoNode | Error::BadVersion) => Ok(()),
                other => other,
            }
        };
        call("remove", path, removed).await
    }

    async fn wait_until_ended(&self) {
        let mut states = self.client.state_watcher();
        while !states.peek_state().is_terminated() {
            states.changed().await;
        }
    }

    async fn end(&self) -> io::Result<()> {
        // A detached session can't be closed; without entries it may expire.
        Ok(())
    }
}
