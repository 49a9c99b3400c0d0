//! A real ZooKeeper server.

use std::{fs, io, path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    PeerError, PeerTls, Peers,
    artifacts::fast_start,
    process::{PEER_TIMEOUT, PeerProcess, free_port},
    zookeeper_session,
};
use crate::port::Port;

/// The number of ports that are tried if another process takes the free one before the server does.
const MAX_PORT_ATTEMPTS: usize = 3;

/// The log text in that case.
const PORT_TAKEN: &str = "java.net.BindException";

/// Makes an old server log like a new one.
const LOG4J: &str = "log4j.rootLogger=INFO, console\n\
                     log4j.appender.console=org.apache.log4j.ConsoleAppender\n\
                     log4j.appender.console.layout=org.apache.log4j.PatternLayout\n\
                     log4j.appender.console.layout.ConversionPattern=%d [%t] %p %c - %m%n\n";

/// A real ZooKeeper 3.9.5 server with its own data folder. By default it accepts session timeouts from one
/// second on.
#[derive(Debug)]
pub struct ZooKeeper {
    /// Dropped before its folder.
    process: Option<PeerProcess>,
    peers: Peers,
    setup: ZooKeeperBuilder,
    folder: TempDir,
    port: Port,
    /// The port for TLS, if there is one.
    secure_port: Port,
}

/// The settings of a [`ZooKeeper`]; made by [`ZooKeeper::builder`].
#[derive(Clone, Debug)]
pub struct ZooKeeperBuilder {
    tick_time: Duration,
    min_session_timeout: Duration,
    max_session_timeout: Duration,
    /// Its number in an ensemble, and all members as lines of the configuration.
    member: Option<(usize, String)>,
    tls: Option<PeerTls>,
    old: bool,
    heap_mib: u32,
}

impl ZooKeeperBuilder {
    pub(super) fn member(mut self, id: usize, members: String) -> Self {
        self.member = Some((id, members));
        self
    }

    /// Sets ZooKeeper's unit of time: sessions expire at multiples of it. Default 500 ms. With a longer one
    /// the nodes of a killed peer stay longer; a much shorter one loses sessions on a busy machine.
    #[must_use]
    pub fn tick_time(mut self, tick_time: Duration) -> Self {
        self.tick_time = tick_time;
        self
    }

    /// Sets the shortest and the longest session timeout that clients get, whatever they request. Default one
    /// second to one minute.
    #[must_use]
    pub fn session_timeouts(mut self, shortest: Duration, longest: Duration) -> Self {
        self.min_session_timeout = shortest;
        self.max_session_timeout = longest;
        self
    }

    /// Runs the release 3.4.3, which is as old as MetaQ 1.4. It knows neither TLS nor how to remove watches.
    #[must_use]
    pub fn old(mut self) -> Self {
        self.old = true;
        self
    }

    /// Sets the limit of memory for its nodes and watches, in MiB. Default 128, enough for some 100,000 of
    /// both.
    #[must_use]
    pub fn heap_mib(mut self, mib: u32) -> Self {
        self.heap_mib = mib;
        self
    }

    /// Listens for TLS too, on a separate port: [`ZooKeeper::secure_connect_string`].
    #[must_use]
    pub fn tls(mut self, tls: PeerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Starts a server on a free port and waits until it answers.
    ///
    /// # Errors
    /// When it can't be started, or doesn't become ready; the error contains the end of its log.
    pub async fn start(self, peers: &Peers) -> Result<ZooKeeper, PeerError> {
        let folder =
            TempDir::with_prefix("metaq-zookeeper-").map_err(PeerError::io("make a temporary folder"))?;
        let (port, secure_port) = (free_port()?, free_port()?);
        let mut zookeeper =
            ZooKeeper { peers: peers.clone(), setup: self, folder, port, secure_port, process: None };
        let mut ports_left = MAX_PORT_ATTEMPTS;
        loop {
            ports_left -= 1;
            match zookeeper.restart().await {
                Err(PeerError::Failed { log, .. }) if ports_left > 0 && log.contains(PORT_TAKEN) => {
                    (zookeeper.port, zookeeper.secure_port) = (free_port()?, free_port()?);
                }
                result => return result.map(|()| zookeeper),
            }
        }
    }
}

impl ZooKeeper {
    /// Returns a builder with the default settings.
    #[must_use]
    pub fn builder() -> ZooKeeperBuilder {
        ZooKeeperBuilder {
            tick_time: Duration::from_millis(500),
            min_session_timeout: Duration::from_secs(1),
            max_session_timeout: Duration::from_secs(60),
            member: None,
            tls: None,
            old: false,
            heap_mib: 128,
        }
    }

