//! `cargo xtask lint`: every check that is no test.

mod steps;
mod tools;

use std::{
    env,
    time::{Duration, Instant},
};

use crate::{
    say,
    times::{self, Times},
};
use steps::STEPS;

/// One check.
#[derive(Debug)]
struct Step {
    name: &'static str,
    /// Runs with `--quick` too: needs no tool that has to be installed first, and takes seconds when little
    /// has changed.
    is_quick: bool,
    check: fn() -> Result<(), Stop>,
}

/// The reason why a step did not pass.
#[derive(Debug)]
enum Stop {
    /// It found something, which this output describes.
    Failed(String),
    /// It could not run.
    Missing(Missing),
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

/// A thing that a step needs and this machine doesn't have.
#[derive(Debug)]
struct Missing {
    what: String,
    remedy: String,
    source: Source,
}

/// The origin of a missing thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The registry of crates, which every machine that builds the workspace reaches.
    Registry,
    /// Another server, such as that of rustup, or a release that is still to come.
    Elsewhere,
}

/// The strictness of a run about what is missing.
#[derive(Clone, Copy, Debug)]
struct Strictness {
    /// `CI=true`.
    is_ci: bool,
    /// The steps were chosen by name.
    is_chosen: bool,
}

impl Strictness {
    /// True when the lack of something from `source` is a failure.
    fn demands(self, source: Source) -> bool {
        self.is_ci && (self.is_chosen || source == Source::Registry)
    }
}

/// Runs all steps, with `--quick` the quick ones, or those that are named; true when none failed.
pub(crate) fn run(args: &[String]) -> bool {
    let Some(chosen) = choose(args) else {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        say(&format!(
            "usage: cargo xtask lint [--quick | STEPS…], where a step is one of {}\n",
            names.join(", ")
        ));
        return false;
    };
    let is_chosen = args.iter().any(|arg| arg != "--quick");
    let strictness = Strictness { is_ci: env::var("CI").as_deref() == Ok("true"), is_chosen };
    let mut times = Times::read(if args.is_empty() { "lint" } else { "lint-quick" });
    let names: Vec<_> = chosen.iter().map(|step| step.name).collect();
    let last = if is_chosen { String::new() } else { format!("; {}", times.last()) };
    say(&format!("running {}{last}\n", names.join(", ")));
    let began = Instant::now();
    let mut summary = Summary::default();
    for step in chosen {
        let began = Instant::now();
        let result = (step.check)();
        say(&summary.add(step.name, result, strictness, began.elapsed()));
    }
    if !is_chosen {
        times.set(times::ALL, began.elapsed());
        times.write();
    }
    say(&format!("\nlint: {}; {} s\n", summary.text(), began.elapsed().as_secs()));
    summary.failed.is_empty()
}

/// The steps that the arguments ask for, in the order of the table.
fn choose(args: &[String]) -> Option<Vec<&'static Step>> {
    let steps = STEPS.iter();
    match args {
        [] => Some(steps.collect()),
        [option] if option == "--quick" => Some(steps.filter(|step| step.is_quick).collect()),
        names if names.iter().all(|name| STEPS.iter().any(|step| step.name == name)) => {
            Some(steps.filter(|step| names.iter().any(|name| step.name == name)).collect())
        }
        _ => None,
    }
}

/// The results so far.
#[derive(Debug, Default)]
struct Summary {
    passed: usize,
    failed: Vec<&'static str>,
    skipped: Vec<&'static str>,
}

impl Summary {
    /// Adds a result. Returns the line about it.
    fn add(
        &mut self,
        name: &'static str,
        result: Result<(), Stop>,
        strictness: Strictness,
        took: Duration,
    ) -> String {
        let seconds = took.as_secs_f32();
        match result {
            Ok(()) => {
                self.passed += 1;
                format!("passed: {name}: {seconds:.1} s\n")
            }
            Err(Stop::Failed(output)) => {
                self.failed.push(name);
                format!("{}\nFAILED: {name}: {seconds:.1} s, see above\n", output.trim_end())
            }
            Err(Stop::Missing(Missing { what, remedy, source })) => {
                let (list, result) = if strictness.demands(source) {
                    (&mut self.failed, "FAILED, as CI=true")
                } else {
                    (&mut self.skipped, "skipped")
                };
                list.push(name);
                format!("{result}: {name}: {what}; {remedy}\n")
            }
        }
    }

    fn text(&self) -> String {
        let count = |names: &[&str]| match names {
            [] => "0".to_owned(),
            names => format!("{} ({})", names.len(), names.join(", ")),
        };
        format!("passed {}, failed {}, skipped {}", self.passed, count(&self.failed), count(&self.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &[&str]) -> Option<Vec<&'static str>> {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Some(choose(&args)?.into_iter().map(|step| step.name).collect())
    }

    #[test]
    fn steps_are_all_quick_or_named_ones() {
        assert_eq!(chosen(&[]).unwrap().len(), STEPS.len());
        assert_eq!(chosen(&["msrv", "fmt"]).unwrap(), ["fmt", "msrv"]);
        let quick = chosen(&["--quick"]).unwrap();
        assert!(quick.contains(&"clippy") && !quick.contains(&"powerset"), "{quick:?}");
        for wrong in [&["clipy"][..], &["fmt", "clipy"], &["--quick", "fmt"], &["--all"]] {
            assert_eq!(chosen(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn names_of_steps_are_unique() {
        let names: std::collections::BTreeSet<_> = STEPS.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), STEPS.len());
    }

    #[test]
    fn missing_tools_fail_where_ci_could_install_them() {
        let demands = |is_ci, is_chosen, source| Strictness { is_ci, is_chosen }.demands(source);
        assert!(!demands(false, true, Source::Registry));
        assert!(demands(true, false, Source::Registry));
        assert!(!demands(true, false, Source::Elsewhere));
        assert!(demands(true, true, Source::Elsewhere));
    }

    #[test]
    fn summary_names_failures_and_skipped_steps() {
        let missing = |source| {
            Err(Stop::Missing(Missing { what: "no tool".to_owned(), remedy: "get it".to_owned(), source }))
        };
        let ci = Strictness { is_ci: true, is_chosen: false };
        let mut summary = Summary::default();
        summary.add("a", Ok(()), ci, Duration::ZERO);
        assert_eq!(summary.text(), "passed 1, failed 0, skipped 0");
        summary.add("b", Err(Stop::Failed("x".to_owned())), ci, Duration::ZERO);
        summary.add("c", missing(Source::Registry), ci, Duration::ZERO);
        let line = summary.add("d", missing(Source::Elsewhere), ci, Duration::ZERO);
        assert_eq!(line, "skipped: d: no tool; get it\n");
        assert_eq!(summary.text(), "passed 1, failed 2 (b, c), skipped 1 (d)");
    }
}
