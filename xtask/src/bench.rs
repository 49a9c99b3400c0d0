//! Builds and runs the benchmarks.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{cargo, cargo_command, protoc, say, succeeds, target};

/// Runs the benchmarks; true when that was done. `--against COMMIT` builds the command of that commit first;
/// all other arguments go to the program that compares.
pub(crate) fn run(args: &[String]) -> bool {
    let mut args = args.to_vec();
    if let Some(at) = args.iter().position(|arg| arg == "--against") {
        let Some(commit) = args.get(at + 1) else {
            say("--against takes a commit: cargo xtask bench --against v0.1.0\n");
            return false;
        };
        let Some(former) = build(commit) else { return false };
        args[at + 1] = former.display().to_string();
    }
    // Together, so that what both use is built once.
    if !cargo(&["build", "--release", "--package", "metaq-cli", "--package", "metaq-bench"], &[]) {
        return false;
    }
    let compare = target().join("release").join("compare");
    succeeds(Command::new(&compare).args(args))
}

/// Builds the command as it was at `commit` into a target folder of its own; returns where it is.
fn build(commit: &str) -> Option<PathBuf> {
    let folder = target().join("against");
    let (source, built) = (folder.join("source"), folder.join("target"));
    remove(&source);
    let checkout = ["worktree", "add", "--quiet", "--force", "--detach"];
    if !succeeds(Command::new("git").args(checkout).arg(&source).arg(commit)) {
        return None;
    }
    let mut build = cargo_command();
    build.args(["build", "--release", "--package", "metaq-cli"]).current_dir(&source);
    build.env("CARGO_TARGET_DIR", &built).envs(protoc().map(|path| ("PROTOC", path)));
    let done = succeeds(&mut build);
    remove(&source);
    done.then(|| built.join("release").join("metaq"))
}

/// Removes the working tree of a former run, or of one that was interrupted.
fn remove(source: &Path) {
    if source.exists() {
        succeeds(Command::new("git").args(["worktree", "remove", "--force"]).arg(source));
    }
}
