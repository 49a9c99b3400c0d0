//! Opening sessions with ZooKeeper.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use spawns_core::{Spawn, Task};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
#[cfg(feature = "tls")]
use zookeeper_client::TlsOptions;
use zookeeper_client::{Client, Error};

use super::{
    ZooKeeperConfig,
    addresses::{self, Lookup},
    diagnosis,
};
use crate::{Credentials, DiscoveryError, DiscoveryErrorKind, panics::catch};

/// The delay before a further concurrent attempt, and the largest number of concurrent attempts.
const ATTEMPT_DELAY: Duration = Duration::from_secs(1);
const MAX_ATTEMPTS: usize = 4;

/// Opens sessions.
#[derive(Debug)]
pub(super) struct Connector {
    /// Each `HOST:PORT`, separated by commas.
    hosts: String,
    look_up: Lookup,
    session_timeout: Duration,
    connect_timeout: Duration,
    silence_timeout: Duration,
    /// Set once a session was opened: from then on it is not asked why servers fail.
    has_connected: AtomicBool,
    /// The servers' latest reasons.
    reasons: Mutex<Option<String>>,
    credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    tls: Option<crate::TlsConfig>,
}

/// A session that was opened.
#[derive(Debug)]
pub(super) struct OpenedSession {
    pub(super) client: Client,
    /// The client library's task for the session; `None` if it was spawned in another way.
    pub(super) session_task: Option<JoinHandle<()>>,
}

/// The reason why no session was opened.
#[derive(Clone, Debug)]
pub(super) enum ConnectError {
    /// All servers refuse these settings, permanently.
    Refused(DiscoveryError),
    /// TLS fails with at least one of the servers.
    #[cfg(feature = "tls")]
    Tls(DiscoveryError),
    /// The reason of each server, as a text.
    Servers(String),
    /// The error of the client library.
    Library(Error),
    /// No server has answered in time.
    Silence,
}

/// Spawns a session's task like the client library, but keeps its handle: there is no other way to stop the
/// task of an abandoned client, which would reconnect and send all of its watches again.
#[derive(Default)]
struct Spawner {
    spawned: Mutex<Option<JoinHandle<()>>>,
}

impl Spawn for Spawner {
    fn spawn(&self, task: Task) {
        *self.spawned.lock() = Some(tokio::spawn(Box::into_pin(task.future)));
    }
}

