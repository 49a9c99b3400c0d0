//! Development tasks: `cargo xtask test` runs all tests, those with real peers included.

mod bench;
mod fast;
mod fuzz;
mod lint;
mod release_check;
mod reliability;
mod rules;
mod scale;
mod simulate;
mod suites;
mod tally;
mod test;
mod tidy;
mod times;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, ExitCode},
};

const USAGE: &str = "\
usage: cargo xtask TASK

  test [ARGS…]   fetches what the real-peer tests need, then runs all tests of the workspace;
                 ARGS go to `cargo test`. Where a peer can't be run, its tests say `skipped: …`;
                 with CI=true that is a failure. Without ARGS the simulation is run as well. The last line
                 says what passed, failed and was skipped
  test --fast [NAMES…]
                 the loop while developing: runs the tests that need nothing but Rust, in about two minutes after the
                 build, with the same last line. NAMES select tests whose names contain one of them
  simulate [--seeds N | --seed N]
                 runs producer and spool through random schedules, of 40 seeds or so many, in which a seed determines
                 everything; or runs that one again, and prints its log. Built into target/simulation
  bench [--quick] [--against COMMIT]
                 compares the Java client with ours, and with what the machine allows, beside real brokers,
                 and writes bench/results/latest.md: a quarter of an hour, or with --quick three minutes.
                 With --against, compares the current build with that of a commit instead, in turns, and prints ratios.
                 Nothing else should run meanwhile
  reliability [TESTS…]
                 runs the tests of docs/reliability.md in their full form, one after another, and prints each figure
                 as one line: about an hour. Nothing else should run meanwhile
  scale [TESTS…] follows up to 10,000 topics on 100 brokers in ZooKeeper, over slow ways and on old servers too, and
                 prints time, calls, bytes and memory, each beside its bound: about half an hour, and 8 GiB of memory.
                 Fails when one is beyond it. Nothing else should run meanwhile
  tidy [--graph [CRATE]]
                 checks what needs no compiling, in seconds: arrows between crates and between the rooms of each, lengths
                 of comments, names and files, citations of rules. With --graph, prints the rooms as text for Graphviz
  lint [--quick | STEPS…]
                 every check that is no test: format, tidy, clippy, sets of features, documentation, builds without std,
                 for wasm32 and musl, licences, advisories, the oldest dependencies and the oldest toolchain, the public
                 interface. All run although one fails, and the last line counts. A step that lacks a tool is skipped;
                 with CI=true that is a failure if cargo can install it, or if the step was named. With --quick, only
                 the steps of .ci/run
  release-check  packs the published crates, and checks the packages outside of this workspace: unit tests, doc tests,
                 the programs of their README files, documentation and its links
  protoc         prints the path of a protoc, which building the feature `etcd` takes; `test` sees to it itself
  fuzz [RUNS]    runs each fuzz target of metaq-protocol so often (default 100000), seeded from the
                 golden cases; needs a nightly toolchain, and installs cargo-fuzz
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let done = match args.next().as_deref() {
        Some("test") => test::run(&args.collect::<Vec<_>>()),
        Some("simulate") => simulate::run(&args.collect::<Vec<_>>()),
        Some("bench") => bench::run(&args.collect::<Vec<_>>()),
        Some("reliability") => fetch_peers() && reliability::run(&args.collect::<Vec<_>>()),
        Some("scale") => fetch_peers() && scale::run(&args.collect::<Vec<_>>()),
        Some("protoc") => {
            // Not for a person but for a script, hence on stdout.
            return match protoc().map(|path| writeln!(io::stdout(), "{}", path.display())) {
                Some(Ok(())) => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            };
        }
        Some("lint") => lint::run(&args.collect::<Vec<_>>()),
        Some("release-check") => release_check::run(&args.collect::<Vec<_>>()),
        Some("tidy") => tidy::run(&args.collect::<Vec<_>>()),
        Some("fuzz") => fuzz::run(args.next().as_deref().unwrap_or("100000")),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Fetches what the tests need; false when it can't be, and nothing may be skipped.
fn fetch_peers() -> bool {
    say("fetching ZooKeeper, the Java broker and etcd for the real-peer tests (once; into target/peers)\n");
    let fetch =
        ["run", "--quiet", "--package", "metaq-testkit", "--features", "peers", "--bin", "fetch-peers"];
    if !cargo(&fetch, &[]) {
        // What is missing was said by the command itself.
        if std::env::var("CI").as_deref() == Ok("true") {
            say("CI=true: nothing may be skipped\n");
            return false;
        }
        say("the tests that need them will be skipped\n");
    }
    true
}

/// The folder that everything is built into.
fn target() -> PathBuf {
    // This program is in the folder of a profile.
    let target = std::env::current_exe().ok().and_then(|xtask| Some(xtask.parent()?.parent()?.to_owned()));
    target.unwrap_or_else(|| "target".into())
}

/// The protoc that the environment names, or one that comes as a crate.
fn protoc() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PROTOC") {
        return Some(path.into());
    }
    let found = protoc_bin_vendored::protoc_bin_path();
    found
        .inspect_err(|error| {
            say(&format!(
                "there is no protoc for this machine ({error}); install one, or name it in PROTOC\n"
            ))
        })
        .ok()
}

fn cargo(args: &[&str], more: &[String]) -> bool {
    succeeds(cargo_command().args(args).args(more).envs(protoc().map(|path| ("PROTOC", path))))
}

fn cargo_command() -> Command {
    // Cargo passes its own path to subcommands and aliases.
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn succeeds(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            say(&format!("{} can't be run: {error}\n", command.get_program().display()));
            false
        }
    }
}

fn say(text: &str) {
    // The loss of stderr can't be reported.
    let _ = io::stderr().write_all(text.as_bytes());
}
