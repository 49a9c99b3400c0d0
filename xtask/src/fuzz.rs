//! `cargo xtask fuzz`: the fuzz targets of metaq-protocol.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::say;

/// Each target, and the files and keys of the golden cases that it is seeded from.
const TARGETS: [(&str, &[(&str, &str)]); 3] = [
    ("decode", &[("decode", "bytes"), ("encode", "bytes")]),
    ("decode_response", &[("decode", "bytes"), ("encode", "bytes")]),
    ("stored_messages", &[("message", "buffer")]),
];

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
    TARGETS.iter().all(|(target, seeds)| {
        if let Err(error) = seed(&protocol, target, seeds) {
            say(&format!("the seeds of {target} can't be written: {error}\n"));
            return false;
        }
        say(&format!("fuzzing {target}, {runs} runs\n"));
        let runs = format!("-runs={runs}");
        let mut fuzz = Command::new("cargo");
        // A toolchain that is named by the caller's cargo would win over the one that is asked for here.
        fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        fuzz.args([
            "+nightly",
            "fuzz",
            "run",
            target,
            "--",
            &runs,
            "-max_len=4096",
            "-verbosity=0",
            "-print_final_stats=1",
        ]);
        fuzz.current_dir(&protocol).status().is_ok_and(|status| status.success())
    })
}

fn succeeds(command: &mut Command) -> bool {
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Writes the hexadecimal values of the golden cases as files for the fuzzer to start from.
fn seed(protocol: &Path, target: &str, seeds: &[(&str, &str)]) -> io::Result<()> {
    let corpus: PathBuf = protocol.join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus)?;
    for (file, key) in seeds {
        let text = fs::read_to_string(protocol.join(format!("tests/vectors/{file}.jsonl")))?;
        let key = format!("\"{key}\":\"");
        for (n, line) in text.lines().enumerate() {
            let value = line.split_once(&key).and_then(|(_, rest)| rest.split_once('"'));
            if let Some(bytes) = value.and_then(|(hex, _)| from_hex(hex)) {
                fs::write(corpus.join(format!("{file}-{n}")), bytes)?;
            }
        }
    }
    Ok(())
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}
