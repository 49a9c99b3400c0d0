//! Entering a broker in a registry, and keeping it there until it withdraws.

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{
    super::Shared,
    layout::{Layout, TopicEntries},
    registry::Registry,
    session::{Occupant, Session},
};

/// Between attempts to reach a registry that is away.
const PAUSE: Duration = Duration::from_millis(200);

/// The time that the first registration may take on top of the session timeout.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// The number of former sessions that are remembered. Entries of an older one are waited for like those of a former process.
const FORMER_SESSIONS: usize = 16;

/// An order to withdraw, and where to report how that went.
pub(super) type Withdrawal = oneshot::Sender<io::Result<()>>;

/// The reason why a broker could not be entered.
enum EnterError {
    /// The registry fails, or has ended the session: the next attempt may succeed.
    Registry(io::Error),
    /// The id is another broker's.
    Occupied(String),
}

impl fmt::Display for EnterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(error) => error.fmt(f),
            Self::Occupied(reason) => reason.fmt(f),
        }
    }
}

impl From<io::Error> for EnterError {
    fn from(error: io::Error) -> Self {
        Self::Registry(error)
    }
}

/// The task that keeps one broker registered.
pub(super) struct Keeper {
    registry: Registry,
    shared: Arc<Shared>,
    layout: Layout,
    /// The numbers of sessions that may have left entries behind.
    former: Vec<i64>,
}

/// The entries of a broker, and the session that they go with.
pub(super) struct Entered {
    session: Box<dyn Session>,
    topics: TopicEntries,
    /// The version of the broker's entry that stays; none when it was not written.
    version: Option<i64>,
}

impl Keeper {
    pub(super) fn new(registry: Registry, shared: Arc<Shared>) -> Self {
        let layout = Layout::new(&registry.root, &shared);
        Self { registry, shared, layout, former: Vec::new() }
    }

