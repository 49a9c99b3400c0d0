//! `cargo xtask simulate`: the simulations of metaq-producer and of metaq-spool, built so that a seed has one
//! course.

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
    let run = |package: &[&str], test: &str, all: &[&str]| {
        let mut simulation = cargo_command();
        simulation.args(["test", "--package"]).args(package).arg("--target-dir").arg(&folder).arg("--");
        simulation.env("RUSTFLAGS", &flags).env_remove("METAQ_SEEDS").env_remove("METAQ_SEED");
        simulation.envs(chosen);
        if chosen.is_some() {
            simulation.args(["--exact", test]);
        } else {
            simulation.args(all);
        }
        succeeds(simulation.arg("--nocapture"))
    };
    let producer = ["metaq-producer", "--no-default-features", "--features", "mock", "--test", "simulation"];
    let of_producer = run(&producer, "promises_hold_whatever_happens", &[]);
    let of_spool = run(
        &["metaq-spool", "--lib"],
        "tests::simulation::promises_hold_whatever_happens",
        &["tests::simulation::"],
    );
    of_producer && of_spool
}

fn usage() -> bool {
    say("usage: cargo xtask simulate [--seeds N | --seed N]\n");
    false
}