/// Runs `future`, and uses `spawner` for the tasks that it spawns.
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
            look_up: addresses::look_up,
            session_timeout: config.session_timeout,
            connect_timeout: config.connect_timeout,
            silence_timeout: config.silence_timeout,
            has_connected: AtomicBool::new(false),
            reasons: Mutex::default(),
            credentials: config.credentials.clone(),
            #[cfg(feature = "tls")]
            tls: config.tls.clone(),
        }
    }

    pub(super) fn hosts(&self) -> &str {
        &self.hosts
    }

    /// Tries all servers once. Calls `noted` with each error that is known before the outcome.
    pub(super) async fn connect(&self, noted: impl Fn(ConnectError)) -> Result<OpenedSession, ConnectError> {
        let attempt = timeout(self.connect_timeout, self.connect_once());
        let attempt = self.while_probing(attempt, &noted);
        #[cfg(not(feature = "tls"))]
        let attempted = attempt.await;
        #[cfg(feature = "tls")]
        let attempted = self.unless_refused(attempt, &noted).await?;
        if matches!(attempted, Ok(Ok(_))) {
            self.has_connected.store(true, Ordering::Relaxed);
        }
        let connect_error = match attempted {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error @ (Error::BadArguments(_) | Error::AuthFailed))) => {
                return Err(ConnectError::Refused(self.failed("connect to", "", error)));
            }
            Ok(Err(error)) => ConnectError::Library(error),
            Err(_) => ConnectError::Silence,
        };
        let known = self.reasons.lock().clone();
        let connect_error = known.map_or(connect_error, ConnectError::Servers);
        noted(connect_error.clone());
        let connect_error = self.probe().await.map_or(connect_error, ConnectError::Servers);
        #[cfg(feature = "tls")]
        if let Ok(Some((refusal, lasting))) = timeout(self.connect_timeout, self.refusal()).await {
            return Err(if lasting { ConnectError::Refused(refusal) } else { ConnectError::Tls(refusal) });
        }
        Err(connect_error)
    }

    /// Runs `attempt`. If it lasts, notes meanwhile why each server fails: its end may come too late for all
    /// callers.
    async fn while_probing<T>(&self, attempt: impl Future<Output = T>, noted: impl Fn(ConnectError)) -> T {
        let mut attempt = pin!(attempt);
        let probing = async {
            sleep(ATTEMPT_DELAY.min(self.connect_timeout / 4)).await;
            self.probe().await
        };
        tokio::select! {
            biased;
            attempted = &mut attempt => return attempted,
            Some(reasons) = probing => noted(ConnectError::Servers(reasons)),
            else => {}
        }
        attempt.await
    }

    /// Asks each server why it fails, unless a session was opened before. `None` also with TLS, which has a
    /// probe of its own.
    async fn probe(&self) -> Option<String> {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return None;
        }
        if self.has_connected.load(Ordering::Relaxed) {
            return None;
        }
        let limit = diagnosis::PROBE_LIMIT.min(self.connect_timeout / 4);
        let reasons = diagnosis::server_failures(self.hosts.split(','), self.look_up, limit).await;
        *self.reasons.lock() = Some(reasons.clone());
        Some(reasons)
    }

    /// Tries all servers, and starts further concurrent attempts while none has answered: a server that is
    /// starting accepts clients and never answers them. Fails with the first failed attempt while no other
    /// one runs.
    async fn connect_once(&self) -> Result<OpenedSession, Error> {
        let servers = &self.servers().await;
        let mut attempts = FuturesUnordered::new();
        let mut is_first = true;
        loop {
            if attempts.len() < MAX_ATTEMPTS {
                let is_first = std::mem::take(&mut is_first);
                attempts.push(Box::pin(async move {
                    // The library tries one server after another, in random order, and waits for one that
                    // drops packets.
                    let servers =
                        if is_first { servers.clone() } else { addresses::reachable(servers).await };
                    let panicked =
                        |panic| Error::UnexpectedError(format!("the client library panicked: {panic}"));
                    let attempt = self.attempt(servers.join(","));
                    catch(attempt).await.unwrap_or_else(|panic| Err(panicked(panic)))
                }));
            }
            let answered = timeout(ATTEMPT_DELAY, async {
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

    /// The servers to try. With TLS, servers keep their names so that certificates can be verified.
    async fn servers(&self) -> Vec<String> {
        let hosts: Vec<_> = self.hosts.split(',').map(str::to_owned).collect();
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return hosts;
        }
        addresses::servers(&hosts, self.look_up, ATTEMPT_DELAY.min(self.connect_timeout / 4)).await
    }

    async fn attempt(&self, servers: String) -> Result<OpenedSession, Error> {
        let spawner = Spawner::default();
        let client = spawning(&spawner, Box::pin(self.connect_library(&servers)).as_mut()).await?;
        let session_task = spawner.spawned.lock().take();
        Ok(OpenedSession { client, session_task })
    }

    async fn connect_library(&self, servers: &str) -> Result<Client, Error> {
        let mut connector = Client::connector()
            // Servers as old as MetaQ don't answer the newer request for creating a node; newer servers
            // support the old one.
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
            return connector.with_tls(options).secure_connect(servers).await;
        }
        connector.connect(servers).await
    }

    /// Runs `attempt`, and concurrently probes the reason why TLS fails: the attempt may last until no time
    /// is left for the probe.
    ///
    /// # Errors
    /// The reason, if TLS fails permanently with all servers.
    #[cfg(feature = "tls")]
    async fn unless_refused<T>(
        &self,
        attempt: impl Future<Output = T>,
        noted: impl Fn(ConnectError),
    ) -> Result<T, ConnectError> {
        let mut attempt = pin!(attempt);
        let asking = async {
            sleep(ATTEMPT_DELAY).await;
            self.refusal().await
        };
        let refusal = tokio::select! {
            biased;
            attempted = &mut attempt => return Ok(attempted),
            refusal = asking => refusal,
        };
        match refusal {
            Some((refusal, true)) => return Err(ConnectError::Refused(refusal)),
            Some((refusal, false)) => noted(ConnectError::Tls(refusal)),
            None => {}
        }
        Ok(attempt.await)
    }

    /// The reason why TLS fails with one of the servers, and whether it fails permanently with all of them;
    /// `None` if TLS is not the problem.
    #[cfg(feature = "tls")]
    async fn refusal(&self) -> Option<(DiscoveryError, bool)> {
        let tls = self.tls.as_ref()?;
        let asked = self.hosts.split(',').map(async |host| {
            let name = crate::backend::tls::server_name("ZooKeeper", host).ok()?;
            tls.handshake_error("ZooKeeper", host, &name).await
        });
        let answers = futures_util::future::join_all(asked).await;
        let lasting = |answer: &Option<DiscoveryError>| {
            answer.as_ref().is_some_and(|error| error.kind() == DiscoveryErrorKind::Failed)
        };
        let all = answers.iter().all(lasting);
        answers.into_iter().flatten().next().map(|refusal| (refusal, all))
    }

    /// The error of a call that failed to `what` the node at `path`.
    pub(super) fn failed(&self, what: &str, path: &str, error: Error) -> DiscoveryError {
        let text = format!("ZooKeeper at {} failed to {what} {path}", self.hosts);
        DiscoveryError::with_source(DiscoveryErrorKind::Failed, text, error)
    }

    /// The error for callers that waited for a session until their deadline.
    pub(super) fn unreachable(&self, connect_error: Option<ConnectError>) -> DiscoveryError {
        let text = format!("no ZooKeeper answered at {} within {:?}", self.hosts, self.connect_timeout);
        let kind = DiscoveryErrorKind::Unreachable;
        match connect_error {
            #[cfg(feature = "tls")]
            Some(ConnectError::Tls(error)) => DiscoveryError::with_source(kind, text, error),
            Some(ConnectError::Refused(error)) => DiscoveryError::with_source(kind, text, error),
            Some(ConnectError::Servers(reasons)) => DiscoveryError::new(kind, format!("{text}: {reasons}")),
            Some(ConnectError::Library(error)) => DiscoveryError::with_source(kind, text, error),
            Some(ConnectError::Silence) | None => DiscoveryError::new(kind, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr};

    use futures_util::future::{BoxFuture, join_all};
    use metaq_testkit::{
        peers::{Peers, ZooKeeper},
        proxy::Proxy,
    };
    use tokio::{
        net::{TcpSocket, TcpStream},
        time::Instant,
    };

    use super::*;

    const BLACK_HOLE: [u8; 4] = [127, 0, 0, 2];

    /// Resolves every name to the addresses of the black hole and of the server.
    fn look_up(server: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let port = server.rsplit_once(':').unwrap().1.parse().unwrap();
        Box::pin(async move { Ok(vec![(BLACK_HOLE, port).into(), ([127, 0, 0, 1], port).into()]) })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn an_address_that_drops_packets_does_not_hide_the_others() {
        let Some(peers) = Peers::get("an_address_that_drops_packets_does_not_hide_the_others") else {
            return;
        };
        let zookeeper = ZooKeeper::start(&peers).await.unwrap();
        let proxy = Proxy::start(zookeeper.connect_string()).await.unwrap();
        let port = proxy.addr().port();
        // When the accept queue is full, further packets are dropped.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((BLACK_HOLE, port).into()).unwrap();
        let _black_hole = socket.listen(0).unwrap();
        let enter = async || TcpStream::connect(SocketAddr::from((BLACK_HOLE, port))).await;
        let mut queue = Vec::new();
        while let Ok(entered) = timeout(Duration::from_millis(500), enter()).await {
            queue.push(entered.unwrap());
        }
        let config = ZooKeeperConfig::default().checked().unwrap();
        // Each connector tries the addresses in its own order.
        let connections = (0..16).map(async |_| {
            let mut connector = Connector::new(&[format!("registry:{port}")], &config);
            connector.look_up = look_up;
            let began = Instant::now();
            let opened = connector.connect(|_| {}).await.unwrap();
            let took = began.elapsed();
            opened.session_task.unwrap().abort();
            took
        });
        let longest = join_all(connections).await.into_iter().max().unwrap();
        println!("connected after {longest:?} at most");
        // Two seconds plus the delay of a busy machine, but less than the four seconds after which the
        // library tries the next address.
        assert!(longest < Duration::from_millis(3500), "{longest:?}");
    }
}
