//! The session with ZooKeeper: opened when it is needed, and opened anew when it has ended.

#[cfg(feature = "tls")]
use std::pin::pin;
use std::{
    error::Error as StdError,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
#[cfg(feature = "tls")]
use zookeeper_client::TlsOptions;
use zookeeper_client::{Client, Error, SessionState, StateWatcher};

use super::ZooKeeperConfig;
use crate::{
    Credentials, DiscoveryError, DiscoveryErrorKind, DiscoveryEvent, EventPublisher,
    deadline::after,
    supervise::{catch, log, runtime, supervised},
};

/// A client that is disconnected for so long is replaced as soon as that is possible. What it has been doing by then it
/// does with pauses below that.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Between attempts to find a server that answers.
const PAUSE: Duration = Duration::from_millis(200);

/// When no server has answered for so long, another attempt is made beside those under way, up to so many.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);
const MOST_ATTEMPTS: usize = 4;

/// How long the news of a session's end may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Sessions {
    hosts: String,
    session_timeout: Duration,
    connect_timeout: Duration,
    silence_timeout: Duration,
    credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    tls: Option<crate::TlsConfig>,
    events: EventPublisher,
    current: Mutex<Current>,
    /// Held while connecting: all who need a session wait for the same one.
    connecting: tokio::sync::Mutex<()>,
    /// How often a connection was made; followers that have failed watch for the next.
    connected: watch::Sender<u64>,
    /// How often a client whose session hadn't ended was replaced; followers leave it when they see that.
    replaced: watch::Sender<u64>,
}

#[derive(Default)]
struct Current {
    client: Option<Client>,
    /// The task that tells how the client's session fares.
    telling: Option<JoinHandle<()>>,
    closed: bool,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let session = self.client.as_ref().map(Client::session_id);
        f.debug_struct("Current").field("session", &session).field("closed", &self.closed).finish()
    }
}

impl Sessions {
    pub(super) fn new(hosts: &[String], config: &ZooKeeperConfig, events: EventPublisher) -> Self {
        Self {
            hosts: hosts.join(","),
            session_timeout: config.session_timeout,
            connect_timeout: config.connect_timeout,
            silence_timeout: config.silence_timeout,
            credentials: config.credentials.clone(),
            #[cfg(feature = "tls")]
            tls: config.tls.clone(),
            events,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            connected: watch::Sender::default(),
            replaced: watch::Sender::default(),
        }
    }

    pub(super) fn hosts(&self) -> &str {
        &self.hosts
    }

