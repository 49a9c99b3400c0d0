//! `cargo xtask simulate`: the simulation of metaq-producer, built so that a seed has one course.

use std::env;

use crate::{cargo_command, say, succeeds, target};

/// Has tokio take the seed of its own random choices from the simulation.
const FLAG: &str = "--cfg tokio_unstable";

/// Runs the given number of seeds, or one again; true when all promises held.
pub(crate) fn run(args: &[String]) -> bool {
    let chosen = match args {
        [] => None,
        [option, number] if number.parse::<u64>().is_ok() => match option.as_str() {
            "--seeds" => Some(("METAQ_SEEDS", number)),
            "--seed" => Some(("METAQ_SEED", number)),
            _ => return usage(),
        },
        _ => return usage(),
    };
    // In a folder of its own, since everything is built anew with the flag.
    let folder = target().join("simulation");
    let flags = env::var("RUSTFLAGS").map_or_else(|_| FLAG.to_owned(), |flags| format!("{flags} {FLAG}"));
    let mut simulation = cargo_command();
    simulation.args(["test", "--package", "metaq-producer", "--no-default-features", "--features", "mock"]);
    simulation.args(["--test", "simulation"]).arg("--target-dir").arg(folder).args(["--", "--nocapture"]);
    simulation.env("RUSTFLAGS", flags).env_remove("METAQ_SEEDS").env_remove("METAQ_SEED");
    simulation.envs(chosen);
    if chosen.is_some() {
        simulation.args(["--exact", "promises_hold_whatever_happens"]);
    }
    succeeds(&mut simulation)
}

fn usage() -> bool {
    say("usage: cargo xtask simulate [--seeds N | --seed N]\n");
    false
}
