//! Reading the keys, and following them by a watch from the next revision on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use etcd_client::{EventType, WatchResponse};
use futures_util::FutureExt as _;
use metaq_protocol::Topic;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    Inner, State, SyncState,
    refusal::{Refusal, Refused},
    server::{Failure, Server},
};
#[cfg(feature = "tls")]
use crate::{DiscoveryError, DiscoveryErrorKind};
use crate::{
    DiscoveryEvent,
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

/// Says that the keys are no longer those of the registry when nothing follows it any more, the runtime's end included.
struct Unsynced<'a>(&'a Inner);

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        self.0.sync.send_if_modified(|sync| {
            let outdated = matches!(sync, SyncState::Synced | SyncState::Refused(_));
            if outdated {
                *sync = SyncState::Never;
            }
            outdated
        });
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

    /// Says that the registry can't be read, and why.
    pub(super) fn lost(&self, why: SyncState) {
        self.sync.send_replace(why);
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
            self.back_off().await;
            let host = self.state.lock().host % self.hosts.len();
            let error = match self.follow_host(&self.hosts[host], &mut failures).await {
                Ok(()) => continue, // Everything is to be read anew.
                Err(Failure::Refused(refused)) if failures > 0 || !refused.may_pass() => {
                    self.refused(refused);
                    self.state.lock().host = (host + 1) % self.hosts.len();
                    failures += 1;
                    continue;
                }
                Err(Failure::Refused(refused)) => refused.error(),
                Err(Failure::Other(error)) => error,
            };
            if failures == 0 {
                log(|| tracing::warn!(%error, "etcd can't be read; the last views hold"));
            }
            self.lost(SyncState::Lost(error));
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

    /// Waits until a server that refused to be read may be asked again.
    async fn back_off(&self) {
        let refusal = self.state.lock().refusal.clone();
        let Some(refusal) = refusal.filter(|refusal| refusal.next_attempt > Instant::now()) else { return };
        self.sync.send_replace(SyncState::Refused(refusal.error.clone()));
        sleep_until(refusal.next_attempt).await;
        // Whoever asks from now on waits for the outcome of this attempt.
        self.sync.send_replace(SyncState::Lost(refusal.error));
    }

    /// Reports that etcd refuses to be read as configured. The next attempt is made after a pause that grows.
    fn refused(&self, refused: Refused) {
        let (error, is_new) = {
            let mut state = self.state.lock();
            let refusal = Refusal::after(state.refusal.as_ref(), refused);
            let is_new = state.refusal.as_ref().is_none_or(|former| former.reason != refusal.reason);
            (state.refusal.insert(refusal).error.clone(), is_new)
        };
        if is_new {
            log(|| tracing::warn!(%error, "etcd refuses to be read; the last views hold"));
        }
        self.lost(SyncState::Refused(error));
    }

    /// Why TLS fails with a server, or none if that isn't the matter.
    #[cfg(feature = "tls")]
    async fn refusal(&self, host: &str) -> Option<DiscoveryError> {
        let tls = self.config.tls.as_ref()?;
        tls.refusal("etcd", host, &self.server_name(host).ok()?).await
    }

    /// The name that the certificate of a server has to hold for.
    #[cfg(feature = "tls")]
    pub(super) fn server_name(&self, host: &str) -> Result<String, DiscoveryError> {
        match &self.config.server_name {
            Some(name) => Ok(name.clone()),
            None => crate::tls::server_name("etcd", host),
        }
    }

    /// Reads everything from one server, and applies what changes until it is to be read anew.
    async fn follow_host(&self, host: &str, failures: &mut usize) -> Result<(), Failure> {
        let mut server = Server::connect(self, host).await?;
        let Some((keys, revision)) = server.read().await? else { return Ok(()) };
        let mut changes = server.watch(revision + 1).await?;
        let was_there = {
            let mut state = self.state.lock();
            state.keys = keys;
            state.refusal = None;
            self.publish(&mut state, &Affected { all: true, ..Affected::default() });
            std::mem::replace(&mut state.connected, true)
        };
        self.notices.deliver(&self.events);
        if *failures > 0 {
            log(|| tracing::info!(host, "etcd is read again"));
        }
        *failures = 0;
        self.sync.send_replace(SyncState::Synced);
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
                let Some(change) = server.change(change)? else { return Ok(()) };
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
