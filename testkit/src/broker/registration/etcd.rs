//! A session with etcd: a lease that is kept alive.

use std::{io, time::Duration};

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, EventType, KeyValue, PutOptions, Txn, TxnOp,
    TxnOpResponse, TxnResponse, WatchOptions,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::session::{ExistingEntry, Session};

/// The time limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for which an entry may outlive its lease: etcd examines leases twice a second, and its members
/// have to agree on the end of one.
const EXPIRY_MARGIN: Duration = Duration::from_secs(4);

struct EtcdSession {
    client: Client,
    /// A client for streams, without the time limit of calls.
    streams: Client,
    lease: i64,
    /// The leases of former sessions of the same broker.
    former_sessions: Vec<i64>,
    renewal: JoinHandle<()>,
    ended: watch::Receiver<bool>,
}

impl Drop for EtcdSession {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

pub(super) async fn connect(
    hosts: &[String],
    session_timeout: Duration,
    former_sessions: &[i64],
) -> io::Result<Box<dyn Session>> {
    let options = ConnectOptions::new().with_connect_timeout(CALL_TIMEOUT).with_timeout(CALL_TIMEOUT);
    let mut client = call("connect to", &hosts.join(","), Client::connect(hosts, Some(options))).await?;
    let seconds = session_timeout.as_secs().max(1).cast_signed();
    let granted = call("grant", "a lease", client.lease_grant(seconds, None)).await?;
    let lease = granted.id();
    let endless = ConnectOptions::new().with_connect_timeout(CALL_TIMEOUT);
    let streams = call("connect to", &hosts.join(","), Client::connect(hosts, Some(endless))).await?;
    let (end, ended) = watch::channel(false);
    let lease_client = streams.clone();
    let renewal = tokio::spawn(async move {
        // A lost lease and an etcd that doesn't respond both end the session.
        let _ = keep_alive(lease_client, lease, session_timeout).await;
        end.send_replace(true);
    });
    Ok(Box::new(EtcdSession {
        client,
        streams,
        lease,
        former_sessions: former_sessions.to_vec(),
        renewal,
        ended,
    }))
}

/// Renews the lease until it is lost.
async fn keep_alive(mut client: Client, lease: i64, session_timeout: Duration) -> Result<(), Error> {
    let lost = |text: &str| Error::LeaseKeepAliveError(text.to_owned());
    let (mut requests, mut responses) = client.lease_keep_alive(lease).await?;
    loop {
        requests.keep_alive().await?;
        let answer = timeout(session_timeout, responses.message()).await;
        let answer = answer.map_err(|_| lost("no answer"))??;
        if answer.is_none_or(|answer| answer.ttl() <= 0) {
            return Err(lost("the lease has expired"));
        }
        sleep(session_timeout / 3).await;
    }
}

async fn call<T>(what: &str, path: &str, made: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
    match timeout(CALL_TIMEOUT, made).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(call_error(what, path, &error)),
        Err(_) => Err(io::Error::other(format!("etcd took longer than {CALL_TIMEOUT:?} to {what} {path}"))),
    }
}

fn call_error(what: &str, path: &str, error: &Error) -> io::Error {
    io::Error::other(format!("etcd failed to {what} {path}: {error}"))
}

/// Returns the entry that a transaction has read.
fn entry(answer: &TxnResponse) -> Option<KeyValue> {
    answer.op_responses().into_iter().find_map(|response| match response {
        TxnOpResponse::Get(got) => got.kvs().first().cloned(),
        _ => None,
    })
}

impl EtcdSession {
    fn owns(&self, entry: &KeyValue) -> bool {
        entry.lease() == self.lease || (entry.lease() != 0 && self.former_sessions.contains(&entry.lease()))
    }

    async fn txn(&self, what: &str, path: &str, txn: Txn) -> io::Result<TxnResponse> {
        call(what, path, self.client.clone().txn(txn)).await
    }

