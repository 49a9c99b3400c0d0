//! Programs that are started, asked, and ended.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use super::Result;

/// How long a program may take for a line.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that ends with its input, and is killed when this is dropped.
pub(super) struct Program {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    pub(super) fn start(what: &str, command: &mut Command) -> Result<Self> {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{what} can't be started: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (sender, lines) = channel();
        thread::spawn(move || {
            let output = output.into_iter().flat_map(|output| BufReader::new(output).lines());
            // Until nobody wants them, or there are no more.
            for line in output.map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { what: what.to_owned(), child, input, lines })
    }

    /// Its next line.
    pub(super) fn line(&mut self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).map_err(|error| {
            let ended = self.child.try_wait().ok().flatten();
            let why = ended.map_or_else(|| error.to_string(), |status| format!("it ended with {status}"));
            format!("{} said nothing: {why}", self.what).into()
        })
    }

    /// What it says to a line.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        if let Some(input) = &mut self.input {
            writeln!(input, "{line}").and_then(|()| input.flush())?;
        }
        self.line()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; returns the last line that it printed, and whether it was content.
pub(super) fn last_line(what: &str, command: &mut Command) -> Result<(String, bool)> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{what} can't be started: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    match printed.lines().last() {
        Some(line) => Ok((line.to_owned(), output.status.success())),
        None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(format!("{what} ended with {}: {}", output.status, errors.trim()).into())
        }
    }
}
