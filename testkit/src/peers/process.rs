//! A Java process that ends with its handle.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{PeerError, log_tail};

/// How long a peer may take to become ready, or to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at whether a peer is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running Java process. It is killed when the handle is dropped, and by the kernel when the thread that started it
/// ends without that.
#[derive(Debug)]
pub(super) struct JavaProcess {
    child: Child,
    what: String,
    log: PathBuf,
}

impl JavaProcess {
    /// Starts `java` with `args`; what it prints is added to `log`.
    pub(super) fn start(what: &str, args: &[String], folder: &Path, log: &Path) -> Result<Self, PeerError> {
        let open = || -> std::io::Result<(File, File)> {
            let file = OpenOptions::new().create(true).append(true).open(log)?;
            Ok((file.try_clone()?, file))
        };
        let (stdout, stderr) = open().map_err(PeerError::io(format!("open {}", log.display())))?;
        // A test process that is killed runs no destructors; setpriv has the kernel see to its children.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "java"]).args(args).current_dir(folder);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).kill_on_drop(true);
        let child = command.spawn().map_err(PeerError::io(format!("start {what} with setpriv and java")))?;
        Ok(Self { child, what: what.to_owned(), log: log.to_owned() })
    }

    /// Waits until `is_ready` says so; fails when that takes too long or the process ends.
    pub(super) async fn wait_until(
        &mut self,
        mut is_ready: impl AsyncFnMut() -> bool,
    ) -> Result<(), PeerError> {
        let deadline = Instant::now() + PATIENCE;
        while !is_ready().await {
            let ended = self.child.try_wait().map_err(PeerError::io("look after a process"))?.is_some();
            if ended || Instant::now() > deadline {
                let what = self.what.clone();
                return Err(PeerError::NotReady {
                    what,
                    seconds: PATIENCE.as_secs(),
                    log: log_tail(&self.log),
                });
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Sends a signal; a process that has ended gets none.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id() {
            // It may have ended between the two.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    /// Sends a signal that ends the process, and waits until it has.
    pub(super) async fn end(&mut self, signal: Signal) -> Result<(), PeerError> {
        self.signal(signal);
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(ended) => ended.map(drop).map_err(PeerError::io(format!("wait for {} to end", self.what))),
            Err(_) => {
                let what = format!("{} after {signal}", self.what);
                Err(PeerError::NotReady { what, seconds: PATIENCE.as_secs(), log: log_tail(&self.log) })
            }
        }
    }
}

/// A TCP port of the loopback interface that nobody listens on at this moment.
pub(super) fn free_port() -> Result<u16, PeerError> {
    let bound = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map(|addr| addr.port()).map_err(PeerError::io("find a free port"))
}
