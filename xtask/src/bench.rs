//! Builds and runs the benchmarks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{cargo, cargo_command, protoc, say, succeeds, target};

/// The profile that measured programs are built in, and what installed ones are. Its name is that of the
/// folder in the target folder, too.
const PROFILE: &str = "dist";

/// The profile that commits before [`PROFILE`] measure and install in.
const FORMER_PROFILE: &str = "release";

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
    if !cargo(&["build", "--profile", PROFILE, "--package", "metaq-cli", "--package", "metaq-bench"], &[]) {
        return false;
    }
    let compare = target().join(PROFILE).join("compare");
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
    let profile = fs::read_to_string(source.join("Cargo.toml")).map_or(FORMER_PROFILE, |text| profile(&text));
    let mut build = cargo_command();
    build.args(["build", "--profile", profile, "--package", "metaq-cli"]).current_dir(&source);
    build.env("CARGO_TARGET_DIR", &built).envs(protoc().map(|path| ("PROTOC", path)));
    let done = succeeds(&mut build);
    remove(&source);
    done.then(|| built.join(profile).join("metaq"))
}

/// The profile that the workspace of this manifest measures in.
fn profile(manifest: &str) -> &'static str {
    let heading = format!("[profile.{PROFILE}]");
    if manifest.lines().any(|line| line.trim() == heading) { PROFILE } else { FORMER_PROFILE }
}

/// Removes the working tree of a former run, or of one that was interrupted.
fn remove(source: &Path) {
    if source.exists() {
        succeeds(Command::new("git").args(["worktree", "remove", "--force"]).arg(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_without_the_profile_is_built_in_the_former_one() {
        let manifest = include_str!("../../Cargo.toml");
        assert_eq!(profile(manifest), "dist");
        let former = manifest.replace("[profile.dist]\ninherits = \"release\"", "[profile.release]");
        assert_eq!(profile(&former), "release");
    }
}
