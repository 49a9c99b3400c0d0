//! `cargo xtask reliability`: the tests of `docs/reliability.md` in their full form, and their figures.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use crate::{cargo_command, protoc, say};

/// The prefix of a line with a figure, maybe behind the name of its test.
const FIGURE: &str = "reliability: ";

/// Runs them one after another; ARGS name tests, all are run without any. True when they passed.
pub(crate) fn run(args: &[String]) -> bool {
    // As the tests of `cargo xtask test` are built, so that nothing is built twice.
    let tests = ["test", "--workspace", "--all-features", "--no-fail-fast", "--test", "reliability*"];
    run_measured(&tests, args, "METAQ_RELIABILITY", FIGURE)
}

/// Runs tests whose full form `variable` selects, and prints their figures: the lines that hold `mark`, from
/// there on.
pub(crate) fn run_measured(tests: &[&str], args: &[String], variable: &str, mark: &str) -> bool {
    let mut command = cargo_command();
    command.args(tests).args(["--", "--test-threads=1", "--nocapture"]).args(args);
    command.envs(protoc().map(|path| ("PROTOC", path))).env(variable, "full").stdout(Stdio::piped());
    let mut running = match command.spawn() {
        Ok(running) => running,
        Err(error) => {
            say(&format!("cargo can't be run: {error}\n"));
            return false;
        }
    };
    let lines = running.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines());
    for line in lines.map_while(Result::ok) {
        // What went wrong is on stderr.
        if let Some(begin) = line.find(mark) {
            // The caller may only want to know whether they pass.
            let _ = writeln!(io::stdout(), "{}", &line[begin..]);
        }
    }
    running.wait().is_ok_and(|status| status.success())
}
