//! `cargo xtask test --fast`: the tests that need nothing but Rust, several programs at a time.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    say, suites,
    tally::Tally,
    test,
    times::{self, Times},
};

/// Programs that are left out, by packages and the beginnings of their names.
const LEFT_OUT: [(&str, &str); 4] = [
    ("metaq-producer reliability", RELIABILITY),
    ("metaq-spool reliability_", RELIABILITY),
    ("metaq-cli reliability_", RELIABILITY),
    ("bench programs", "they measure what the machine allows, and need it to themselves"),
];

const RELIABILITY: &str =
    "they measure what faults cost, and need the machine to themselves: cargo xtask reliability";

/// Environment variables that shorten suites.
const SHORT: [(&str, &str, &str); 1] =
    [("METAQ_SEEDS", "2", "the simulation runs 2 seeds; cargo xtask simulate runs 40")];

/// Runs all suites, and in them only the tests whose names contain one of `names` if there are any; true when
/// all passed.
pub(crate) fn run(names: &[String]) -> bool {
    let mut times = Times::read("fast");
    say(&format!(
        "running the tests that need neither a JDK, Maven, Go, etcd nor ZooKeeper: about two minutes after the build; \
         {}\n",
        times.last()
    ));
    say("left out: tests with real peers, which the last line names as skipped\n");
    for (begin, reason) in LEFT_OUT {
        say(&format!("left out: {begin}…: {reason}\n"));
    }
    for (_, _, text) in SHORT {
        say(&format!("shorter: {text}\n"));
    }
    let Some(mut suites) = suites::build_or_explain() else { return false };
    suites.retain(|suite| LEFT_OUT.iter().all(|(begin, _)| !suite.name.starts_with(begin)));
    // The longest first, so that none is left alone at the end; new ones may be long.
    suites.sort_by_key(|suite| std::cmp::Reverse(times.get(&suite.name).unwrap_or(Duration::MAX)));
    let began = Instant::now();
    let mut tally = Tally::default();
    // Two more than there are cores, since most tests wait most of the time.
    suites::run_all(
        suites,
        test::cores() + 2,
        |command| prepare(command, names),
        |done| {
            done.report(&mut tally, false);
            if names.is_empty() {
                times.set(&done.suite.name, done.took);
            }
        },
    );
    if names.is_empty() {
        times.set(times::ALL, began.elapsed());
        times.write();
    }
    test::finish(&tally, began.elapsed())
}

/// Has a suite run without peers, in its short form, and only the tests of these names if there are any.
fn prepare(command: &mut Command, names: &[String]) {
    command.args(names).env(test::PEERS, "none");
    // Where nothing may be skipped, this flag still asks for it.
    command.env_remove("CI");
    command.envs(SHORT.map(|(variable, value, _)| (variable, value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_suites_run_without_peers_and_without_ci() {
        let mut command = Command::new("env");
        prepare(&mut command, &["name".to_owned()]);
        let set: Vec<_> = command.get_envs().collect();
        assert!(set.contains(&("METAQ_PEERS".as_ref(), Some("none".as_ref()))), "{set:?}");
        assert!(set.contains(&("CI".as_ref(), None)), "{set:?}");
        assert!(command.get_args().eq(["name"]));
    }
}
