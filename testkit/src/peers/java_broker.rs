//! A real Java broker.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use metaq_protocol::{BrokerAddr, BrokerId};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    JavaBrokerBuilder, PeerError, Peers, ZooKeeper,
    artifacts::fast_start,
    process::{PEER_TIMEOUT, PeerProcess, free_port, wait_for},
};
use crate::port::Port;

/// The number of ports that are tried if another process takes the free one before the broker does.
const MAX_PORT_ATTEMPTS: usize = 3;

/// The log texts of a broker that could not listen on its port, or could not register. It keeps running then.
const START_FAILED: &str = "MetamorphosisServerStartupException";
const PORT_TAKEN: &str = "java.net.BindException";

/// A real MetaQ 1.4.6.2 broker with its own data folder.
#[derive(Debug)]
pub struct JavaBroker {
    /// Dropped before its folder.
    process: Option<PeerProcess>,
    peers: Peers,
    setup: JavaBrokerBuilder,
    zookeeper: String,
    folder: TempDir,
    port: Port,
}

impl JavaBrokerBuilder {
    /// Starts it and waits until it is registered in `zookeeper` with all its topics, and answers.
    ///
    /// # Errors
    /// When it can't be started, or doesn't become ready; the error contains the end of its log.
    pub async fn start(self, peers: &Peers, zookeeper: &ZooKeeper) -> Result<JavaBroker, PeerError> {
        let folder =
            TempDir::with_prefix("metaq-broker-").map_err(PeerError::io("make a temporary folder"))?;
        let (fixed_port, peers) = (self.port, peers.clone());
        let port = fixed_port.map_or_else(free_port, |port| Ok(Port::fixed(port)))?;
        let address = zookeeper.connect_string();
        let mut broker = JavaBroker { peers, setup: self, zookeeper: address, folder, port, process: None };
        let result = match fixed_port {
            Some(_) => broker.restart(zookeeper).await,
            None => broker.restart_until_free(zookeeper).await,
        };
        result.map(|()| broker)
    }
}

impl JavaBroker {
    /// Returns a builder of a broker with the given id, the registry's root `/meta` and a session of 6 s.
    /// Messages become readable about 100 ms after they were acknowledged. The broker needs at least one
    /// topic: without one it does not start.
    #[must_use]
    pub fn builder(id: i32) -> JavaBrokerBuilder {
        JavaBrokerBuilder::new(id)
    }

    /// Returns the id of the broker.
    #[must_use]
    pub fn id(&self) -> BrokerId {
        BrokerId(self.setup.id)
    }

    /// Returns the address on which it listens, or did last: `meta://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// Never: the loopback address and a port other than 0 make a valid address.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "a constant host and a port that is not 0")]
    pub fn addr(&self) -> BrokerAddr {
        BrokerAddr::new("127.0.0.1", self.port.number()).unwrap()
    }

    /// Returns the TCP port on which it listens, or did last.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Ends it in order, by SIGTERM: it removes its nodes from the registry and closes its connections. Has
    /// no effect if it doesn't run.
    ///
    /// # Errors
    /// When it doesn't end.
    pub async fn shut_down(&mut self) -> Result<(), PeerError> {
        self.end(Signal::SIGTERM).await
    }

    /// Ends it by SIGKILL; its nodes stay in the registry until its session has expired. Has no effect if it
    /// doesn't run.
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