    /// Enters the broker for the first time.
    pub(super) async fn enter_first(&mut self) -> io::Result<Entered> {
        let limit = PATIENCE + self.registry.session_timeout;
        let deadline = Instant::now() + limit;
        let (id, hosts) = (self.shared.id, self.registry.hosts.join(","));
        loop {
            let error = match self.enter().await {
                Ok(entered) => return Ok(entered),
                Err(EnterError::Occupied(reason)) => {
                    let text = format!("broker {id} could not be registered at {hosts}: {reason}");
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
                }
                Err(EnterError::Registry(error)) => error,
            };
            if Instant::now() + PAUSE >= deadline {
                let text =
                    format!("broker {id} could not be registered at {hosts} within {limit:?}: {error}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            sleep(PAUSE).await;
        }
    }

    /// Keeps the broker entered, in a new session whenever one was lost, until it is to withdraw.
    pub(super) async fn keep(mut self, first: Entered, mut orders: mpsc::Receiver<Withdrawal>) {
        let mut current = Some(first);
        loop {
            let entered = match current.take() {
                Some(entered) => Ok(entered),
                None => self.enter().await,
            };
            let error = match entered {
                Ok(mut entered) => match self.follow(&mut entered, &mut orders).await {
                    Ok(()) => return,
                    Err(error) => {
                        self.remember(&*entered.session);
                        error
                    }
                },
                Err(error) => error,
            };
            tokio::select! {
                () = sleep(PAUSE) => {}
                Some(done) = orders.recv() => {
                    let (id, hosts) = (self.shared.id, self.registry.hosts.join(","));
                    let text =
                        format!("broker {id} was not registered at {hosts} any more when it withdrew: {error}");
                    // What is left there expires.
                    let _ = done.send(Err(io::Error::other(text)));
                    return;
                }
            }
        }
    }

    fn remember(&mut self, session: &dyn Session) {
        if self.former.len() == FORMER_SESSIONS {
            self.former.remove(0);
        }
        self.former.push(session.number());
    }

    /// Registers the broker: its address first, then its topics (rule B-31).
    async fn enter(&mut self) -> Result<Entered, EnterError> {
        let session = self.registry.connect(&self.former).await?;
        let mut entered = Entered { session, topics: self.layout.topics(&self.shared), version: None };
        let result = self.enter_all(&mut entered).await;
        match result {
            Ok(()) => return Ok(entered),
            // The registry works, and nothing of a broker that gives up shall be left there. If that fails, it expires.
            Err(EnterError::Occupied(_)) => drop(self.leave(&entered).await),
            Err(EnterError::Registry(_)) => self.remember(&*entered.session),
        }
        result.map(|()| entered)
    }

    async fn enter_all(&self, entered: &mut Entered) -> Result<(), EnterError> {
        let (session, layout) = (&*entered.session, &self.layout);
        let addr = self.shared.addr.to_string();
        let checksum = self.shared.config_checksum().to_string();
        self.create(session, &layout.master(), &addr).await?;
        entered.version = Some(session.write(&layout.broker(), &addr, &layout.master()).await?);
        self.create(session, &layout.checksum(), &checksum).await?;
        for (path, text) in entered.topics.values().flatten() {
            self.create(session, path, text).await?;
        }
        Ok(())
    }

    /// Creates an entry. That of a former process with the same id is waited for as long as it can last without its
    /// process.
    async fn create(&self, session: &dyn Session, path: &str, text: &str) -> Result<(), EnterError> {
        let Some(mut occupant) = session.create(path, text).await? else { return Ok(()) };
        let limit = occupant.lasts;
        let deadline = Instant::now() + limit;
        loop {
            if occupant.session.is_none() {
                return Err(EnterError::Occupied(stays(path, &occupant)));
            }
            let waited = tokio::select! {
                waited = timeout_at(deadline, session.gone(path, &occupant)) => waited,
                () = session.ended() => Ok(Err(ended())),
            };
            let is_over = waited.is_err();
            waited.unwrap_or(Ok(()))?;
            match session.create(path, text).await? {
                None => return Ok(()),
                Some(still) if is_over => {
                    return Err(EnterError::Occupied(self.is_alive(path, &still, limit)));
                }
                Some(next) => occupant = next,
            }
        }
    }

    fn is_alive(&self, path: &str, occupant: &Occupant, limit: Duration) -> String {
        let id = self.shared.id;
        format!(
            "the entry {path} ({}) is another broker's, and is still renewed after {limit:?}: a broker with the id {id} is \
             alive; stop it, or give this one another id",
            occupant.text
        )
    }

    /// Follows the changes of the broker's topics until it is to withdraw, which is good, or the session ends.
    async fn follow(
        &self,
        entered: &mut Entered,
        orders: &mut mpsc::Receiver<Withdrawal>,
    ) -> Result<(), EnterError> {
        let mut offered = self.shared.offered.subscribe();
        // What changed since the topics were read.
        offered.mark_changed();
        loop {
            tokio::select! {
                () = entered.session.ended() => return Err(ended().into()),
                Ok(()) = offered.changed() => self.change_topics(entered).await?,
                Some(done) = orders.recv() => {
                    // Whoever asked may have gone.
                    let _ = done.send(self.leave(entered).await);
                    return Ok(());
                }
            }
        }
    }

    async fn change_topics(&self, entered: &mut Entered) -> Result<(), EnterError> {
        let (session, topics) = (&*entered.session, self.layout.topics(&self.shared));
        if topics == entered.topics {
            return Ok(());
        }
        for (topic, entries) in &topics {
            let before = entered.topics.get(topic);
            if before == Some(entries) {
                continue;
            }
            // Deleted and made again, not written over (registry §8).
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
        entered.topics = topics;
        Ok(())
    }

    /// Takes the broker out (registry §14), and nothing that another one has registered meanwhile.
    async fn leave(&self, entered: &Entered) -> io::Result<()> {
        let session = &*entered.session;
        session.remove(&self.layout.master()).await?;
        session.remove(&self.layout.checksum()).await?;
        if let Some(version) = entered.version {
            session.remove_or_empty(&self.layout.broker(), version).await?;
        }
        for (path, _) in entered.topics.values().flatten() {
            session.remove(path).await?;
        }
        session.end().await
    }
}

fn ended() -> io::Error {
    io::Error::other("the session has ended")
}

fn stays(path: &str, occupant: &Occupant) -> String {
    format!(
        "the entry {path} ({}) is there already, and goes with no session, so that it never expires; delete it if no \
         broker needs it, or give this one another id",
        occupant.text
    )
}
