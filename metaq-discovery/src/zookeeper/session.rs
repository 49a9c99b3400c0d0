//! The session with ZooKeeper: opened when it is needed, and opened anew when it has ended.

use std::{
    error::Error as StdError,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
#[cfg(feature = "tls")]
use zookeeper_client::TlsOptions;
use zookeeper_client::{Client, Error, SessionState, StateWatcher};

use super::ZooKeeperConfig;
use crate::{Credentials, DiscoveryError, DiscoveryErrorKind, DiscoveryEvent, EventPublisher};

/// A client that is disconnected for so long is replaced as soon as that is possible. What it has been doing by then it
/// does with pauses below that.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Between attempts to find a server that answers.
const PAUSE: Duration = Duration::from_millis(200);

/// When no server has answered for so long, another attempt is made beside those under way, up to so many.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);
const MOST_ATTEMPTS: usize = 4;

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
    pub(super) fn new(hosts: Vec<String>, config: &ZooKeeperConfig, events: EventPublisher) -> Self {
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
            connected: watch::Sender::default(),
            replaced: watch::Sender::default(),
        }
    }

    pub(super) fn hosts(&self) -> &str {
        &self.hosts
    }

    /// A client with a session that has not ended, as far as is known.
    pub(super) async fn client(self: &Arc<Self>) -> Result<Client, DiscoveryError> {
        // Held while connecting: all who need a session wait for the same one.
        let mut current = self.current.lock().await;
        if current.closed {
            return Err(DiscoveryError::closed());
        }
        if let Some(client) = current.client.as_ref().filter(|client| !client.state().is_terminated()) {
            return Ok(client.clone());
        }
        current.client = None;
        let client = self.connect().await?;
        if let Some(telling) = current.telling.take() {
            // It is about to tell how the former session ended, which comes before the news of this one.
            let _ = telling.await;
        }
        self.adopt(&mut current, &client);
        Ok(client)
    }

    /// Makes a client the one that everybody uses.
    fn adopt(self: &Arc<Self>, current: &mut Current, client: &Client) {
        tracing::info!(hosts = %self.hosts, session = %client.session_id(), "session with ZooKeeper opened");
        current.client = Some(client.clone());
        self.tell_connected();
        let (states, events) = (client.state_watcher(), self.events.clone());
        current.telling = Some(tokio::spawn(tell(Arc::downgrade(self), states, events)));
    }

    fn tell_connected(&self) {
        self.connected.send_modify(|count| *count += 1);
        self.events.send(DiscoveryEvent::Connected);
    }

    /// Tries to put another client in the place of one that is disconnected; true when that was done, or there is no need
    /// any more.
    async fn replace(self: &Arc<Self>) -> bool {
        if self.current.lock().await.closed {
            return true;
        }
        let Ok(Ok(client)) = timeout(self.connect_timeout, self.connect_once()).await else { return false };
        let mut current = self.current.lock().await;
        if !current.closed {
            self.adopt(&mut current, &client);
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
        let deadline = Instant::now() + self.connect_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        #[cfg(feature = "tls")]
        let mut known = None;
        loop {
            let error = match timeout(left(), self.connect_once()).await {
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
                attempts.push(Box::pin(self.attempt()));
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
    pub(super) async fn close(&self) {
        let mut current = self.current.lock().await;
        current.closed = true;
        current.client = None;
        if let Some(telling) = current.telling.take() {
            telling.abort();
        }
    }
}

/// Tells how a session fares until it has ended, or another was opened because it stayed disconnected.
async fn tell(sessions: Weak<Sessions>, mut states: StateWatcher, events: EventPublisher) {
    let mut state = states.changed().await;
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
