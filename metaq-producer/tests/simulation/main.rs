//! The producer against embedded brokers and an embedded registry, without ports and with time that is
//! paused: random schedules of sends, cancelled sends, dropped handles, faults and changes of the cluster,
//! all drawn from one seed.
//!
//! Two topics share the brokers, one of which is unpublished and published again; messages are large or
//! small, ordered or not, sent to any partition, connected or configured, or to the one that a key or the
//! message itself names; some are offered, and their failures reported to a handler, and some publish their
//! topic; local transactions are short, long, or abandoned, XA transactions are prepared and recovered;
//! statistics are asked for, and what was accepted is flushed.
//!
//! Whatever happens, at each step the counts of producer, topics and brokers add up and the limits hold; no
//! message, question or flush is unresolved past its deadline; what was acknowledged is stored once, what
//! failed for certain isn't stored, and what was offered is stored or reported to the handler; transactions
//! are stored as a whole or not at all, as was reported; messages that a key sends to a partition are stored
//! there in the order in which they were accepted, if that is asked for, and a broker has one of them at a
//! time.
//!
//! Also at each step, what can go goes: a message doesn't wait for longer than 10 ms, and the pauses before
//! its next attempts, while a broker that may have it is connected, reads and has capacity; transactions and
//! questions for statistics that nothing is in the way of end as soon. A broker whose last fault has ended is
//! used again within 1 s, after a fault of the registry within 2 s. One that has sent what is no answer is
//! within 7 s, because its connection may wait for the rest of it until a heartbeat isn't answered: 1 s of
//! silence, 5 s for the heartbeat, and 1 s to connect anew. Requests that a broker never answers take its
//! capacity until their own deadlines.
//!
//! [`throughput`] compares what healthy brokers store with and without a fault of another one.
//!
//! `cargo xtask simulate` runs many seeds, and `cargo xtask simulate --seed N` runs one again, with its log:
//! exactly as before. For that the simulation is built with `--cfg tokio_unstable`, so that tokio, too, draws
//! from the seed in which order it wakes those who watch the same value. Where it is built without, as by
//! `cargo test`, a seed has a few courses, not one; hence only a few seeds are run there. `METAQ_SEEDS=N`
//! runs that number, `METAQ_SEED=N` that one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod log;
mod offers;
mod progress;
mod recovery;
mod replay;
mod schedule;
mod stored;
mod throughput;
mod transacting;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
};

use schedule::Simulation;
use tokio::runtime::Builder;

/// The default number of seeds.
const SEEDS: u64 = if cfg!(tokio_unstable) { 40 } else { 5 };

const STEPS: usize = 300;

/// The part of the log that is shown of a run that fails among others.
const LAST_LINES: usize = 60;

/// The result of a run.
struct Run {
    /// The numbers of messages that were acknowledged, unknown, rejected, and not sent.
    ended: [usize; 4],
    log: Vec<String>,
}

/// Runs a seed. A failure is reported with the end of its log, and how to run it again.
fn run(seed: u64) -> Run {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let runtime = runtime(seed).enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            log::begin();
            let mut simulation = Simulation::new(seed).await;
            for _ in 0..STEPS {
                simulation.step().await;
            }
            (simulation.finish().await, log::end())
        })
    }));
    match outcome {
        Ok((ended, log)) => Run { ended, log },
        // Why was said already.
        Err(_) => {
            let log = log::end();
            let shown = if number("METAQ_SEED").is_some() { 0 } else { log.len().saturating_sub(LAST_LINES) };
            panic!("{}\nseed {seed} fails; {}", log[shown..].join("\n"), how_again(seed));
        }
    }
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

fn how_again(seed: u64) -> String {
    let exactly = format!("`cargo xtask simulate --seed {seed}` runs it");
    if cfg!(tokio_unstable) {
        return format!("{exactly} again, exactly so");
    }
    format!(
        "{exactly} with an order of tokio's that follows from the seed, and `METAQ_SEED={seed} cargo test --package \
         metaq-producer --features mock --test simulation` in any, as this time"
    )
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn promises_hold_whatever_happens() {
    let mut ended = [0; 4];
    let alone = number("METAQ_SEED");
    let seeds = match alone {
        Some(seed) => seed..seed + 1,
        None => 0..number("METAQ_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let run = run(seed);
        if alone.is_some() {
            run.log.iter().for_each(|line| println!("{line}"));
        }
        ended.iter_mut().zip(run.ended).for_each(|(all, more)| *all += more);
    }
    println!("{count} seeds: [acknowledged, unknown, rejected, not sent] = {ended:?}");
    assert!(count < 10 || ended.iter().all(|count| *count > 50), "everything happens: {ended:?}");
}