    /// Starts a server with the default settings on a free port and waits until it answers.
    ///
    /// # Errors
    /// When it can't be started, or doesn't become ready; the error contains the end of its log.
    pub async fn start(peers: &Peers) -> Result<Self, PeerError> {
        Self::builder().start(peers).await
    }

    /// Returns the connect string: `127.0.0.1:PORT`.
    #[must_use]
    pub fn connect_string(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Returns the connect string for TLS, if it was built with it.
    #[must_use]
    pub fn secure_connect_string(&self) -> String {
        format!("127.0.0.1:{}", self.secure_port.number())
    }

    /// Starts it again on the same port and with the same data, and waits until it answers. Shuts it down
    /// first if it runs.
    ///
    /// # Errors
    /// The same as for [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<(), PeerError> {
        self.shut_down().await?;
        let result = self.spawn().await;
        if result.is_err() {
            // The error names the log.
            self.folder.disable_cleanup(true);
        }
        result
    }

    async fn spawn(&mut self) -> Result<(), PeerError> {
        let folder = self.folder.path();
        let ZooKeeperBuilder {
            tick_time,
            min_session_timeout,
            max_session_timeout,
            member,
            tls,
            old,
            heap_mib,
        } = &self.setup;
        let data = folder.join("data");
        let mut config = format!(
            "tickTime={}\nminSessionTimeout={}\nmaxSessionTimeout={}\ndataDir={}\nclientPort={}\n\
             clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
            tick_time.as_millis(),
            min_session_timeout.as_millis(),
            max_session_timeout.as_millis(),
            data.display(),
            self.port.number()
        );
        if let Some((id, members)) = member {
            config += &format!("initLimit=20\nsyncLimit=10\n{members}");
            let write =
                || fs::create_dir_all(&data).and_then(|()| fs::write(data.join("myid"), id.to_string()));
            write().map_err(PeerError::io("write myid"))?;
        }
        if let Some(tls) = tls {
            tls.write(folder)?;
            let file = |name: &str| folder.join(name).display().to_string();
            config += &format!(
                "secureClientPort={}\nsecureClientPortAddress=127.0.0.1\n\
                 serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
                 ssl.keyStore.location={}\nssl.trustStore.location={}\nssl.clientAuth={}\n",
                self.secure_port.number(),
                file("server.pem"),
                file("ca.pem"),
                if tls.demands_certificate { "need" } else { "none" }
            );
        }
        let config_path = folder.join("zoo.cfg");
        fs::write(&config_path, config).map_err(PeerError::io("write zoo.cfg"))?;
        let mut args = fast_start();
        // The class path of brokers contains its jar.
        let jars = if *old { self.peers.broker_class_path() } else { self.peers.zookeeper_class_path() };
        args.extend([&format!("-Xmx{heap_mib}m"), "-cp", &jars].map(str::to_owned));
        if *old {
            // It logs nothing by default.
            let logging = folder.join("log4j.properties");
            fs::write(&logging, LOG4J).map_err(PeerError::io("write log4j.properties"))?;
            args.push(format!("-Dlog4j.configuration=file:{}", logging.display()));
        }
        args.push("org.apache.zookeeper.server.quorum.QuorumPeerMain".to_owned());
        args.push(config_path.display().to_string());
        let what = format!("ZooKeeper on port {}", self.port.number());
        let mut process = PeerProcess::start(&what, "java", &args, folder, &self.log())?;
        // The answer has to contain its configuration: another process may have taken the port.
        let mine = format!("dataDir={}", data.display());
        let (this, mine) = (&*self, &*mine);
        let ready = process.wait_until(Some(PORT_TAKEN), || async move {
            this.ask("conf").await.is_some_and(|conf| conf.contains(mine))
        });
        ready.await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it by SIGTERM. Has no effect if it doesn't run.
    ///
    /// # Errors
    /// When it doesn't end.
    #[doc(alias = "stop")]
    pub async fn shut_down(&mut self) -> Result<(), PeerError> {
        self.end(Signal::SIGTERM).await
    }

    /// Ends it by SIGKILL. Has no effect if it doesn't run.
    ///
    /// # Errors
    /// When it doesn't end.
    pub async fn kill(&mut self) -> Result<(), PeerError> {
        self.end(Signal::SIGKILL).await
    }

    async fn end(&mut self, signal: Signal) -> Result<(), PeerError> {
        match self.process.take() {
            Some(mut process) => process.end(signal).await,
            None => Ok(()),
        }
    }

    /// Stops its process by SIGSTOP; its connections stay open.
    pub fn freeze(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGSTOP));
    }

