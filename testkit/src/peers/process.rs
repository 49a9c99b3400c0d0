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

/// Between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A log's tail is what of its last bytes fits into so many lines.
const TAIL_BYTES: u64 = 32 * 1024;
const TAIL_LINES: usize = 40;

/// Goes on as the process `"$@"`, unless the test's process, whose id is `$0`, has ended before the kernel was told
/// to watch over it.
const EXEC_IF_PARENT_LIVES: &str = r#"test "$PPID" = "$0" && exec "$@""#;

/// A running process. It is killed when the handle is dropped, which waits until it has ended, and by the kernel when this
/// process ends without that.
#[derive(Debug)]
pub(super) struct PeerProcess {
    child: Child,
    what: String,
    log: PathBuf,
    /// The position at which the log of this process begins: a peer that was restarted adds to the log of its former process.
    log_start: u64,
}

impl PeerProcess {
    /// Starts `program` with `args`; what it prints is added to `log`.
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
        // A test process that is killed runs no destructors; setpriv has the kernel see to its children.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", EXEC_IF_PARENT_LIVES]);
        command.arg(std::process::id().to_string()).arg(program).args(args).current_dir(folder);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).kill_on_drop(true);
        let child =
            spawn(command).map_err(PeerError::io(format!("start {what} with setpriv and {program}")))?;
        Ok(Self { child, what: what.to_owned(), log: log.to_owned(), log_start })
    }

    /// Waits until `is_ready` says so. Fails when that takes too long, when the process ends, or when its log says
    /// `fatal`.
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

    /// Waits until the process has ended by itself and well.
    pub(super) async fn succeed(&mut self, timeout: Duration) -> Result<(), PeerError> {
        match tokio::time::timeout(timeout, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status)),
            Ok(Err(error)) => Err(PeerError::io(format!("wait for {}", self.what))(error)),
            Err(_) => Err(self.timed_out("come to its end", timeout)),
        }
    }

    /// Its id, or none once it is known to have ended.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal; a process that has ended gets none.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended between the two.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Sends a signal that ends the process, and waits until it has.
    pub(super) async fn end(&mut self, signal: Signal) -> Result<(), PeerError> {
        self.signal(signal);
        // One that is frozen would sleep on.
        self.signal(Signal::SIGCONT);
        match timeout(PEER_TIMEOUT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).map_err(PeerError::io(format!("wait for {} to end", self.what))),
            Err(_) => Err(self.timed_out(&format!("end after {signal}"), PEER_TIMEOUT)),
        }
    }

    /// Whether this text is near the end of its log.
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
        // It may have ended.
        let _ = self.child.start_kill();
        // Blocks for the milliseconds that the kernel takes: what follows removes the folder that the process writes to. Who
        // waits for the process by its handle still learns of its end.
        let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = self.child.try_wait();
    }
}

/// The end of a log from `start` on, as far as it can be read.
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

/// Waits until `condition` holds; false when it still doesn't after `patience`.
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

/// The job for the spawner: what to start, in which runtime, and where the answer goes.
type SpawnRequest = (Command, Handle, mpsc::SyncSender<io::Result<Child>>);

/// Starts a process from a thread that lives as long as this process. The kernel ends a child when the *thread* that started
/// it ends, and the threads of tests and of runtimes come and go.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: LazyLock<mpsc::Sender<SpawnRequest>> = LazyLock::new(|| {
        let (requests, incoming) = mpsc::channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, runtime, answer) in incoming {
                let _inside = runtime.enter();
                // Whoever gave the order waits for the answer.
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

/// A free port for a peer.
pub(super) fn free_port() -> Result<Port, PeerError> {
    Port::free().map_err(PeerError::io("find a free port"))
}
