//! A session with etcd: a lease that is kept alive.

use std::{io, time::Duration};

use async_trait::async_trait;
use etcd_client::{Client, ConnectOptions, Error, PutOptions};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::Session;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(5);

struct EtcdSession {
    client: Client,
    lease: i64,
    keeping: JoinHandle<()>,
    ended: watch::Receiver<bool>,
}

impl Drop for EtcdSession {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

pub(super) async fn connect(hosts: &[String], session_timeout: Duration) -> io::Result<Box<dyn Session>> {
    let options = ConnectOptions::new().with_connect_timeout(CALL).with_timeout(CALL);
    let mut client = call("connect to", &hosts.join(","), Client::connect(hosts, Some(options))).await?;
    let seconds = session_timeout.as_secs().max(1).cast_signed();
    let granted = call("grant", "a lease", client.lease_grant(seconds, None)).await?;
    let lease = granted.id();
    // A keep-alive is a stream that stays open, which the deadline of calls would end.
    let endless = ConnectOptions::new().with_connect_timeout(CALL);
    let keeper = call("connect to", &hosts.join(","), Client::connect(hosts, Some(endless))).await?;
    let (end, ended) = watch::channel(false);
    let keeping = tokio::spawn(async move {
        // The error is that the lease is lost, or that nobody answers, which comes to the same.
        let _ = keep_alive(keeper, lease, session_timeout).await;
        end.send_replace(true);
    });
    Ok(Box::new(EtcdSession { client, lease, keeping, ended }))
}

/// Renews the lease until it is lost.
async fn keep_alive(mut client: Client, lease: i64, session_timeout: Duration) -> Result<(), Error> {
    let gone = |text: &str| Error::LeaseKeepAliveError(text.to_owned());
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    loop {
        keeper.keep_alive().await?;
        let answer = timeout(session_timeout, answers.message()).await;
        let answer = answer.map_err(|_| gone("no answer"))??;
        if answer.is_none_or(|answer| answer.ttl() <= 0) {
            return Err(gone("the lease has expired"));
        }
        sleep(session_timeout / 3).await;
    }
}

async fn call<T>(what: &str, path: &str, made: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
    match timeout(CALL, made).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(io::Error::other(format!("etcd failed to {what} {path}: {error}"))),
        Err(_) => Err(io::Error::other(format!("etcd took longer than {CALL:?} to {what} {path}"))),
    }
}

#[async_trait]
impl Session for EtcdSession {
    async fn create(&self, path: &str, text: &str) -> io::Result<()> {
        let options = PutOptions::new().with_lease(self.lease);
        call("write", path, self.client.clone().put(path, text, Some(options))).await.map(drop)
    }

    async fn write(&self, path: &str, text: &str) -> io::Result<()> {
        call("write", path, self.client.clone().put(path, text, None)).await.map(drop)
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        call("remove", path, self.client.clone().delete(path, None)).await.map(drop)
    }

    async fn remove_or_empty(&self, path: &str) -> io::Result<()> {
        // Nothing lies below a key.
        self.remove(path).await
    }

    async fn ended(&self) {
        // The sender goes only with this.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    async fn end(&self) -> io::Result<()> {
        call("revoke", "a lease", self.client.clone().lease_revoke(self.lease)).await.map(drop)
    }
}