    /// Resumes its process after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGCONT));
    }

    /// Returns the paths of all ephemeral nodes, which live as long as the session of their process. Empty
    /// also when the server doesn't answer.
    pub async fn ephemerals(&self) -> Vec<String> {
        self.answered_ephemerals().await.unwrap_or_default()
    }

    /// Returns [`ephemerals`](Self::ephemerals), or `None` when the server doesn't answer.
    pub(super) async fn answered_ephemerals(&self) -> Option<Vec<String>> {
        let dump = self.ask("dump").await?;
        Some(dump.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned).collect())
    }

    /// Returns the number of packets that it has received since its start: one for each call of a client.
    pub async fn packets_received(&self) -> u64 {
        let answer = self.ask("srvr").await.unwrap_or_default();
        let count = answer.lines().find_map(|line| line.strip_prefix("Received: "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }

    /// Returns the number of lines of its log that are warnings or errors.
    ///
    /// # Panics
    /// When the log can't be read.
    #[must_use]
    pub fn warnings(&self) -> usize {
        let log = fs::read_to_string(self.log()).expect("the log of a server");
        log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).count()
    }

    /// Returns the number of watches that it keeps for clients, over all of their sessions.
    pub async fn watches(&self) -> usize {
        // The command about watches counts only those on data.
        let answer = self.ask("mntr").await.unwrap_or_default();
        let count = answer.lines().find_map(|line| line.strip_prefix("zk_watch_count"));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }

    /// Returns the ids of the sessions of connected clients.
    pub async fn sessions(&self) -> Vec<i64> {
        let answer = self.ask("cons").await.unwrap_or_default();
        let ids = answer.split("sid=0x").skip(1).filter_map(|rest| rest.split(',').next());
        ids.filter_map(|id| u64::from_str_radix(id, 16).ok()).map(|id| id as i64).collect()
    }

    /// Ends a session from another connection, as a process with its password can: the server treats it as
    /// expired when its client next uses it.
    ///
    /// # Errors
    /// When the server doesn't answer as expected.
    pub async fn end_session(&self, id: i64) -> Result<(), PeerError> {
        let end = async {
            loop {
                let mut stream = TcpStream::connect(("127.0.0.1", self.port.number())).await?;
                // Immediately, since its client reconnects as soon as it has lost the session.
                stream.write_all(&zookeeper_session::takeover_and_close(id)).await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await?;
                match zookeeper_session::is_taken_over(&answer, id) {
                    Some(true) => return Ok(()),
                    Some(false) => return Err(io::Error::other("there is no such session")),
                    None => {} // Its client was quicker.
                }
            }
        };
        let what = format!("end a session of ZooKeeper on port {}", self.port.number());
        let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
        timeout(PEER_TIMEOUT, end).await.unwrap_or_else(late).map_err(PeerError::io(what))
    }

    /// Returns the number of its client connections.
    pub async fn connections(&self) -> usize {
        // Each line is a connection, including the one of this request.
        let cons = self.ask("cons").await.unwrap_or_default();
        cons.lines().filter(|line| line.trim_start().starts_with('/')).count().saturating_sub(1)
    }

    /// Returns whether it leads an ensemble.
    pub(super) async fn leads(&self) -> bool {
        self.ask("srvr").await.is_some_and(|answer| answer.contains("Mode: leader"))
    }

    /// Returns the path of its log, to which each start appends.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("zookeeper.log")
    }

    /// Returns the id of its process, or `None` if it doesn't run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(PeerProcess::pid)
    }

    /// Sends one of the four-letter commands. Returns `None` if the server doesn't answer.
    async fn ask(&self, word: &str) -> Option<String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port.number())).await.ok()?;
            stream.write_all(word.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        timeout(Duration::from_secs(1), ask).await.ok()?
    }
}
