//! Reading the keys, and watching them from the next revision on.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use etcd_client::{EventType, WatchResponse};
use futures_util::FutureExt as _;
use metaq_protocol::Topic;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Inner, State, SyncState,
    refusal::{AccessRefused, RefusalBackoff},
    server::{Server, ServerError},
};
#[cfg(feature = "_tls")]
use crate::{DiscoveryError, DiscoveryErrorKind};
use crate::{
    DiscoveryEvent,
    backend::{
        bad_entries::{UnusableEntry, publish_bad_entry},
        deadline::after,
        notices::Notice,
    },
    panics::{contain, log},
};

/// The backoff after all servers have failed, in milliseconds.
const BACKOFF_MS: [u64; 3] = [50, 200, 500];

/// The interval at which the task checks whether the keys are still needed.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// The shortest time between two logins at a server that accepts the login and later rejects its token.
const LOGIN_INTERVAL: Duration = Duration::from_secs(1);

/// The number of views that are published before other tasks run.
const VIEWS_PER_TURN: usize = 64;

/// The backoff after logins that timed out doubles from the first to the last.
const LOGIN_BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// Marks the keys as outdated when the task stops, also when the runtime shuts down.
struct ResetSyncOnDrop<'a>(&'a Inner);

impl Drop for ResetSyncOnDrop<'_> {
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
    /// Follows the registry until it is no longer needed or the discovery is closed.
    pub(super) async fn follow(self: Arc<Self>) {
        let _unsynced = ResetSyncOnDrop(&self);
        let mut closed = self.closed.subscribe();
        tokio::select! {
            () = self.follow_always() => {}
            () = self.until_unused() => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
    }

    /// Waits until the keys are no longer needed.
    async fn until_unused(&self) {
        while self.is_needed() {
            sleep(IDLE_CHECK).await;
        }
    }

    /// Returns true while a topic is watched, or a call waits for the keys.
    pub(super) fn is_needed(&self) -> bool {
        let state = self.state.lock();
        !*self.closed.borrow() && (state.waiting > 0 || !state.publishers.is_unused())
    }

    /// Records that the registry can't be read, with the reason.
    pub(super) fn set_lost(&self, why: SyncState) {
        self.sync.send_replace(why);
        let was_there = std::mem::take(&mut self.state.lock().connected);
        if was_there {
            contain(|| self.events.send(DiscoveryEvent::Lost));
        }
    }

    /// Queues the unusable entries that were not reported yet.
    pub(super) fn report(&self, state: &mut State, topic: Topic, bad: Vec<UnusableEntry>) {
        let new = state.reports.report(topic, bad);
        new.into_iter().for_each(|entry| self.notices.push(Notice::BadEntry(entry)));
    }

    async fn follow_always(&self) {
        let (mut failures, mut slow_login, mut login_pause) = (0, false, Duration::ZERO);
        #[cfg(feature = "_tls")]
        let mut refusals = 0;
        loop {
            self.back_off().await;
            let host = self.state.lock().host % self.hosts.len();
            let Err(failure) = self.follow_host(&self.hosts[host], &mut failures).await;
            if failures == 0 {
                (slow_login, login_pause) = (false, Duration::ZERO);
            }
            let error = match failure {
                ServerError::Refused(refused) if failures > 0 || !refused.is_stale_login() => {
                    self.refused(refused);
                    self.state.lock().host = (host + 1) % self.hosts.len();
                    failures += 1;
                    continue;
                }
                ServerError::Refused(refused) => refused.error(),
                ServerError::Login(error) => {
                    slow_login = true;
                    error
                }
                ServerError::Other(error) => error,
            };
            if failures == 0 {
                log(|| tracing::warn!(%error, "etcd can't be read; the last views hold"));
            }
            self.set_lost(SyncState::Lost(error));
            #[cfg(feature = "_tls")]
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
                let pause = Duration::from_millis(BACKOFF_MS[rounds.min(BACKOFF_MS.len() - 1)]);
                if std::mem::take(&mut slow_login) {
                    login_pause = (login_pause * 2).clamp(LOGIN_BACKOFF[0], LOGIN_BACKOFF[1]);
                }
                sleep(pause.max(login_pause)).await;
            }
        }
    }

    /// Waits for the backoff after a refusal.
    async fn back_off(&self) {
        let refusal = self.state.lock().refusal.clone();
        let Some(refusal) = refusal.filter(|refusal| refusal.next_attempt > Instant::now()) else { return };
        self.sync.send_replace(SyncState::Refused(refusal.error.clone()));
        sleep_until(refusal.next_attempt).await;
        // Calls from now on wait for the outcome of this attempt.
        self.sync.send_replace(SyncState::Lost(refusal.error));
    }

    /// Reports that etcd refuses access with these settings, and increases the backoff.
    fn refused(&self, refused: AccessRefused) {
        let (error, is_new) = {
            let mut state = self.state.lock();
            let refusal = RefusalBackoff::after(state.refusal.as_ref(), refused);
            let is_new = state.refusal.as_ref().is_none_or(|former| former.reason != refusal.reason);
            (state.refusal.insert(refusal).error.clone(), is_new)
        };
        if is_new {
            log(|| tracing::warn!(%error, "etcd refuses to be read; the last views hold"));
        }
        self.set_lost(SyncState::Refused(error));
    }

    /// The reason why TLS fails with a server, or `None` if TLS is not the problem.
    #[cfg(feature = "_tls")]
    async fn refusal(&self, host: &str) -> Option<DiscoveryError> {
        let tls = self.config.tls.as_ref()?;
        tls.handshake_error("etcd", host, &self.server_name(host).ok()?).await
    }

    /// The name for which the server's certificate must be valid.
    #[cfg(feature = "_tls")]
    pub(super) fn server_name(&self, host: &str) -> Result<String, DiscoveryError> {
        match &self.config.server_name {
            Some(name) => Ok(name.clone()),
            None => crate::backend::tls::server_name("etcd", host),
        }
    }

    /// Follows one server with one login, as long as the login is valid.
    async fn follow_host(&self, host: &str, failures: &mut usize) -> Result<Infallible, ServerError> {
        let mut server = Server::connect(self, host).await?;
        // `was_read` is set once the keys were read with this login.
        let (mut was_read, mut last_login) = (false, Instant::now());
        loop {
            match self.follow_server(&mut server, host, failures, &mut was_read).await {
                Ok(()) => {} // Everything must be read again.
                // A login expires with time, and when the user's password or rights change.
                Err(ServerError::Refused(refused)) if was_read && refused.is_stale_login() => {
                    // Each login costs the server a slow hash.
                    sleep_until(last_login + LOGIN_INTERVAL).await;
                    server.log_in_again().await?;
                    (was_read, last_login) = (false, Instant::now());
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Reads everything from a server, and applies changes until everything must be read again.
    async fn follow_server(
        &self,
        server: &mut Server<'_>,
        host: &str,
        failures: &mut usize,
        was_read: &mut bool,
    ) -> Result<(), ServerError> {
        let Some((keys, revision)) = server.read(&self.layout).await? else { return Ok(()) };
        let mut changes = server.watch(revision + 1).await?;
        let topics = {
            let mut state = self.state.lock();
            let former = std::mem::replace(&mut state.keys, keys);
            state.refusal = None;
            let topics = state.publishers.topics();
            state.reports.retain(|topic| topics.binary_search(topic).is_ok());
            drop(state);
            drop(former);
            topics
        };
        self.publish(topics).await;
        if *failures > 0 {
            log(|| tracing::info!(host, "etcd is read again"));
        }
        (*failures, *was_read) = (0, true);
        self.sync.send_replace(SyncState::Synced);
        if !std::mem::replace(&mut self.state.lock().connected, true) {
            contain(|| self.events.send(DiscoveryEvent::Connected));
        }
        let reread = after(self.config.reread_interval);
        loop {
            let due = self.state.lock().reports.due().unwrap_or(reread).min(reread);
            let change = timeout_at(due, changes.message()).await;
            self.report_overdue();
            let Ok(change) = change else {
                if Instant::now() >= reread {
                    return Ok(());
                }
                continue;
            };
            let (mut next, mut burst, mut end) = (Some(change), Vec::new(), None);
            // A burst of changes makes one view. The error that ends it doesn't undo earlier changes.
            while let Some(change) = next.take() {
                match server.change(change) {
                    Ok(Some(change)) if is_behind(&change, revision) => end = Some(Ok(())),
                    Ok(Some(change)) => {
                        burst.push(change);
                        next = changes.message().now_or_never();
                    }
                    Ok(None) => end = Some(Ok(())),
                    Err(failure) => end = Some(Err(failure)),
                }
            }
            let mut affected = BTreeSet::new();
            for change in &burst {
                self.apply(change, &mut affected);
            }
            self.publish(affected).await;
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Reports transient faults that have lasted.
    fn report_overdue(&self) {
        let lasting = {
            let mut state = self.state.lock();
            if state.reports.due().is_none_or(|due| due > Instant::now()) {
                return;
            }
            // Topics that are no longer watched need no reports.
            let topics = state.publishers.topics();
            state.reports.retain(|topic| topics.binary_search(topic).is_ok());
            state.reports.take_overdue()
        };
        lasting.iter().for_each(|entry| contain(|| publish_bad_entry(entry, &self.events)));
    }

    /// Applies a response of the watch, and adds the topics whose views may have changed to `affected`.
    fn apply(&self, change: &WatchResponse, affected: &mut BTreeSet<Topic>) {
        let mut state = self.state.lock();
        for kv in change.events().iter().filter_map(|event| Some((event.event_type(), event.kv()?))) {
            affected.append(&mut match kv {
                (EventType::Put, kv) => state.keys.apply(&self.layout, kv.key(), Some(kv.value())),
                (EventType::Delete, kv) => state.keys.apply(&self.layout, kv.key(), None),
            });
        }
    }

    /// Publishes the views of the watched ones among `topics`, in portions between which other tasks run.
    async fn publish(&self, topics: impl IntoIterator<Item = Topic>) {
        let mut topics = topics.into_iter().peekable();
        loop {
            {
                let mut state = self.state.lock();
                for topic in topics.by_ref().take(VIEWS_PER_TURN) {
                    let publishers = state.publishers.of(&topic);
                    if !publishers.is_empty() {
                        let (view, bad) = state.keys.view(&topic, &self.layout);
                        self.notices.push(Notice::View(publishers, view));
                        self.report(&mut state, topic, bad);
                    }
                }
            }
            self.notices.deliver(&self.events);
            if topics.peek().is_none() {
                return;
            }
            yield_now().await;
        }
    }
}

/// Returns true if a server began to watch before the revision that was read: its data was replaced by an
/// older state, and changes until that revision would not be reported.
fn is_behind(change: &WatchResponse, revision: i64) -> bool {
    change.created() && change.header().is_some_and(|header| header.revision() < revision)
}