    /// Stops its process by SIGSTOP; its connections stay open. After the session timeout its nodes
    /// disappear.
    pub fn freeze(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGSTOP));
    }

    /// Resumes its process after [`freeze`](Self::freeze). If its nodes have disappeared it registers again.
    pub fn thaw(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGCONT));
    }

    /// Starts it again on the same port, with the same data, and waits until it is registered. Shuts it down
    /// first if it runs. After a kill this waits for its session to expire before the start: a broker that
    /// finds the nodes of its former process does not register (see
    /// [`restart_at_once`](Self::restart_at_once)).
    ///
    /// # Errors
    /// When it doesn't become ready; the error contains the end of its log.
    pub async fn restart(&mut self, zookeeper: &ZooKeeper) -> Result<(), PeerError> {
        self.shut_down().await?;
        if self.setup.registers {
            self.wait_until_unregistered(zookeeper).await?;
        }
        let mut process = self.spawn()?;
        let this = &*self;
        let ready = process.wait_until(Some(START_FAILED), || async {
            (!this.setup.registers || this.is_registered(zookeeper).await) && this.responds().await
        });
        let result = ready.await;
        self.keep(process, result)
    }

    /// Starts it again with the same id and data, but on another free port, and waits until it is registered.
    /// Shuts it down first if it runs.
    ///
    /// # Errors
    /// The same as for [`restart`](Self::restart).
    pub async fn restart_elsewhere(&mut self, zookeeper: &ZooKeeper) -> Result<(), PeerError> {
        self.shut_down().await?;
        self.port = free_port()?;
        self.restart_until_free(zookeeper).await
    }

    /// Starts it, on another port if another process has taken its port.
    async fn restart_until_free(&mut self, zookeeper: &ZooKeeper) -> Result<(), PeerError> {
        let mut ports_left = MAX_PORT_ATTEMPTS;
        loop {
            ports_left -= 1;
            match self.restart(zookeeper).await {
                Err(PeerError::Failed { log, .. }) if ports_left > 0 && log.contains(PORT_TAKEN) => {
                    self.port = free_port()?;
                }
                result => return result,
            }
        }
    }

    /// Starts it again immediately, as a supervisor does after a crash, without regard to the registry, and
    /// waits only until it answers. If its former session has not expired, it answers but is not registered;
    /// it does not retry, but the first message to a topic makes it register that topic, without its address.
    /// Shuts it down first if it runs.
    ///
    /// # Errors
    /// When it doesn't answer in time; the error contains the end of its log.
    pub async fn restart_at_once(&mut self) -> Result<(), PeerError> {
        self.shut_down().await?;
        let mut process = self.spawn()?;
        let result = process.wait_until(Some(PORT_TAKEN), || self.responds()).await;
        self.keep(process, result)
    }

    /// Waits until it is registered with its address and all its topics, for instance after
    /// [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// When that takes more than a minute, or it has ended.
    pub async fn await_registration(&mut self, zookeeper: &ZooKeeper) -> Result<(), PeerError> {
        let Some(mut process) = self.process.take() else {
            return Err(PeerError::io("await the registration of a broker")(std::io::Error::other(
                "it does not run",
            )));
        };
        let result = process.wait_until(None, || self.is_registered(zookeeper)).await;
        self.keep(process, result)
    }

    fn spawn(&self) -> Result<PeerProcess, PeerError> {
        let folder = self.folder.path();
        let config_path = folder.join("server.ini");
        let data = folder.join("data");
        fs::create_dir_all(&data).map_err(PeerError::io("make the data folder"))?;
        let ini = self.setup.ini(self.port(), &data, &self.zookeeper);
        fs::write(&config_path, ini).map_err(PeerError::io("write server.ini"))?;
        let mut args = if self.setup.in_service { Vec::new() } else { fast_start() };
        args.extend(Peers::jvm_options(folder)?);
        let heap = if self.setup.in_service { "-Xmx1g" } else { "-Xmx256m" };
        args.extend([heap, "-cp", &self.peers.broker_class_path()].map(str::to_owned));
        args.extend(["com.taobao.metamorphosis.server.MetamorphosisStartup", "-f"].map(str::to_owned));
        args.push(config_path.display().to_string());
        let what = format!("broker {} on port {}", self.setup.id, self.port());
        PeerProcess::start(&what, "java", &args, folder, &self.log())
    }

    fn keep(&mut self, process: PeerProcess, result: Result<(), PeerError>) -> Result<(), PeerError> {
        match &result {
            Ok(()) => self.process = Some(process),
            // The error names the log.
            Err(_) => self.folder.disable_cleanup(true),
        }
        result
    }

    /// Returns the ports at the other ends of its established TCP connections, read from `/proc/net`. While a
    /// port is among them, its connection is the same. Linux only: empty elsewhere.
    #[must_use]
    pub fn client_ports(&self) -> BTreeSet<u16> {
        const ESTABLISHED: &str = "01";
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let client = |line: &str| {
            let mut columns = line.split_whitespace().skip(1);
            let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
            if port(local) == Some(self.port()) && state == ESTABLISHED { port(remote) } else { None }
        };
        tables.iter().flat_map(|table| table.lines()).filter_map(client).collect()
    }

    /// Returns the number of established TCP connections to its port. All come from this machine, so each has
    /// another port at the other end. Linux only: 0 elsewhere.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.client_ports().len()
    }

    /// Returns the path of its log, to which each start appends.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("broker.log")
    }

    /// Returns the id of its process, or `None` if it doesn't run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(PeerProcess::pid)
    }

    /// Waits until no process with its id is registered.
    async fn wait_until_unregistered(&self, zookeeper: &ZooKeeper) -> Result<(), PeerError> {
        let nodes = self.setup.nodes();
        let timeout = PEER_TIMEOUT + self.setup.session_timeout;
        let absent = wait_for(timeout, || async {
            let there = zookeeper.answered_ephemerals().await;
            there.is_some_and(|there| !nodes.iter().any(|node| there.contains(node)))
        });
        if absent.await {
            Ok(())
        } else {
            Err(PeerError::Registered { node: self.setup.master_node(), timeout })
        }
    }

    async fn is_registered(&self, zookeeper: &ZooKeeper) -> bool {
        let there = zookeeper.ephemerals().await;
        self.setup.nodes().iter().all(|node| there.contains(node))
    }

    async fn responds(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port.number())).await.ok()?;
            stream.write_all(b"version 1\r\n").await.ok()?;
            let mut answer = [0; 11];
            stream.read_exact(&mut answer).await.ok()?;
            (&answer == b"result 200 ").then_some(())
        };
        matches!(timeout(Duration::from_secs(1), ask).await, Ok(Some(())))
    }
}
