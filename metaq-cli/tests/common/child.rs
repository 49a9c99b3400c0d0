//! `metaq` as a child process whose standard streams the test sets up.

use std::{
    fs::File,
    io,
    ops::{Deref, DerefMut},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use metaq_testkit::Broker;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Extra time on a busy machine, beyond the limit that a test checks.
const SLACK: Duration = Duration::from_secs(5);

/// Prepares `metaq SUBCOMMAND` for the topic `t` of a broker. All standard streams are piped.
pub(crate) fn command(subcommand: &str, broker: &Broker, args: &[&str]) -> Command {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args([subcommand, "--cluster", &broker.addr().to_string(), "--topic", "t"]).args(args);
    metaq.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    metaq
}

/// Opens a device on which each write fails for lack of space.
pub(crate) fn dev_full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// A running `metaq`, which is killed when this is dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id() as i32), signal).unwrap();
    }

    /// Waits for the exit, which must happen within `limit`.
    pub(crate) async fn exited(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < limit + SLACK, "still running after {limit:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends a signal repeatedly until the exit, since two signals that arrive together count as one. The
    /// exit must happen within `limit`.
    pub(crate) async fn signal_until_exit(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            self.signal(signal);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if let Some(status) = self.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < limit + SLACK, "still running after {limit:?}");
        }
    }

    /// Closes stdin, reads the other streams to their ends, and waits for the exit, which must happen within
    /// half a minute.
    pub(crate) async fn output(mut self) -> Output {
        let child = self.0.take().unwrap();
        let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it exits in time").unwrap()
    }

    /// Reads stderr to its end.
    pub(crate) fn read_stderr(&mut self) -> String {
        io::read_to_string(self.stderr.take().unwrap()).unwrap()
    }

    /// Reads stdout to its end.
    pub(crate) fn read_stdout(&mut self) -> String {
        io::read_to_string(self.stdout.take().unwrap()).unwrap()
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().unwrap()
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // In general it has exited.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
