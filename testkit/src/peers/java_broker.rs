//! A real Java broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
    time::Duration,
};

use metaq_protocol::{BrokerAddr, BrokerId};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    PeerError, Peers, ZooKeeper,
    process::{JavaProcess, free_port},
};

/// A real MetaQ 1.4.6.2 broker with a data folder of its own.
#[derive(Debug)]
pub struct JavaBroker {
    peers: Peers,
    setup: JavaBrokerBuilder,
    zookeeper: String,
    folder: TempDir,
    port: u16,
    process: Option<JavaProcess>,
}

/// How a [`JavaBroker`] is to be; made by [`JavaBroker::builder`].
#[derive(Clone, Debug)]
pub struct JavaBrokerBuilder {
    id: i32,
    topics: Vec<(String, u32)>,
    root: String,
    session_timeout: Duration,
    settings: BTreeMap<String, String>,
}

impl JavaBroker {
    /// A broker with the given id, no topics, the registry's root `/meta` and a session of 6 s. It makes messages readable
    /// 100 ms after they were acknowledged.
    #[must_use]
    pub fn builder(id: i32) -> JavaBrokerBuilder {
        JavaBrokerBuilder {
            id,
            topics: Vec::new(),
            root: "/meta".to_owned(),
            session_timeout: Duration::from_secs(6),
            settings: [
                ("numPartitions", "1"),
                ("unflushThreshold", "1"),
                ("unflushInterval", "100"),
                ("maxSegmentSize", "1073741824"),
                ("maxTransferSize", "1048576"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> BrokerId {
        BrokerId(self.setup.id)
    }

    /// Where it listens, or did last.
    ///
    /// # Panics
    /// Never: the loopback address and a port of one's own make an address.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "a constant host and a port that is not 0")]
    pub fn addr(&self) -> BrokerAddr {
        BrokerAddr::new("127.0.0.1", self.port).unwrap()
    }

    /// The TCP port on which it listens, or did last.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it properly, by SIGTERM: it takes its nodes out of the registry and closes its connections.
    ///
    /// # Errors
    /// When it doesn't end.
    pub async fn shut_down(&mut self) -> Result<(), PeerError> {
        self.end(Signal::SIGTERM).await
    }

    /// Ends it by SIGKILL; its nodes stay in the registry until its session has expired.
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

    /// Stops it in its tracks by SIGSTOP; its connections stay open.
    pub fn freeze(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGSTOP));
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGCONT));
    }

