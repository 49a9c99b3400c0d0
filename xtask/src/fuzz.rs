//! `cargo xtask fuzz`: the fuzz targets of metaq-protocol.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::say;

const TARGETS: [&str; 3] = ["decode_as_broker", "decode_as_client", "stored_messages"];

/// Runs each target `runs` times; true when nothing was found, or there is nothing to run them with.
pub(crate) fn run(runs: &str) -> bool {
    if runs.parse::<u64>().is_err() {
        say(&format!("{runs} is not a number of runs\n"));
        return false;
    }
    if !succeeds(Command::new("cargo").args(["+nightly", "--version"])) {
        say("skipped: fuzzing: there is no nightly toolchain; rustup toolchain install nightly\n");
        return true;
    }
    if !succeeds(Command::new("cargo").args(["fuzz", "--version"])) {
        say("installing cargo-fuzz\n");
        if !Command::new("cargo")
            .args(["install", "--locked", "cargo-fuzz"])
            .status()
            .is_ok_and(|s| s.success())
        {
            say("cargo-fuzz can't be installed\n");
            return false;
        }
    }
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR")).join("../metaq-protocol");
    let mut seed = Command::new("cargo");
    seed.args([
        "run",
        "--quiet",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--package",
        "metaq-protocol-fuzz-seed",
    ]);
    if !seed.current_dir(&protocol).status().is_ok_and(|status| status.success()) {
        say("the seeds can't be made of the golden cases\n");
        return false;
    }
    TARGETS.iter().all(|target| {
        say(&format!("fuzzing {target}, {runs} runs\n"));
        let runs = format!("-runs={runs}");
        let mut fuzz = Command::new("cargo");
        // A toolchain that is named by the caller's cargo would win over the one that is asked for here.
        fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        fuzz.args(["+nightly", "fuzz", "run", target, "--", &runs, "-max_len=1024", "-verbosity=0"]);
        fuzz.args(["-print_final_stats=1"]);
        fuzz.current_dir(&protocol).status().is_ok_and(|status| status.success())
    })
}

fn succeeds(command: &mut Command) -> bool {
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
