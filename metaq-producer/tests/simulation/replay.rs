//! A seed has one course: the same twice in one process, and the same in another.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{number, run};

/// The default number of seeds that are run again.
const SEEDS: u64 = 15;

/// The folder in which the other process leaves the logs of its runs.
const FOLDER: &str = "METAQ_REPLAY_FOLDER";

fn file(folder: &Path, seed: u64) -> PathBuf {
    folder.join(format!("{seed}.log"))
}

/// Fails with the first line that is different.
fn assert_same(seed: u64, first: &[String], again: &[String], where_else: &str) {
    for (number, (line, other)) in first.iter().zip(again).enumerate() {
        assert_eq!(line, other, "seed {seed} runs otherwise {where_else}, from line {number} of its log on");
    }
    assert_eq!(first.len(), again.len(), "the log of seed {seed} has other lines {where_else}");
}

#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "tokio draws from the seed only if built so; `cargo xtask simulate` does"
)]
fn seed_repeats_its_run_within_and_across_processes() {
    if number("METAQ_SEED").is_some() {
        // That one is to be seen, not to be compared.
        return;
    }
    let count = number("METAQ_SEEDS").unwrap_or(SEEDS);
    if let Some(folder) = env::var_os(FOLDER) {
        for seed in 0..count {
            fs::write(file(Path::new(&folder), seed), run(seed).log.join("\n")).unwrap();
        }
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let this = "replay::seed_repeats_its_run_within_and_across_processes";
    let mut other = Command::new(env::current_exe().unwrap());
    let other = other.args(["--exact", this]).env(FOLDER, &folder).stdout(Stdio::piped()).spawn().unwrap();
    let logs: Vec<_> = (0..count).map(|seed| run(seed).log).collect();
    for (seed, log) in (0..).zip(&logs) {
        assert_same(seed, log, &run(seed).log, "in the same process");
    }
    let other = other.wait_with_output().unwrap();
    assert!(other.status.success(), "the other process fails: {}", String::from_utf8_lossy(&other.stdout));
    for (seed, log) in (0..).zip(&logs) {
        let lines = fs::read_to_string(file(&folder, seed)).unwrap();
        let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        assert_same(seed, log, &lines, "in another process");
    }
    fs::remove_dir_all(&folder).unwrap();
    let lines: usize = logs.iter().map(Vec::len).sum();
    println!("{count} seeds, {lines} lines of logs: the same three times");
    assert!(logs.windows(2).all(|pair| pair[0] != pair[1]), "each seed has a course of its own");
}
