//! A process that ends with its handle.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::PeerError;
use crate::port::Port;

/// The time that a peer may take to become ready, or to end.
pub(super) const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause between two evaluations of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The number of bytes and of lines of a log's end that errors contain.
const TAIL_BYTES: u64 = 32 * 1024;
const TAIL_LINES: usize = 40;

/// Becomes the process `"$@"`, unless the test's process, whose id is `$0`, had ended before the kernel
/// watched it.
const EXEC_IF_PARENT_LIVES: &str = r#"test "$PPID" = "$0" && exec "$@""#;

/// A running process. Dropping the handle kills it and waits until it has ended; the kernel kills it when
/// this process ends without that.
#[derive(Debug)]
pub(super) struct PeerProcess {
    child: Child,
    what: String,
    log: PathBuf,
    /// The position at which the log of this process begins: a restarted peer appends to the log of its
    /// former process.
    log_start: u64,
}

impl PeerProcess {
    /// Starts `program` with `args`; its output is appended to `log`.
    pub(super) fn start(
        what: &str,
        program: &str,
        args: &[String],
        folder: &Path,
        log: &Path,
    ) -> Result<Self, PeerError> {
        let open = || -> io::Result<(File, File, u64)> {
            let file = OpenOptions::new().create(true).append(true).open(log)?;
            Ok((file.try_clone()?, file.try_clone()?, file.metadata()?.len()))
        };
        let (stdout, stderr, log_start) = open().map_err(PeerError::io(format!("open {}", log.display())))?;
        // A killed test process runs no destructors: setpriv makes the kernel kill its children.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", EXEC_IF_PARENT_LIVES]);
        command.arg(std::process::id().to_string()).arg(program).args(args).current_dir(folder);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).kill_on_drop(true);
        let child =
            spawn(command).map_err(PeerError::io(format!("start {what} with setpriv and {program}")))?;
        Ok(Self { child, what: what.to_owned(), log: log.to_owned(), log_start })
    }

    /// Waits until `is_ready` returns true. Fails if that takes too long, if the process ends, or if its log
    /// contains `fatal`.
    pub(super) async fn wait_until<F: Future<Output = bool>>(
        &mut self,
        fatal: Option<&str>,
        mut is_ready: impl FnMut() -> F,
    ) -> Result<(), PeerError> {
        let deadline = Instant::now() + PEER_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().map_err(PeerError::io("look after a process"))? {
                return Err(match fatal {
                    Some(fatal) if self.log_contains(fatal) => self.failed(),
                    _ => self.ended(status),
                });
            }
            if is_ready().await {
                return Ok(());
            }
            if let Some(fatal) = fatal
                && self.log_contains(fatal)
            {
                return Err(self.failed());
            }
            if Instant::now() > deadline {
                return Err(self.timed_out("become ready", PEER_TIMEOUT));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the process has ended by itself, successfully.
    pub(super) async fn succeed(&mut self, timeout: Duration) -> Result<(), PeerError> {
        match tokio::time::timeout(timeout, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status)),
            Ok(Err(error)) => Err(PeerError::io(format!("wait for {}", self.what))(error)),
            Err(_) => Err(self.timed_out("come to its end", timeout)),
        }
    }

    /// Returns its id, or `None` once it is known to have ended.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal; has no effect on a process that has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // The process may have ended in between.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Sends a signal that ends the process, and waits until it has ended.
    pub(super) async fn end(&mut self, signal: Signal) -> Result<(), PeerError> {
        self.signal(signal);
        // A stopped process doesn't handle the signal.
        self.signal(Signal::SIGCONT);
        match timeout(PEER_TIMEOUT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).map_err(PeerError::io(format!("wait for {} to end", self.what))),
            Err(_) => Err(self.timed_out(&format!("end after {signal}"), PEER_TIMEOUT)),
        }
    }

    /// Returns whether the end of its log contains this text.
    pub(super) fn log_contains(&self, text: &str) -> bool {
        tail(&self.log, self.log_start).contains(text)
    }

    fn failed(&self) -> PeerError {
        let (what, log_file, log) = self.description();
        PeerError::Failed { what, log_file, log }
    }

    fn ended(&self, status: ExitStatus) -> PeerError {
        let (what, log_file, log) = self.description();
        PeerError::Ended { what, status, log_file, log }
    }

    fn timed_out(&self, purpose: &str, timeout: Duration) -> PeerError {
        let (what, log_file, log) = self.description();
        PeerError::TimedOut { what: format!("{what} to {purpose}"), timeout, log_file, log }
    }

    fn description(&self) -> (String, PathBuf, String) {
        let text = tail(&self.log, self.log_start);
        let lines: Vec<_> = text.lines().collect();
        let log = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        (self.what.clone(), self.log.clone(), log)
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        // The process may have ended.
        let _ = self.child.start_kill();
        // Blocks for the milliseconds that the kernel takes, because the folder that the process writes to is
        // removed next. Another waiter for the process by its handle still gets its status.
        let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = self.child.try_wait();
    }
}

/// Returns the end of a log from `start` on, as far as it can be read.
fn tail(log: &Path, start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Waits until `condition` holds. Returns false if it doesn't hold within `timeout`.
pub(super) async fn wait_for<F: Future<Output = bool>>(
    timeout: Duration,
    mut condition: impl FnMut() -> F,
) -> bool {
    let deadline = Instant::now() + timeout;
    while !condition().await {
        if Instant::now() > deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
    true
}

/// A request to the spawner: the command, its runtime, and the sender for the result.
type SpawnRequest = (Command, Handle, mpsc::SyncSender<io::Result<Child>>);

/// Starts a process from a thread that lives as long as this process. The kernel kills a child when the
/// *thread* that started it ends, and the threads of tests and of runtimes end earlier.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: LazyLock<mpsc::Sender<SpawnRequest>> = LazyLock::new(|| {
        let (requests, incoming) = mpsc::channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, runtime, answer) in incoming {
                let _inside = runtime.enter();
                // The requester waits for the result.
                let _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let gone = || io::Error::other("the thread that starts processes has ended");
    let (answer, started) = mpsc::sync_channel(1);
    SPAWNER.send((command, Handle::current(), answer)).map_err(|_| gone())?;
    started.recv().map_err(|_| gone())?
}

/// Returns a free port for a peer.
pub(super) fn free_port() -> Result<Port, PeerError> {
    Port::free().map_err(PeerError::io("find a free port"))
}
