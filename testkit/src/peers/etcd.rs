//! A real etcd server.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    PeerError, PeerTls,
    artifacts::{create_once, ensure_installed, locked_cache, run},
    process::{PeerProcess, free_port},
};
use crate::port::Port;

const MODULE: &str = "module metaq/etcd\n\ngo 1.24\n\ntool go.etcd.io/etcd/server/v3\n";
const SERVER: &str = "go.etcd.io/etcd/server/v3";
const VERSION: &str = "v3.6.6";

/// The number of ports that are tried if another process takes a free one before the server does.
const MAX_PORT_ATTEMPTS: usize = 3;

/// The log text in that case.
const PORT_TAKEN: &str = "address already in use";

/// The program of etcd 3.6.6, built by Go in the folder of [`Peers`](super::Peers).
#[derive(Clone, Debug)]
pub struct EtcdProgram {
    path: PathBuf,
}

impl EtcdProgram {
    /// Builds the program if it isn't there yet. Blocks. Several processes may call it at the same time: one
    /// builds, the others wait.
    ///
    /// # Errors
    /// When Go or `setpriv` is missing, or fetching or building fails.
    pub fn fetch() -> Result<Self, PeerError> {
        ensure_installed("setpriv", "setpriv", "util-linux")?;
        let (cache, _lock) = locked_cache()?;
        let folder = create_once(&cache, "etcd", &format!("{MODULE}{SERVER}@{VERSION}"), |folder| {
            ensure_installed("go", "Go (1.24 or later)", "golang-go")?;
            fs::write(folder.join("go.mod"), MODULE).map_err(PeerError::io("write a go.mod for etcd"))?;
            let mut get = Command::new("go");
            get.args(["get", "-tool", &format!("{SERVER}@{VERSION}")]).current_dir(folder);
            run(&mut get, "etcd").map_err(|error| match error {
                PeerError::Tool { what, output } => {
                    PeerError::Fetch { tool: "Go", registry: "a Go module proxy", what, output }
                }
                other => other,
            })?;
            let mut build = Command::new("go");
            build.args(["build", "-o", "etcd", SERVER]).current_dir(folder);
            run(&mut build, "building etcd with Go")
        })?;
        Ok(Self { path: folder.join("etcd") })
    }
}

/// A real etcd 3.6.6 server with its own data folder.
#[derive(Debug)]
pub struct Etcd {
    /// Dropped before its folder.
    process: Option<PeerProcess>,
    program: EtcdProgram,
    folder: TempDir,
    port: Port,
    peer_port: Port,
    /// The address of its health check, without TLS.
    health_port: Port,
    tls: Option<PeerTls>,
    max_request_bytes: Option<u32>,
}

impl Etcd {
    /// Starts a server on a free port and waits until it answers.
    ///
    /// # Errors
    /// When it can't be started, or doesn't become ready; the error contains the end of its log.
    pub async fn start(program: &EtcdProgram) -> Result<Self, PeerError> {
        Self::spawn(program, None, None).await
    }

    /// Starts a server that accepts requests longer than the default of 1.5 MiB, and so longer values.
    ///
    /// # Errors
    /// The same as for [`start`](Self::start).
    pub async fn start_with_max_request_bytes(program: &EtcdProgram, bytes: u32) -> Result<Self, PeerError> {
        Self::spawn(program, None, Some(bytes)).await
    }

    /// Starts a server that listens for TLS only.
    ///
    /// # Errors
    /// The same as for [`start`](Self::start).
    pub async fn start_with_tls(program: &EtcdProgram, tls: PeerTls) -> Result<Self, PeerError> {
        Self::spawn(program, Some(tls), None).await
    }

    async fn spawn(
        program: &EtcdProgram,
        tls: Option<PeerTls>,
        max_request_bytes: Option<u32>,
    ) -> Result<Self, PeerError> {
        let folder = TempDir::with_prefix("metaq-etcd-").map_err(PeerError::io("make a temporary folder"))?;
        let program = program.clone();
        let (port, peer_port, health_port) = (free_port()?, free_port()?, free_port()?);
        let mut etcd =
            Self { program, folder, port, peer_port, health_port, tls, max_request_bytes, process: None };
        let mut ports_left = MAX_PORT_ATTEMPTS;
        loop {
            ports_left -= 1;
            match etcd.restart().await {
                Err(PeerError::Failed { log, .. }) if ports_left > 0 && log.contains(PORT_TAKEN) => {
                    (etcd.port, etcd.peer_port, etcd.health_port) =
                        (free_port()?, free_port()?, free_port()?);
                }
                result => return result.map(|()| etcd),
            }
        }
    }

    /// Returns the address on which it listens: `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Starts it again on the same port and with the same data, and waits until it answers. Shuts it down
    /// first if it runs.
    ///
    /// # Errors
    /// The same as for [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<(), PeerError> {
        self.end(Signal::SIGTERM).await?;
        let folder = self.folder.path();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{}", self.endpoint());
        let peer = format!("http://127.0.0.1:{}", self.peer_port.number());
        let health = format!("http://127.0.0.1:{}", self.health_port.number());
        let data = folder.join("data").display().to_string();
        let args = [
            ["--name", "one"],
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-metrics-urls", &health],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &format!("one={peer}")],
        ];
        let mut args: Vec<_> = args.as_flattened().iter().map(|&arg| arg.to_owned()).collect();
        args.extend(self.max_request_bytes.map(|bytes| format!("--max-request-bytes={bytes}")));
        if let Some(tls) = &self.tls {
            tls.write(folder)?;
            let files = [("cert", "server.crt"), ("key", "server.key"), ("trusted-ca", "ca.pem")];
            args.extend(files.map(|(what, name)| format!("--{what}-file={}", folder.join(name).display())));
            args.push(format!("--client-cert-auth={}", tls.demands_certificate));
        }
        let what = format!("etcd on port {}", self.port.number());
        let program = self.program.path.display().to_string();
        let mut process = PeerProcess::start(&what, &program, &args, folder, &folder.join("etcd.log"))?;
        let this = &*self;
        let result = process.wait_until(Some(PORT_TAKEN), || this.responds()).await;
        if result.is_err() {
            // The error names the log.
            self.folder.disable_cleanup(true);
        }
        self.process = Some(process);
        result
    }

    /// Ends it by SIGKILL, as a crash does. Has no effect if it doesn't run.
    ///
    /// # Errors
    /// When it doesn't end.
    pub async fn kill(&mut self) -> Result<(), PeerError> {
        self.end(Signal::SIGKILL).await
    }

    /// Stops its process without ending it: connections stay open, and nothing is answered until
    /// [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGSTOP));
    }

    /// Resumes its process after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process.iter().for_each(|process| process.signal(Signal::SIGCONT));
    }

    async fn end(&mut self, signal: Signal) -> Result<(), PeerError> {
        match self.process.take() {
            Some(mut process) => process.end(signal).await,
            None => Ok(()),
        }
    }

    async fn responds(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.health_port.number())).await.ok()?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            answer.contains("\"true\"").then_some(())
        };
        matches!(timeout(Duration::from_secs(1), ask).await, Ok(Some(())))
    }
}
