//! Reading the keys, and following them by a watch from the next revision on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

#[cfg(feature = "tls")]
use etcd_client::{Certificate, Identity, TlsOptions};
use etcd_client::{Client, ConnectOptions, EventType, GetOptions, WatchOptions, WatchResponse};
use futures_util::FutureExt as _;
use metaq_protocol::Topic;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Inner, State, SyncState, read::Keys};
use crate::{
    DiscoveryError, DiscoveryErrorKind, DiscoveryEvent,
    deadline::after,
    notices::Notice,
    registry::Layout,
    reports::{Bad, tell},
    supervise::log,
};

/// Pauses after all servers have failed grow from the first to the last, in milliseconds.
const PAUSES_MS: [u64; 3] = [50, 200, 500];

/// How often it is looked whether anybody still needs the keys.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Keys are read in portions of so many, as an answer is bounded.
const PORTION: i64 = 1000;

/// Says that the keys are no longer those of the registry when nothing follows it any more, the runtime's end included.
struct Unsynced<'a>(&'a Inner);

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        if matches!(*self.0.sync.borrow(), SyncState::Synced) {
            self.0.sync.send_replace(SyncState::Never);
        }
    }
}

impl Inner {
    /// Follows the registry until nobody needs it or the discovery is closed.
    pub(super) async fn follow(self: Arc<Self>) {
        let _unsynced = Unsynced(&self);
        let mut closed = self.closed.subscribe();
        tokio::select! {
            () = self.follow_always() => {}
            () = self.unused() => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
    }

    /// Waits until nobody needs the keys.
    async fn unused(&self) {
        while self.is_needed() {
            sleep(IDLE_CHECK).await;
        }
    }

    /// Whether somebody watches a topic, or waits for the keys.
    pub(super) fn is_needed(&self) -> bool {
        let mut state = self.state.lock();
        !*self.closed.borrow() && (state.waiting > 0 || !state.publishers.topics().is_empty())
    }

    /// Says that the registry can't be read.
    pub(super) fn lost(&self, error: DiscoveryError) {
        self.sync.send_replace(SyncState::Lost(error));
        let was_there = std::mem::take(&mut self.state.lock().connected);
        if was_there {
            self.events.send(DiscoveryEvent::Lost);
        }
    }

    /// Queues what wasn't told yet of the entries that can't be used.
    pub(super) fn report(&self, state: &mut State, topic: Topic, bad: Vec<Bad>) {
        let new = state.reports.report(topic, bad);
        new.into_iter().for_each(|entry| self.notices.push(Notice::BadEntry(entry)));
    }

    async fn follow_always(&self) {
        let mut failures = 0;
        #[cfg(feature = "tls")]
        let mut refusals = 0;
        loop {
            let host = self.state.lock().host % self.hosts.len();
            let Err(error) = self.follow_host(&self.hosts[host], &mut failures).await else {
                continue; // Everything is to be read anew.
            };
            if failures == 0 {
                log(|| tracing::warn!(%error, "etcd can't be read; the last views hold"));
            }
            self.lost(error);
            #[cfg(feature = "tls")]
            if let Some(refusal) = self.refusal(&self.hosts[host]).await {
                refusals = if refusal.kind() == DiscoveryErrorKind::Failed { refusals + 1 } else { 0 };
                let lost = if refusals < self.hosts.len() { SyncState::Lost } else { SyncState::Refused };
                self.sync.send_replace(lost(refusal));
            } else {
                refusals = 0;
            }
            self.state.lock().host = (host + 1) % self.hosts.len();
            let rounds = failures / self.hosts.len();
            failures += 1;
            if failures % self.hosts.len() == 0 {
                sleep(Duration::from_millis(PAUSES_MS[rounds.min(PAUSES_MS.len() - 1)])).await;
            }
        }
    }

    /// Why TLS fails with a server, or none if that isn't the matter.
    #[cfg(feature = "tls")]
    async fn refusal(&self, host: &str) -> Option<DiscoveryError> {
        let tls = self.config.tls.as_ref()?;
        tls.refusal("etcd", host, &self.server_name(host).ok()?).await
    }

    /// The name that the certificate of a server has to hold for.
    #[cfg(feature = "tls")]
    fn server_name(&self, host: &str) -> Result<String, DiscoveryError> {
        match &self.config.server_name {
            Some(name) => Ok(name.clone()),
            None => crate::tls::server_name("etcd", host),
        }
    }

    /// Reads everything from one server, and applies what changes until it is to be read anew.
    async fn follow_host(&self, host: &str, failures: &mut usize) -> Result<(), DiscoveryError> {
        let failed = |what: &str, error: etcd_client::Error| {
            let text = format!("etcd at {host} failed to {what}");
            DiscoveryError::with_source(DiscoveryErrorKind::Failed, text, error)
        };
        let silent = |what: &str| {
            let text = format!("etcd at {host} did not {what} within {:?}", self.config.call_timeout);
            DiscoveryError::new(DiscoveryErrorKind::Unreachable, text)
        };
        let prefix = self.layout.brokers();
        let limit = self.config.call_timeout;
        let connect = Client::connect([host], Some(self.options(host)?));
        let connected = timeout(limit, connect).await.map_err(|_| silent("let us in"))?;
        let mut client = connected.map_err(|error| failed("let us in", error))?;
        let (keys, revision) = self.read(&mut client, &prefix, failed, silent).await?;
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let watched = timeout(limit, client.watch(prefix.as_str(), Some(options))).await;
        let mut changes = watched.map_err(|_| silent("watch"))?.map_err(|error| failed("watch", error))?;
        {
            let mut state = self.state.lock();
            state.keys = keys;
            self.publish(&mut state, &Affected { all: true, ..Affected::default() });
        }
        self.notices.deliver(&self.events);
        if *failures > 0 {
            log(|| tracing::info!(host, "etcd is read again"));
        }
        *failures = 0;
        self.sync.send_replace(SyncState::Synced);
        let was_there = std::mem::replace(&mut self.state.lock().connected, true);
        if !was_there {
            self.events.send(DiscoveryEvent::Connected);
        }
        let reread = after(self.config.reread_interval);
        loop {
            let due = self.state.lock().reports.due().unwrap_or(reread).min(reread);
            let change = timeout_at(due, changes.message()).await;
            let lasting = self.state.lock().reports.lasting();
            lasting.iter().for_each(|entry| tell(entry, &self.events));
            let Ok(change) = change else {
                if Instant::now() >= reread {
                    return Ok(());
                }
                continue;
            };
            let (mut next, mut burst) = (Some(change), Vec::new());
            // A burst of changes makes one view.
            while let Some(change) = next {
                let change = change.map_err(|error| failed("watch", error))?;
                let change = change.ok_or_else(|| silent("go on to watch"))?;
                // The stream stays open then, without an error and without any change.
                if change.canceled() {
                    if change.compact_revision() > 0 {
                        let revision = change.compact_revision();
                        log(|| {
                            let text = "etcd forgot changes that were to come; all is read anew";
                            tracing::info!(host, revision, "{text}");
                        });
                        return Ok(());
                    }
                    let text = format!("etcd at {host} ended the watch: {}", change.cancel_reason());
                    return Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text));
                }
                burst.push(change);
                next = changes.message().now_or_never();
            }
            {
                let (mut state, mut affected) = (self.state.lock(), Affected::default());
                burst.iter().for_each(|change| apply(&mut state, change, &self.layout, &mut affected));
                self.publish(&mut state, &affected);
            }
            self.notices.deliver(&self.events);
        }
    }

    /// All keys of the registry, and the revision at which they were read.
    async fn read(
        &self,
        client: &mut Client,
        prefix: &str,
        failed: impl Fn(&str, etcd_client::Error) -> DiscoveryError,
        silent: impl Fn(&str) -> DiscoveryError,
    ) -> Result<(Keys, i64), DiscoveryError> {
        let (mut keys, mut revision) = (Keys::default(), 0);
        let mut from = prefix.as_bytes().to_vec();
        // The slash at the end of the prefix made one greater is behind all of its keys.
        let end = [&prefix.as_bytes()[..prefix.len() - 1], b"0"].concat();
        loop {
            let options =
                GetOptions::new().with_range(end.clone()).with_limit(PORTION).with_revision(revision);
            let read = timeout(self.config.call_timeout, client.get(from, Some(options))).await;
            let mut answer =
                read.map_err(|_| silent("answer"))?.map_err(|error| failed("read the registry", error))?;
            revision = match revision {
                0 => answer.header().map_or(0, |header| header.revision()),
                known => known,
            };
            let kvs = answer.take_kvs();
            from = kvs.last().map(|kv| [kv.key(), b"\0"].concat()).unwrap_or_default();
            kvs.into_iter()
                .map(|kv| kv.into_key_value())
                .for_each(|(key, value)| keys.apply(&key, Some(value)));
            if !answer.more() || from.is_empty() {
                return Ok((keys, revision));
            }
        }
    }

    #[cfg_attr(not(feature = "tls"), expect(unused_variables, clippy::unnecessary_wraps, reason = "for TLS"))]
    fn options(&self, host: &str) -> Result<ConnectOptions, DiscoveryError> {
        let (limit, keep_alive) = (self.config.call_timeout, self.config.keep_alive);
        // Without being asked while it is idle, a server that is gone would leave a watch waiting for ever.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(limit)
            .with_keep_alive(keep_alive, keep_alive)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(credentials) = &self.config.credentials {
            options = options.with_user(credentials.name(), credentials.password());
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.config.tls {
            let mut shown = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(tls.ca()))
                .domain_name(self.server_name(host)?);
            if let Some((certificate, key)) = tls.identity() {
                shown = shown.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(shown);
        }
        Ok(options)
    }

    /// Queues what the keys say of the watched topics that are `affected`.
    fn publish(&self, state: &mut State, affected: &Affected) {
        let topics = state.publishers.topics();
        state.reports.retain(|topic| topics.binary_search(topic).is_ok());
        for topic in topics {
            if affected.has(&topic) {
                let (view, bad) = state.keys.view(&topic, &self.layout);
                self.notices.push(Notice::View(state.publishers.of(&topic), view));
                self.report(state, topic, bad);
            }
        }
    }
}

/// The topics whose views may be others after a change.
#[derive(Debug, Default)]
struct Affected {
    all: bool,
    topics: BTreeSet<Topic>,
}

impl Affected {
    /// That a key has changed.
    fn add(&mut self, key: &[u8], layout: &Layout) {
        self.all |= key.starts_with(layout.ids().as_bytes());
        self.topics.extend(layout.topic_of(key));
    }

    fn has(&self, topic: &Topic) -> bool {
        self.all || self.topics.contains(topic)
    }
}

/// Applies what a watch tells.
fn apply(state: &mut State, change: &WatchResponse, layout: &Layout, affected: &mut Affected) {
    for event in change.events() {
        let Some(kv) = event.kv() else { continue };
        affected.add(kv.key(), layout);
        match event.event_type() {
            EventType::Put => state.keys.apply(kv.key(), Some(kv.value().to_vec())),
            EventType::Delete => state.keys.apply(kv.key(), None),
        }
    }
}
