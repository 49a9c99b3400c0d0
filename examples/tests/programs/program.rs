//! Running an example, and comparing what it prints with `examples/README.md`.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{document, pattern::Pattern};

/// The time that an example may take for its next line of output, and to end.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the path of an example that is built. Cargo builds a package's examples before it runs all of its
/// tests.
pub(crate) fn path(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing; cargo builds it when it runs all tests of the package",
        program.display()
    );
    program
}

/// Runs an example to its end, and compares its output with the document.
pub(crate) async fn assert_prints_as_documented(name: &str, args: &[&str]) {
    let mut program = Program::start(name, args);
    let is_success = program.finish().await;
    assert!(is_success, "{name} failed after:\n{}", program.output);
    program.assert_as_documented();
}

/// An example that runs. Dropping it kills it.
pub(crate) struct Program {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The output so far.
    pub(crate) output: String,
}

impl Program {
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(path(name));
        // Settings of one's own must not change what is printed.
        command.args(args).env_remove("RUST_LOG").stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { name: name.to_owned(), child, lines, output: String::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Returns its next line, or `None` at the end of its output.
    pub(crate) async fn next_line(&mut self) -> Option<String> {
        let line = timeout(TIMEOUT, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} is silent after:\n{}", self.name, self.output));
        let line = line.unwrap()?;
        self.output.push_str(&line);
        self.output.push('\n');
        Some(line)
    }

    /// Reads lines up to one that begins with `begin`, and returns that one.
    pub(crate) async fn line_that_begins(&mut self, begin: &str) -> String {
        loop {
            match self.next_line().await {
                Some(line) if line.starts_with(begin) => return line,
                Some(_) => {}
                None => panic!("{} has ended without {begin:?}:\n{}", self.name, self.output),
            }
        }
    }

    /// Reads the rest of its output, and waits for its end; returns whether it succeeded.
    pub(crate) async fn finish(&mut self) -> bool {
        while self.next_line().await.is_some() {}
        timeout(TIMEOUT, self.child.wait()).await.expect("it ends").unwrap().success()
    }

    /// Compares the output so far with that in the document.
    pub(crate) fn assert_as_documented(&self) {
        let section = document::section(&self.name);
        if let Err(difference) = Pattern::new(section.output).compare(&self.output) {
            panic!("{} of examples/README.md: {difference}\n\nIt prints:\n{}", self.name, self.output);
        }
    }
}