    /// Starts it again on the same port, with the same data, and waits until it is registered. If it runs, it is shut
    /// down first.
    ///
    /// # Errors
    /// When it doesn't become ready; the error shows the end of its log.
    pub async fn restart(&mut self, zookeeper: &ZooKeeper) -> Result<(), PeerError> {
        self.shut_down().await?;
        let folder = self.folder.path();
        let config_path = folder.join("server.ini");
        let data = folder.join("data");
        fs::create_dir_all(&data).map_err(PeerError::io("make the data folder"))?;
        fs::write(&config_path, self.config()).map_err(PeerError::io("write server.ini"))?;
        let mut args: Vec<_> =
            ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned).into();
        for package in ["java.nio", "sun.nio.ch", "java.lang", "java.util"] {
            args.push(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
        }
        // It writes below the home folder otherwise.
        args.push(format!("-Duser.home={}", folder.display()));
        args.extend(["-cp".to_owned(), self.peers.broker_class_path()]);
        args.extend(["com.taobao.metamorphosis.server.MetamorphosisStartup", "-f"].map(str::to_owned));
        args.push(config_path.display().to_string());
        let what = format!("broker {} on port {}", self.setup.id, self.port);
        let mut process = JavaProcess::start(&what, &args, folder, &self.log())?;
        process.wait_until(async || self.is_registered(zookeeper).await && self.answers().await).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts it again with the same id and data, but on another port, and waits until it is registered. If it runs,
    /// it is shut down first.
    ///
    /// # Errors
    /// As for [`restart`](Self::restart).
    pub async fn restart_elsewhere(&mut self, zookeeper: &ZooKeeper) -> Result<(), PeerError> {
        self.shut_down().await?;
        self.port = free_port()?;
        self.restart(zookeeper).await
    }

    /// The ports at the other ends of its established TCP connections, read from `/proc/net`. As long as a port is
    /// among them, its connection is the same.
    #[must_use]
    pub fn client_ports(&self) -> BTreeSet<u16> {
        const ESTABLISHED: &str = "01";
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let client = |line: &str| {
            let mut columns = line.split_whitespace().skip(1);
            let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
            if port(local) == Some(self.port) && state == ESTABLISHED { port(remote) } else { None }
        };
        tables.iter().flat_map(|table| table.lines()).filter_map(client).collect()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("broker.log")
    }

    fn config(&self) -> String {
        let JavaBrokerBuilder { id, topics, root, session_timeout, settings } = &self.setup;
        let data = self.folder.path().join("data");
        let mut text = format!(
            "[system]\nbrokerId={id}\nserverPort={}\ndashboardHttpPort=0\nhostName=127.0.0.1\n\
             dataPath={}\ndataLogPath={}\n",
            self.port,
            data.display(),
            data.display()
        );
        let mut line = |name: &str, value: &str| {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name}={value}");
        };
        settings.iter().for_each(|(name, value)| line(name, value));
        let zookeeper = &self.zookeeper;
        let timeout = session_timeout.as_millis();
        let _ = write!(
            text,
            "[zookeeper]\nzk.zkConnect={zookeeper}\nzk.zkRoot={root}\nzk.zkSessionTimeoutMs={timeout}\n\
             zk.zkConnectionTimeoutMs=30000\nzk.zkSyncTimeMs=1000\n"
        );
        for (topic, partitions) in topics {
            let _ = write!(text, "[topic={topic}]\nnumPartitions={partitions}\nstat=true\n");
        }
        text
    }

    async fn is_registered(&self, zookeeper: &ZooKeeper) -> bool {
        let JavaBrokerBuilder { id, topics, root, .. } = &self.setup;
        let there = zookeeper.ephemerals().await;
        let master = format!("{root}/brokers/ids/{id}/master");
        let topics = topics.iter().map(|(topic, _)| format!("{root}/brokers/topics-pub/{topic}/{id}-m"));
        topics.chain([master]).all(|path| there.contains(&path))
    }

    async fn answers(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            stream.write_all(b"version 1\r\n").await.ok()?;
            let mut answer = [0; 11];
            stream.read_exact(&mut answer).await.ok()?;
            (&answer == b"result 200 ").then_some(())
        };
        matches!(timeout(Duration::from_secs(1), ask).await, Ok(Some(())))
    }
}

impl JavaBrokerBuilder {
    /// Adds a topic with so many partitions.
    #[must_use]
    pub fn topic(mut self, name: &str, partitions: u32) -> Self {
        self.topics.push((name.to_owned(), partitions));
        self
    }

    /// The root of its registry. Default `/meta`.
    #[must_use]
    pub fn root(mut self, root: &str) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// After how long ZooKeeper gives it up when it is killed. Default 6 s.
    #[must_use]
    pub fn session_timeout(mut self, session_timeout: Duration) -> Self {
        self.session_timeout = session_timeout;
        self
    }

    /// A line of the section `[system]` of its configuration.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts it on a free port and waits until it is registered in `zookeeper` and answers.
    ///
    /// # Errors
    /// When it can't be started, or doesn't become ready; the error shows the end of its log.
    pub async fn start(self, peers: &Peers, zookeeper: &ZooKeeper) -> Result<JavaBroker, PeerError> {
        let folder =
            TempDir::with_prefix("metaq-broker-").map_err(PeerError::io("make a temporary folder"))?;
        let mut broker = JavaBroker {
            peers: peers.clone(),
            setup: self,
            zookeeper: zookeeper.connect_string(),
            folder,
            port: free_port()?,
            process: None,
        };
        broker.restart(zookeeper).await?;
        Ok(broker)
    }
}
