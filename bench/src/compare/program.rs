//! Child processes that answer lines of input with lines of output.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use super::Result;

/// Limit on the time for one line of output.
const LINE_TIMEOUT: Duration = Duration::from_secs(120);

/// A running program, which is killed when this is dropped.
pub(super) struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    pub(super) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{name} can't be started: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (sender, lines) = channel();
        thread::spawn(move || {
            let output = output.into_iter().flat_map(|output| BufReader::new(output).lines());
            // Until the receiver is dropped, or the output ends.
            for line in output.map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, input, lines })
    }

    /// Waits for the next line of output.
    pub(super) fn line(&mut self) -> Result<String> {
        self.lines.recv_timeout(LINE_TIMEOUT).map_err(|error| {
            let status = self.child.try_wait().ok().flatten();
            let cause = status.map_or_else(|| error.to_string(), |status| format!("it exited with {status}"));
            format!("{} printed no line: {cause}", self.name).into()
        })
    }

    /// Writes a line of input, and waits for the line of output that answers it.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        if let Some(input) = &mut self.input {
            writeln!(input, "{line}").and_then(|()| input.flush())?;
        }
        self.line()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; returns the last line of its output, and whether it succeeded.
pub(super) fn last_line(name: &str, command: &mut Command) -> Result<(String, bool)> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name} can't be started: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    match printed.lines().last() {
        Some(line) => Ok((line.to_owned(), output.status.success())),
        None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name} exited with {}: {}", output.status, errors.trim()).into())
        }
    }
}
