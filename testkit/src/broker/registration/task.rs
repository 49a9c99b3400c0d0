//! Registering a broker, and keeping it registered until it leaves.

use std::{fmt, io, mem, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{
    layout::{Layout, TopicEntries},
    registry::Registry,
    session::{ExistingEntry, REGISTER_TIMEOUT, Session},
};
use crate::broker::shared::BrokerShared;

/// The pause between attempts to reach a registry.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The number of former sessions that are remembered. Entries of older ones are treated like those of a
/// former process.
const MAX_FORMER_SESSIONS: usize = 16;

/// A request to unregister, with the sender for its result.
pub(super) type Unregistration = oneshot::Sender<io::Result<()>>;

/// The reason why a broker could not be registered.
enum RegisterError {
    /// The registry failed, or ended the session: the next attempt may succeed.
    Registry(io::Error),
    /// The id belongs to another broker.
    Occupied(String),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(error) => error.fmt(f),
            Self::Occupied(reason) => reason.fmt(f),
        }
    }
}

impl From<io::Error> for RegisterError {
    fn from(error: io::Error) -> Self {
        Self::Registry(error)
    }
}

/// The task that keeps one broker registered.
pub(super) struct RegistrationTask {
    registry: Registry,
    shared: Arc<BrokerShared>,
    layout: Layout,
    /// The numbers of sessions that may have left entries behind.
    former_sessions: Vec<i64>,
    /// The reason for which the first registration is not complete; `None` after it.
    waiting_for: Mutex<Option<String>>,
}

/// The entries of a broker, and the session to which they are bound.
pub(super) struct Registered {
    session: Box<dyn Session>,
    topics: TopicEntries,
    /// The version of the broker's permanent entry; none when it was not written.
    version: Option<i64>,
}

impl RegistrationTask {
    pub(super) fn new(registry: Registry, shared: Arc<BrokerShared>) -> Self {
        let layout = Layout::new(&registry.root, &shared);
        let waiting_for = Mutex::new(Some(String::new()));
        Self { registry, shared, layout, former_sessions: Vec::new(), waiting_for }
    }

    /// Registers the broker for the first time.
    pub(super) async fn register_first(&mut self) -> io::Result<Registered> {
        let started = Instant::now();
        let asked = self.registry.register_timeout.map(|limit| limit.min(crate::MAX_DURATION));
        let limit = asked.unwrap_or(REGISTER_TIMEOUT + self.registry.session_timeout);
        let hosts = self.registry.hosts.join(",");
        let attempts = self.attempt_until(started + limit);
        let registered = match asked {
            Some(limit) => timeout_at(started + limit, attempts).await.unwrap_or(Err(None)),
            None => attempts.await,
        };
        let waited_for = mem::take(&mut *self.waiting_for.lock()).unwrap_or_default();
        let id = self.shared.id;
        registered.map_err(|occupied| match occupied {
            Some(reason) => {
                let text = format!("broker {id} could not be registered at {hosts}: {reason}");
                io::Error::new(io::ErrorKind::AlreadyExists, text)
            }
            None => {
                let reason = if waited_for.is_empty() { "it did not answer" } else { &waited_for };
                let text =
                    format!("broker {id} could not be registered at {hosts} within {limit:?}: {reason}");
                io::Error::new(io::ErrorKind::TimedOut, text)
            }
        })
    }

