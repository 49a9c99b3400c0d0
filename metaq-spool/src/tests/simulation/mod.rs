//! The spool between embedded brokers and a store in memory, with time that is paused: random schedules of
//! messages, faults and ends of the program, all drawn from one seed.
//!
//! Messages are sent with each of the methods, large or small, for the partition that they name, that their
//! key leads to, or any; their handles are polled or dropped, and calls are given up. Brokers die, freeze,
//! are busy, refuse partitions, messages, or everything with 500 or 401, swallow requests, and answer late;
//! a topic is unpublished and published again. The store fails before or after it has applied a commit, is
//! full, is slow, and can't be opened again. The program closes the spool, drops it, is killed, or loses
//! power; the next one opens what the store has.
//!
//! Whatever happens, at each step the accounts are balanced, and agree with what was reported and with what
//! the store holds; no message is without an outcome past its time. Once all faults have ended, everything
//! is replayed within [`DRAINED`](life::DRAINED). In the end each message that was reported as stored or
//! spooled is stored, unless the store has it among those that were set aside, it was dropped, which was
//! counted, or it was not forced to the disk before the loss of power; each that was reported as not stored
//! is not; those that are stored twice were counted, and are no more than the window allows; and with
//! `ordered` the messages of a partition are stored in the order in which they were accepted.
//!
//! `cargo xtask simulate` runs many seeds, and `cargo xtask simulate --seed N` runs one again, exactly,
//! with its log. For that it is built with `--cfg tokio_unstable`: the order in which tokio polls tasks is
//! then drawn from the seed as well. `METAQ_SEEDS=N` runs that number, `METAQ_SEED=N` that one.

mod checks;
mod ends;
mod faults;
mod life;
mod log;
mod outcomes;
mod program;
mod sending;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::runtime::Builder;

use self::{life::Simulation, outcomes::Totals};

/// The default number of seeds.
const SEEDS: u64 = if cfg!(tokio_unstable) { 40 } else { 5 };

/// The seeds that are run twice, and compared.
const COMPARED: u64 = 10;

const STEPS: usize = 300;

/// The part of the log that is shown of a run that fails among others.
const LAST_LINES: usize = 80;

struct Run {
    totals: Totals,
    log: Vec<String>,
}

/// Runs a seed. A failure is reported with the end of its log, and how to run it again.
fn run(seed: u64) -> Run {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let runtime = runtime(seed).enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            log::begin();
            let mut simulation = Simulation::new(seed).await;
            for _ in 0..STEPS {
                simulation.step().await;
            }
            Run { totals: simulation.finish().await, log: log::end() }
        })
    }));
    outcome.unwrap_or_else(|_| {
        // Why was said already.
        let log = log::end();
        let shown = if number("METAQ_SEED").is_some() { 0 } else { log.len().saturating_sub(LAST_LINES) };
        panic!(
            "{}\nseed {seed} fails; `cargo xtask simulate --seed {seed}` runs it again",
            log[shown..].join("\n")
        );
    })
}

#[cfg(tokio_unstable)]
fn runtime(seed: u64) -> Builder {
    let mut builder = Builder::new_current_thread();
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    builder
}

#[cfg(not(tokio_unstable))]
fn runtime(_: u64) -> Builder {
    Builder::new_current_thread()
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are of interest")]
fn promises_hold_whatever_happens() {
    let alone = number("METAQ_SEED");
    let seeds = match alone {
        Some(seed) => seed..seed + 1,
        None => 0..number("METAQ_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let mut totals = Totals::default();
    for seed in seeds {
        let run = run(seed);
        if alone.is_some() {
            run.log.iter().for_each(|line| println!("{line}"));
        }
        totals.add(&run.totals);
    }
    println!("{count} seeds: {totals:?}");
    assert!(count < 40 || totals.has_all(), "everything happens: {totals:?}");
}

#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "tokio draws from the seed only if built so; `cargo xtask simulate` does"
)]
fn a_seed_repeats_its_run() {
    if number("METAQ_SEED").is_some() {
        // That one is to be seen, not to be compared.
        return;
    }
    let count = number("METAQ_SEEDS").unwrap_or(COMPARED).min(COMPARED);
    let mut logs = Vec::new();
    for seed in 0..count {
        let (first, again) = (run(seed).log, run(seed).log);
        for (number, (line, other)) in first.iter().zip(&again).enumerate() {
            assert_eq!(line, other, "seed {seed} runs otherwise from line {number} of its log on");
        }
        assert_eq!(first.len(), again.len(), "the log of seed {seed} has other lines");
        logs.push(first);
    }
    assert!(logs.windows(2).all(|pair| pair[0] != pair[1]), "each seed has a course of its own");
}
