//! Opening sessions with ZooKeeper.

#[cfg(feature = "tls")]
use std::pin::pin;
use std::{future::poll_fn, pin::Pin, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use spawns_core::{Spawn, Task};
#[cfg(feature = "tls")]
use tokio::time::sleep;
use tokio::{task::JoinHandle, time::timeout};
#[cfg(feature = "tls")]
use zookeeper_client::TlsOptions;
use zookeeper_client::{Client, Error};

use super::ZooKeeperConfig;
use crate::{Credentials, DiscoveryError, DiscoveryErrorKind, supervise::catch};

/// When no server has answered for so long, another attempt is made beside those under way, up to so many.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);
const MOST_ATTEMPTS: usize = 4;

/// Opens sessions.
#[derive(Debug)]
pub(super) struct Connector {
    hosts: String,
    session_timeout: Duration,
    connect_timeout: Duration,
    silence_timeout: Duration,
    credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    tls: Option<crate::TlsConfig>,
}

/// A session that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) client: Client,
    /// The task of the client library that serves the session; none if it was spawned past us.
    pub(super) serving: Option<JoinHandle<()>>,
}

/// Why no session was opened.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// All servers refuse us as we are configured, and will go on to.
    Refused(DiscoveryError),
    /// TLS fails with one of the servers.
    #[cfg(feature = "tls")]
    Tls(DiscoveryError),
    /// The error of the client library.
    Library(Error),
    /// No server has answered in time.
    Silence,
}

/// Spawns the task of a session as the client library would, but keeps its handle: there is no other way to end the task
/// of a client that is given up, which connects again and sends all of its watches.
#[derive(Default)]
struct Spawner {
    spawned: Mutex<Option<JoinHandle<()>>>,
}

impl Spawn for Spawner {
    fn spawn(&self, task: Task) {
        *self.spawned.lock() = Some(tokio::spawn(Box::into_pin(task.future)));
    }
}

/// Runs `future`, and spawns with `spawner` what it spawns.
async fn spawning<F: Future>(spawner: &Spawner, mut future: Pin<&mut F>) -> F::Output {
    poll_fn(|context| {
        let _scope = spawns_core::enter(spawner);
        future.as_mut().poll(context)
    })
    .await
}

impl Connector {
    pub(super) fn new(hosts: &[String], config: &ZooKeeperConfig) -> Self {
        Self {
            hosts: hosts.join(","),
            session_timeout: config.session_timeout,
            connect_timeout: config.connect_timeout,
            silence_timeout: config.silence_timeout,
            credentials: config.credentials.clone(),
            #[cfg(feature = "tls")]
            tls: config.tls.clone(),
        }
    }

    pub(super) fn hosts(&self) -> &str {
        &self.hosts
    }

    /// Tries all servers once. `noted` is called with what is known of the trouble as long as the outcome is open.
    pub(super) async fn connect(&self, noted: impl Fn(Trouble)) -> Result<Opened, Trouble> {
        let attempt = timeout(self.connect_timeout, self.connect_once());
        #[cfg(not(feature = "tls"))]
        let attempted = attempt.await;
        #[cfg(feature = "tls")]
        let attempted = self.unless_refused(attempt, &noted).await?;
        let trouble = match attempted {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error @ (Error::BadArguments(_) | Error::AuthFailed))) => {
                return Err(Trouble::Refused(self.failed("connect to", "", error)));
            }
            Ok(Err(error)) => Trouble::Library(error),
            Err(_) => Trouble::Silence,
        };
        noted(trouble.clone());
        #[cfg(feature = "tls")]
        if let Ok(Some((refusal, lasting))) = timeout(self.connect_timeout, self.refusal()).await {
            return Err(if lasting { Trouble::Refused(refusal) } else { Trouble::Tls(refusal) });
        }
        Err(trouble)
    }

    /// Tries all servers, and again beside that as long as none has answered: one that is starting lets clients in and never
    /// answers them. Fails with the first try that does while no other is under way.
    async fn connect_once(&self) -> Result<Opened, Error> {
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

    async fn attempt(&self) -> Result<Opened, Error> {
        let spawner = Spawner::default();
        let client = spawning(&spawner, Box::pin(self.connect_library()).as_mut()).await?;
        let serving = spawner.spawned.lock().take();
        Ok(Opened { client, serving })
    }

    async fn connect_library(&self) -> Result<Client, Error> {
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
        noted: impl Fn(Trouble),
    ) -> Result<T, Trouble> {
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
            Some((refusal, true)) => return Err(Trouble::Refused(refusal)),
            Some((refusal, false)) => noted(Trouble::Tls(refusal)),
            None => {}
        }
        Ok(attempt.await)
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

    /// An error of a call that tried to `what` the node at `path`.
    pub(super) fn failed(&self, what: &str, path: &str, error: Error) -> DiscoveryError {
        let text = format!("ZooKeeper at {} failed to {what} {path}", self.hosts);
        DiscoveryError::with_source(DiscoveryErrorKind::Failed, text, error)
    }

    /// The error of who has waited for a session in vain.
    pub(super) fn unreachable(&self, trouble: Option<Trouble>) -> DiscoveryError {
        let text = format!("no ZooKeeper answered at {} within {:?}", self.hosts, self.connect_timeout);
        let kind = DiscoveryErrorKind::Unreachable;
        match trouble {
            #[cfg(feature = "tls")]
            Some(Trouble::Tls(error)) => DiscoveryError::with_source(kind, text, error),
            Some(Trouble::Refused(error)) => DiscoveryError::with_source(kind, text, error),
            Some(Trouble::Library(error)) => DiscoveryError::with_source(kind, text, error),
            Some(Trouble::Silence) | None => DiscoveryError::new(kind, text),
        }
    }
}