    /// A client with a session that has not ended, as far as is known.
    pub(super) async fn client(self: &Arc<Self>) -> Result<Client, DiscoveryError> {
        if let Some(client) = self.usable()? {
            return Ok(client);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(client) = self.usable()? {
            return Ok(client);
        }
        let (former, telling) = {
            let mut current = self.current.lock();
            (current.client.take(), current.telling.take())
        };
        let ended = former.is_some_and(|client| client.state().is_terminated());
        let client = self.connect().await?;
        if let Some(mut telling) = telling {
            // It is about to tell how the former session ended, which comes before the news of this one. That of a session
            // whose task has died has nothing to tell.
            if !ended || timeout(LAST_WORDS, &mut telling).await.is_err() {
                telling.abort();
            }
        }
        if !self.adopt(&client)? {
            return Err(DiscoveryError::closed());
        }
        Ok(client)
    }

    /// The client that everybody uses, if its session can still be alive: it runs on the runtime of the task that tells how
    /// it fares, and ends with that.
    fn usable(&self) -> Result<Option<Client>, DiscoveryError> {
        let current = self.current.lock();
        if current.closed {
            return Err(DiscoveryError::closed());
        }
        let is_told = current.telling.as_ref().is_some_and(|telling| !telling.is_finished());
        let usable = current.client.as_ref().filter(|client| is_told && !client.state().is_terminated());
        Ok(usable.cloned())
    }

    /// Stops using a client whose session's task has died without changing its state; the next call opens another session.
    pub(super) fn discard(&self, dead: &Client) {
        let (client, telling) = {
            let mut current = self.current.lock();
            if current.client.as_ref().is_none_or(|client| client.session_id() != dead.session_id()) {
                return;
            }
            (current.client.take(), current.telling.take())
        };
        drop(client);
        if let Some(telling) = telling {
            telling.abort();
        }
        log(
            || tracing::warn!(session = %dead.session_id(), "session with ZooKeeper has died; another is opened"),
        );
        self.events.send(DiscoveryEvent::Lost);
    }

    /// Makes a client the one that everybody uses; false when the discovery was closed.
    fn adopt(self: &Arc<Self>, client: &Client) -> Result<bool, DiscoveryError> {
        let runtime = runtime()?;
        let (sessions, told) = (Arc::downgrade(self), client.clone());
        let (states, events) = (told.state_watcher(), self.events.clone());
        drop(told);
        let tell = move || tell(Weak::clone(&sessions), states.clone(), events.clone());
        let former = {
            let mut current = self.current.lock();
            if current.closed {
                return Ok(false);
            }
            let telling = runtime.spawn(supervised("teller of a ZooKeeper session", tell, |_| {}));
            current.telling = Some(telling);
            current.client.replace(client.clone())
        };
        drop(former);
        log(
            || tracing::info!(hosts = %self.hosts, session = %client.session_id(), "session with ZooKeeper opened"),
        );
        self.tell_connected();
        Ok(true)
    }

    fn tell_connected(&self) {
        self.connected.send_modify(|count| *count += 1);
        self.events.send(DiscoveryEvent::Connected);
    }

    /// Tries to put another client in the place of one that is disconnected; true when that was done, or there is no need
    /// any more.
    async fn replace(self: &Arc<Self>) -> bool {
        if self.current.lock().closed {
            return true;
        }
        let Ok(Ok(client)) = timeout(self.connect_timeout, self.connect_once()).await else { return false };
        if matches!(self.adopt(&client), Ok(true)) {
            self.replaced.send_modify(|count| *count += 1);
        }
        true
    }

    /// Tells when the client that was used until then isn't to be used any more.
    pub(super) fn replaced(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// Tries all servers again and again until the time is up.
    async fn connect(&self) -> Result<Client, DiscoveryError> {
        let deadline = after(self.connect_timeout);
        let left = || deadline.saturating_duration_since(Instant::now());
        #[cfg(feature = "tls")]
        let mut known = None;
        loop {
            let attempt = timeout(left(), self.connect_once());
            #[cfg(not(feature = "tls"))]
            let attempted = attempt.await;
            #[cfg(feature = "tls")]
            let attempted = self.unless_refused(attempt, &mut known).await?;
            let error = match attempted {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error @ (Error::BadArguments(_) | Error::AuthFailed))) => {
                    return Err(self.failed("connect to", "", error));
                }
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let error: Option<Box<dyn StdError + Send + Sync>> = error.map(Box::from);
            #[cfg(feature = "tls")]
            let error = match timeout(left().saturating_sub(PAUSE), self.refusal()).await {
                Ok(Some((refusal, true))) => return Err(refusal),
                Ok(refusal) => {
                    known = refusal.map(|(refusal, _)| refusal);
                    known.clone().map(Box::from).or(error)
                }
                // There is no time left to ask again.
                Err(_) => known.clone().map(Box::from).or(error),
            };
            if left() <= PAUSE {
                let limit = self.connect_timeout;
                let text = format!("no ZooKeeper answered at {} within {limit:?}", self.hosts);
                return Err(match error {
                    Some(error) => DiscoveryError::with_source(DiscoveryErrorKind::Unreachable, text, error),
                    None => DiscoveryError::new(DiscoveryErrorKind::Unreachable, text),
                });
            }
            sleep(PAUSE).await;
        }
    }

    /// Tries all servers, and again beside that as long as none has answered: one that is starting lets clients in and never
    /// answers them. Fails with the first try that does while no other is under way.
    async fn connect_once(&self) -> Result<Client, Error> {
        let mut attempts = FuturesUnordered::new();
        loop {
            if attempts.len() < MOST_ATTEMPTS {
                attempts.push(Box::pin(async {
                    let panicked =
                        |panic| Error::UnexpectedError(format!("the client library panicked: {panic}"));
                    catch(self.attempt()).await.unwrap_or_else(|panic| Err(panicked(panic)))
                }));
            }
            let answered = timeout(NEXT_ATTEMPT, async {
                loop {
                    match attempts.next().await {
                        Some(Err(_)) if !attempts.is_empty() => {}
                        last => return last,
                    }
                }
            });
            if let Ok(Some(done)) = answered.await {
                return done;
            }
        }
    }

    async fn attempt(&self) -> Result<Client, Error> {
        let mut connector = Client::connector()
            // Servers of the age of MetaQ don't answer the newer way to create a node; newer ones know the old.
            .with_server_version(3, 3, 0)
            .with_session_timeout(self.session_timeout)
            .with_connection_timeout(self.silence_timeout)
            .with_fail_eagerly();
        if let Some(credentials) = &self.credentials {
            let text = format!("{}:{}", credentials.name(), credentials.password());
            connector = connector.with_auth("digest", text.as_bytes());
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let mut options = TlsOptions::new().with_pem_ca(tls.ca())?;
            if let Some((certificate, key)) = tls.identity() {
                options = options.with_pem_identity(certificate, key)?;
            }
            return connector.with_tls(options).secure_connect(&self.hosts).await;
        }
        connector.connect(&self.hosts).await
    }

    /// Runs `attempt`, and asks beside it for the reason why TLS fails: it may last until there is no time left to ask.
    ///
    /// # Errors
    /// The reason, if TLS will go on failing with all servers.
    #[cfg(feature = "tls")]
    async fn unless_refused<T>(
        &self,
        attempt: impl Future<Output = T>,
        known: &mut Option<DiscoveryError>,
    ) -> Result<T, DiscoveryError> {
        let mut attempt = pin!(attempt);
        let asking = async {
            sleep(NEXT_ATTEMPT).await;
            self.refusal().await
        };
        let refusal = tokio::select! {
            biased;
            attempted = &mut attempt => return Ok(attempted),
            refusal = asking => refusal,
        };
        match refusal {
            Some((refusal, true)) => Err(refusal),
            refusal => {
                *known = refusal.map(|(refusal, _)| refusal);
                Ok(attempt.await)
            }
        }
    }

    /// Why TLS fails with one of the servers, and whether it will go on to with all of them; none if that isn't the matter.
    #[cfg(feature = "tls")]
    async fn refusal(&self) -> Option<(DiscoveryError, bool)> {
        let tls = self.tls.as_ref()?;
        let asked = self.hosts.split(',').map(async |host| {
            let name = crate::tls::server_name("ZooKeeper", host).ok()?;
            tls.refusal("ZooKeeper", host, &name).await
        });
        let answers = futures_util::future::join_all(asked).await;
        let lasting = |answer: &Option<DiscoveryError>| {
            answer.as_ref().is_some_and(|error| error.kind() == DiscoveryErrorKind::Failed)
        };
        let all = answers.iter().all(lasting);
        answers.into_iter().flatten().next().map(|refusal| (refusal, all))
    }

    /// Waits until trying again may help: for the next connection, but not longer than `pause`.
    pub(super) async fn recovered(&self, pause: Duration) {
        // At the pause's end it is tried all the same.
        let _ = timeout(pause, self.connected.subscribe().changed()).await;
    }

    /// An error of a call that tried to `what` the node at `path`.
    pub(super) fn failed(&self, what: &str, path: &str, error: Error) -> DiscoveryError {
        let text = format!("ZooKeeper at {} failed to {what} {path}", self.hosts);
        DiscoveryError::with_source(DiscoveryErrorKind::Failed, text, error)
    }

    /// Ends the session; no other is opened.
    pub(super) fn close(&self) {
        let (client, telling) = {
            let mut current = self.current.lock();
            current.closed = true;
            (current.client.take(), current.telling.take())
        };
        drop(client);
        if let Some(telling) = telling {
            telling.abort();
        }
    }
}

/// Whether a call failed because the task of the client's session has died: with its runtime, or by a panic.
pub(super) fn is_dead(error: &Error) -> bool {
    matches!(error, Error::UnexpectedError(text) if text.starts_with("expect error state, got")
        || text.ends_with("expect response, but got none"))
}

/// Tells how a session fares until it has ended, or another was opened because it stayed disconnected.
async fn tell(sessions: Weak<Sessions>, mut states: StateWatcher, events: EventPublisher) {
    // Anything else was told before a panic, or is told now.
    let mut state = match states.state() {
        SessionState::SyncConnected | SessionState::ConnectedReadOnly => states.changed().await,
        state => state,
    };
    loop {
        state = match state {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                match sessions.upgrade() {
                    Some(sessions) => sessions.tell_connected(),
                    None => return,
                }
                states.changed().await
            }
            SessionState::Disconnected => {
                events.send(DiscoveryEvent::Lost);
                tokio::select! {
                    biased;
                    state = states.changed() => state,
                    () = give_up(&sessions) => return,
                }
            }
            SessionState::Expired => return events.send(DiscoveryEvent::Expired),
            _ => return,
        };
    }
}

/// Returns when a client that stays disconnected was replaced. It would connect again by itself, but doubles its pauses
/// without a limit: after an outage of ten seconds it may take as long again.
async fn give_up(sessions: &Weak<Sessions>) {
    sleep(GIVE_UP).await;
    while let Some(sessions) = sessions.upgrade() {
        if sessions.replace().await {
            return;
        }
        drop(sessions);
        sleep(PAUSE).await;
    }
}
