//! `metaq` as a process that is written to and read from asynchronously.

use std::process::Stdio;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A running `metaq`, which is killed when this is dropped.
pub(crate) struct Metaq {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

/// The exit status and the output of a `metaq` that has exited.
pub(crate) struct Finished {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Metaq {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metaq"));
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdin, stdout }
    }

    pub(crate) async fn write(&mut self, input: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(input).await.unwrap();
    }

    /// Takes stdin, for a task that writes while the test reads.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    /// Takes stdout, for a task that reads continuously.
    pub(crate) fn take_stdout(&mut self) -> BufReader<ChildStdout> {
        self.stdout.take().unwrap()
    }

    pub(crate) async fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().unwrap().read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap() as i32), signal).unwrap();
    }

    /// Kills the process, and waits until it has released what it held.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Writes the input, closes it, and waits for the exit.
    pub(crate) async fn finish(mut self, input: &[u8]) -> Finished {
        let mut stdin = self.stdin.take().unwrap();
        let write = async move {
            // A command that refuses its arguments doesn't read its input.
            let _ = stdin.write_all(input).await;
        };
        tokio::join!(write, self.wait()).1
    }

    /// Waits for the exit; the input stays open.
    pub(crate) async fn wait(mut self) -> Finished {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut errors = self.child.stderr.take().unwrap();
        let mut output = self.stdout.take();
        let read_output = async {
            if let Some(output) = &mut output {
                output.read_to_end(&mut stdout).await.unwrap();
            }
        };
        let (_, read_errors) = tokio::join!(read_output, errors.read_to_end(&mut stderr));
        read_errors.unwrap();
        let status = self.child.wait().await.unwrap().code().expect("no signal killed it");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Finished { status, stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Finished {
    /// Parses each line of stdout as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        super::json_lines(self.stdout.as_bytes())
    }
}