    async fn existing(&self, path: &str, entry: &KeyValue, revision: i64) -> io::Result<ExistingEntry> {
        let text = String::from_utf8_lossy(entry.value()).into_owned();
        if entry.lease() == 0 {
            return Ok(ExistingEntry { session: None, text, max_lifetime: Duration::ZERO, revision });
        }
        let mut client = self.client.clone();
        let asked = client.lease_time_to_live(entry.lease(), None);
        let left = call("look at the lease of", path, asked).await?.ttl();
        // Rounded up to whole seconds; negative when the lease has expired meanwhile.
        let left = u64::try_from(left).map_or(0, |seconds| seconds.saturating_add(1));
        let max_lifetime = Duration::from_secs(left).min(crate::MAX_DURATION) + EXPIRY_MARGIN;
        Ok(ExistingEntry { session: Some(entry.lease()), text, max_lifetime, revision })
    }
}

#[async_trait]
impl Session for EtcdSession {
    fn number(&self) -> i64 {
        self.lease
    }

    async fn create(&self, path: &str, text: &str) -> io::Result<Option<ExistingEntry>> {
        let mut revision = 0;
        loop {
            // Succeeds without an entry, or with an entry of this broker at this revision.
            let unchanged = match revision {
                0 => Compare::create_revision(path, CompareOp::Equal, 0),
                revision => Compare::mod_revision(path, CompareOp::Equal, revision),
            };
            let put = TxnOp::put(path, text, Some(PutOptions::new().with_lease(self.lease)));
            let txn = Txn::new().when([unchanged]).and_then([put]).or_else([TxnOp::get(path, None)]);
            let answer = self.txn("create", path, txn).await?;
            if answer.succeeded() {
                return Ok(None);
            }
            revision = match entry(&answer) {
                Some(entry) if self.owns(&entry) => entry.mod_revision(),
                Some(entry) => {
                    let read_at =
                        answer.header().map_or_else(|| entry.mod_revision(), |header| header.revision());
                    return self.existing(path, &entry, read_at).await.map(Some);
                }
                // The entry was removed in between.
                None => 0,
            };
        }
    }

    async fn wait_until_gone(&self, path: &str, existing: &ExistingEntry) -> io::Result<()> {
        let options = WatchOptions::new().with_start_revision(existing.revision + 1);
        let mut client = self.streams.clone();
        let mut changes = call("watch", path, client.watch(path, Some(options))).await?;
        loop {
            let change = match changes.message().await {
                Ok(Some(change)) => change,
                Ok(None) => return Err(io::Error::other(format!("etcd has ended the watch of {path}"))),
                Err(error) => return Err(call_error("watch", path, &error)),
            };
            // The watch is canceled when etcd has dropped the changes since that revision.
            if change.canceled()
                || change.events().iter().any(|event| event.event_type() == EventType::Delete)
            {
                return Ok(());
            }
        }
    }

    async fn write(&self, path: &str, text: &str, held: &str) -> io::Result<i64> {
        let is_held = Compare::lease(held, CompareOp::Equal, self.lease);
        let txn = Txn::new().when([is_held]).and_then([TxnOp::put(path, text, None)]);
        let answer = self.txn("write", path, txn).await?;
        match answer.header() {
            Some(header) if answer.succeeded() => Ok(header.revision()),
            _ => Err(io::Error::other(format!("{path} was not written: the lease of {held} has expired"))),
        }
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        loop {
            let found = call("read", path, self.client.clone().get(path, None)).await?;
            let Some(entry) = found.kvs().first().filter(|entry| self.owns(entry)) else { return Ok(()) };
            let unchanged = Compare::mod_revision(path, CompareOp::Equal, entry.mod_revision());
            let txn = Txn::new().when([unchanged]).and_then([TxnOp::delete(path, None)]);
            if self.txn("remove", path, txn).await?.succeeded() {
                return Ok(());
            }
        }
    }

    async fn remove_or_empty(&self, path: &str, version: i64) -> io::Result<()> {
        // Nothing lies below a key.
        let unchanged = Compare::mod_revision(path, CompareOp::Equal, version);
        let txn = Txn::new().when([unchanged]).and_then([TxnOp::delete(path, None)]);
        self.txn("remove", path, txn).await.map(drop)
    }

    async fn wait_until_ended(&self) {
        // The sender lives as long as this session.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    async fn end(&self) -> io::Result<()> {
        call("revoke", "a lease", self.client.clone().lease_revoke(self.lease)).await.map(drop)
    }
}
