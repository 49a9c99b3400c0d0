//! A real ZooKeeper server.

use std::{fs, path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    PeerError, Peers,
    process::{JavaProcess, free_port},
};

/// A real ZooKeeper 3.9.5 server with a data folder of its own. It takes session timeouts from one second on.
#[derive(Debug)]
pub struct ZooKeeper {
    peers: Peers,
    folder: TempDir,
    port: u16,
    process: Option<JavaProcess>,
}

impl ZooKeeper {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When it can't be started, or doesn't become ready; the error shows the end of its log.
    pub async fn start(peers: &Peers) -> Result<Self, PeerError> {
        let folder =
            TempDir::with_prefix("metaq-zookeeper-").map_err(PeerError::io("make a temporary folder"))?;
        let mut this = Self { peers: peers.clone(), folder, port: free_port()?, process: None };
        this.restart().await?;
        Ok(this)
    }

    /// Where it listens, as clients want it: `127.0.0.1:PORT`.
    #[must_use]
    pub fn connect_string(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same port and with the same data, and waits until it answers. If it runs, it is shut down
    /// first.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<(), PeerError> {
        self.shut_down().await?;
        let folder = self.folder.path();
        let config = format!(
            "tickTime=500\nminSessionTimeout=1000\nmaxSessionTimeout=60000\ndataDir={}\nclientPort={}\n\
             clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
            folder.join("data").display(),
            self.port
        );
        let config_path = folder.join("zoo.cfg");
        fs::write(&config_path, config).map_err(PeerError::io("write zoo.cfg"))?;
        let args = [
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            &self.peers.zookeeper_class_path(),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            &config_path.display().to_string(),
        ]
        .map(str::to_owned);
        let what = format!("ZooKeeper on port {}", self.port);
        let mut process = JavaProcess::start(&what, &args, folder, &self.log())?;
        process.wait_until(async || self.ask("ruok").await.is_some_and(|answer| answer == "imok")).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it by SIGTERM.
    ///
    /// # Errors
    /// When it doesn't end.
    pub async fn shut_down(&mut self) -> Result<(), PeerError> {
        self.end(Signal::SIGTERM).await
    }

    /// Ends it by SIGKILL.
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

    /// The paths of all ephemeral nodes: what lives only as long as the session of the process that made it.
    pub async fn ephemerals(&self) -> Vec<String> {
        let dump = self.ask("dump").await.unwrap_or_default();
        dump.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned).collect()
    }

    /// How many client connections it has.
    pub async fn connections(&self) -> usize {
        // Each line is a connection; the one that asks is among them.
        let cons = self.ask("cons").await.unwrap_or_default();
        cons.lines().filter(|line| line.trim_start().starts_with('/')).count().saturating_sub(1)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("zookeeper.log")
    }

    /// Asks one of the four-letter words; none when it doesn't answer.
    async fn ask(&self, word: &str) -> Option<String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            stream.write_all(word.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        timeout(Duration::from_secs(1), ask).await.ok()?
    }
}