    /// Registers the broker, and tries again until the deadline. The error is the reason for which the id
    /// can't be used, if that is why.
    async fn attempt_until(&mut self, deadline: Instant) -> Result<Registered, Option<String>> {
        loop {
            match self.register().await {
                Ok(registered) => return Ok(registered),
                Err(RegisterError::Occupied(reason)) => return Err(Some(reason)),
                Err(RegisterError::Registry(error)) => self.waits_for(&error.to_string()),
            }
            if Instant::now() + RETRY_DELAY >= deadline {
                return Err(None);
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Reports why the first registration is not complete yet.
    fn waits_for(&self, reason: &str) {
        let is_new = match &mut *self.waiting_for.lock() {
            Some(last) if last != reason => {
                reason.clone_into(last);
                true
            }
            _ => false,
        };
        if is_new {
            self.registry.observer.notify(reason);
        }
    }

    /// Keeps the broker registered, in a new session after one was lost, until it unregisters.
    pub(super) async fn run(
        mut self,
        first: Registered,
        mut unregistrations: mpsc::Receiver<Unregistration>,
    ) {
        let mut current = Some(first);
        loop {
            let registered = match current.take() {
                Some(registered) => Ok(registered),
                None => self.register().await,
            };
            let error = match registered {
                Ok(mut registered) => match self.follow(&mut registered, &mut unregistrations).await {
                    Ok(()) => return,
                    Err(error) => {
                        self.remember_session(&*registered.session);
                        error
                    }
                },
                Err(error) => error,
            };
            tokio::select! {
                () = sleep(RETRY_DELAY) => {}
                Some(done) = unregistrations.recv() => {
                    let (id, hosts) = (self.shared.id, self.registry.hosts.join(","));
                    let text =
                        format!("broker {id} was not registered at {hosts} any more when it withdrew: {error}");
                    // Entries that are left there expire.
                    let _ = done.send(Err(io::Error::other(text)));
                    return;
                }
            }
        }
    }

    fn remember_session(&mut self, session: &dyn Session) {
        if self.former_sessions.len() == MAX_FORMER_SESSIONS {
            self.former_sessions.remove(0);
        }
        self.former_sessions.push(session.number());
    }

    /// Registers the broker: its address first, then its topics (rule B-31).
    async fn register(&mut self) -> Result<Registered, RegisterError> {
        let session = self.registry.connect(&self.former_sessions).await?;
        let mut registered = Registered { session, topics: self.layout.topics(&self.shared), version: None };
        let result = self.create_entries(&mut registered).await;
        match result {
            Ok(()) => return Ok(registered),
            // The registry works, so nothing of a refused broker stays there. If removing fails, the entries
            // expire.
            Err(RegisterError::Occupied(_)) => drop(self.remove_entries(&registered).await),
            Err(RegisterError::Registry(_)) => self.remember_session(&*registered.session),
        }
        result.map(|()| registered)
    }

    async fn create_entries(&self, registered: &mut Registered) -> Result<(), RegisterError> {
        let (session, layout) = (&*registered.session, &self.layout);
        let addr = self.shared.addr.to_string();
        let checksum = self.shared.config_checksum().to_string();
        self.create(session, &layout.master(), &addr).await?;
        registered.version = Some(session.write(&layout.broker(), &addr, &layout.master()).await?);
        self.create(session, &layout.checksum(), &checksum).await?;
        for (path, text) in registered.topics.values().flatten() {
            self.create(session, path, text).await?;
        }
        Ok(())
    }

    /// Creates an entry. Waits for an entry of a former process with the same id as long as it can last
    /// without its process.
    async fn create(&self, session: &dyn Session, path: &str, text: &str) -> Result<(), RegisterError> {
        let Some(mut existing) = session.create(path, text).await? else { return Ok(()) };
        let limit = existing.max_lifetime;
        let deadline = Instant::now() + limit;
        loop {
            if existing.session.is_none() {
                return Err(RegisterError::Occupied(permanent_entry(path, &existing)));
            }
            self.waits_for(&format!(
                "the entry {path} ({}) is another process's, which may have ended; the entry expires within {limit:?} then",
                existing.text
            ));
            let waited = tokio::select! {
                waited = timeout_at(deadline, session.wait_until_gone(path, &existing)) => waited,
                () = session.wait_until_ended() => Ok(Err(session_ended())),
            };
            let is_over = waited.is_err();
            waited.unwrap_or(Ok(()))?;
            match session.create(path, text).await? {
                None => return Ok(()),
                Some(still) if is_over => {
                    return Err(RegisterError::Occupied(self.owner_is_alive(path, &still, limit)));
                }
                Some(next) => existing = next,
            }
        }
    }

    fn owner_is_alive(&self, path: &str, existing: &ExistingEntry, limit: Duration) -> String {
        let id = self.shared.id;
        format!(
            "the entry {path} ({}) is another broker's, and is still renewed after {limit:?}: a broker with the id {id} is \
             alive; stop it, or give this one another id",
            existing.text
        )
    }

    /// Follows the changes of the broker's topics. Returns `Ok` once it has unregistered, and an error when
    /// the session ends.
    async fn follow(
        &self,
        registered: &mut Registered,
        unregistrations: &mut mpsc::Receiver<Unregistration>,
    ) -> Result<(), RegisterError> {
        let mut topic_changes = self.shared.topic_changes.subscribe();
        // Topics may have changed since they were read.
        topic_changes.mark_changed();
        loop {
            tokio::select! {
                () = registered.session.wait_until_ended() => return Err(session_ended().into()),
                Ok(()) = topic_changes.changed() => self.change_topics(registered).await?,
                Some(done) = unregistrations.recv() => {
                    // The requester may have given up.
                    let _ = done.send(self.remove_entries(registered).await);
                    return Ok(());
                }
            }
        }
    }

    async fn change_topics(&self, registered: &mut Registered) -> Result<(), RegisterError> {
        let (session, topics) = (&*registered.session, self.layout.topics(&self.shared));
        if topics == registered.topics {
            return Ok(());
        }
        for (topic, entries) in &topics {
            let before = registered.topics.get(topic);
            if before == Some(entries) {
                continue;
            }
            // Deleted and created again, not overwritten (registry §8).
            for (path, _) in before.into_iter().flatten() {
                session.remove(path).await?;
            }
            for (path, text) in entries {
                self.create(session, path, text).await?;
            }
        }
        let path = self.layout.checksum();
        session.remove(&path).await?;
        self.create(session, &path, &self.shared.config_checksum().to_string()).await?;
        registered.topics = topics;
        Ok(())
    }

    /// Removes the broker (registry §14), but no entry that another broker has created meanwhile.
    async fn remove_entries(&self, registered: &Registered) -> io::Result<()> {
        let session = &*registered.session;
        session.remove(&self.layout.master()).await?;
        session.remove(&self.layout.checksum()).await?;
        if let Some(version) = registered.version {
            session.remove_or_empty(&self.layout.broker(), version).await?;
        }
        for (path, _) in registered.topics.values().flatten() {
            session.remove(path).await?;
        }
        session.end().await
    }
}

fn session_ended() -> io::Error {
    io::Error::other("the session has ended")
}

fn permanent_entry(path: &str, existing: &ExistingEntry) -> String {
    format!(
        "the entry {path} ({}) is there already, and goes with no session, so that it never expires; delete it if no \
         broker needs it, or give this one another id",
        existing.text
    )
}
