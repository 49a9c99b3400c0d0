//! `cargo xtask test`: all tests of the workspace, or with `--fast` those that need nothing but Rust.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    cargo_command, fast, fetch_peers, protoc, say, simulate, suites,
    tally::{Program, Tally},
    times::{self, Times},
};

/// All tests. Every mode builds them with these options, so that nothing is built twice.
pub(crate) const ALL: [&str; 3] = ["test", "--workspace", "--all-features"];

/// Has everything run although something fails. Cargo takes it only once.
pub(crate) const EVEN_IF_FAILED: &str = "--no-fail-fast";

/// Has tests of real peers skipped; see `metaq_testkit::peers`.
pub(crate) const PEERS: &str = "METAQ_PEERS";

/// Programs that have the machine to themselves, by packages and the beginnings of their names: they measure
/// time or memory.
const ALONE: [&str; 5] = [
    "metaq-producer reliability",
    "metaq-spool reliability_",
    "metaq-cli reliability_",
    "metaq-discovery scale",
    "bench ",
];

/// The number of programs that the end of a run names as the slowest.
const SLOWEST: usize = 12;

/// Runs the tests; true when they passed.
pub(crate) fn run(args: &[String]) -> bool {
    match args {
        [option, names @ ..] if option == "--fast" => fast::run(names),
        [] => everything(),
        _ => chosen(args),
    }
}

/// Runs all tests, with real peers: first the programs that can run beside others, then the rest, and the
/// simulations.
fn everything() -> bool {
    let mut times = Times::read("test");
    say(&format!(
        "running all tests, those with real peers included, then the simulation; {} (`cargo xtask test --fast` \
         takes about two minutes)\n",
        times.last()
    ));
    if !fetch_peers() {
        return false;
    }
    let Some(mut suites) = suites::build_or_explain() else { return false };
    // The longest first, so that none is left alone at the end; new ones may be long.
    suites.sort_by_key(|suite| std::cmp::Reverse(times.get(&suite.name).unwrap_or(Duration::MAX)));
    let (alone, together): (Vec<_>, Vec<_>) =
        suites.into_iter().partition(|suite| ALONE.iter().any(|begin| suite.name.starts_with(begin)));
    let began = Instant::now();
    let (mut tally, mut took) = (Tally::default(), Vec::new());
    for (suites, workers) in [(together, cores()), (alone, 1)] {
        // A variable that is left from another run must not skip anything.
        let prepare = |command: &mut Command| _ = command.env_remove(PEERS);
        suites::run_all(suites, workers, prepare, |done| {
            done.report(&mut tally, true);
            times.set(&done.suite.name, done.took);
            took.push((done.suite.name, done.took));
        });
    }
    let simulation = Instant::now();
    if !simulate::run(&[]) {
        tally.add_failure("cargo xtask simulate");
    }
    took.push(("cargo xtask simulate".to_owned(), simulation.elapsed()));
    times.set(times::ALL, began.elapsed());
    times.write();
    say(&format!("\nthe slowest: {}\n", slowest(took)));
    finish(&tally, began.elapsed())
}

/// Runs what `cargo test` runs with these arguments, one program after another.
fn chosen(args: &[String]) -> bool {
    say(&format!("running tests: cargo {} {}\n", ALL.join(" "), args.join(" ")));
    if !fetch_peers() {
        return false;
    }
    let options = args.split(|arg| arg == "--").next().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option == name);
    // Built first, with cargo's own progress and colours, so that the time of the tests is known. Doc tests
    // are built when they run.
    if !has("--doc") && !build(options) {
        return false;
    }
    if has("--no-run") {
        return true;
    }
    let began = Instant::now();
    let mut command = cargo_for_tests();
    command
        .args(ALL)
        .arg(EVEN_IF_FAILED)
        .args(args.iter().filter(|arg| *arg != EVEN_IF_FAILED))
        .env_remove(PEERS);
    match stream(command) {
        Ok(tally) => finish(&tally, began.elapsed()),
        Err(error) => {
            say(&format!("cargo can't be run: {error}\n"));
            false
        }
    }
}

/// The number of programs that run at a time beside each other.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Prints the summary; true when all passed.
pub(crate) fn finish(tally: &Tally, took: Duration) -> bool {
    say(&format!("\ntests: {}; {} s\n", tally.summary(), took.as_secs()));
    tally.is_passed()
}

fn build(options: &[String]) -> bool {
    let options = options.iter().filter(|option| *option != "--no-run");
    let status = cargo_for_tests().args(ALL).arg("--no-run").args(options).status();
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            say(&format!("cargo can't be run: {error}\n"));
            false
        }
    }
}

/// Cargo with everything that building the tests takes.
pub(crate) fn cargo_for_tests() -> Command {
    let mut command = cargo_command();
    command.envs(protoc().map(|path| ("PROTOC", path)));
    command
}

/// Runs cargo, which runs test programs, and shows what they print as it comes.
fn stream(mut command: Command) -> io::Result<Tally> {
    // One pipe for both, so that the order of the lines is kept.
    let (output, writer) = io::pipe()?;
    let mut running = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // It holds the writing end, without which the output ends with cargo.
    drop(command);
    let mut tally = Tally::default();
    let mut program: Option<Program> = None;
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // A reader that has gone doesn't end the tests.
        let _ = writeln!(io::stdout(), "{line}");
        if let Some(name) = program_of(&line) {
            let before = program.replace(Program::new(&name));
            before.into_iter().for_each(|before| tally.add(before, true));
        } else if let Some(program) = &mut program {
            program.line(&line);
        }
    }
    let status = running.wait()?;
    program.into_iter().for_each(|last| tally.add(last, true));
    if !status.success() && tally.is_passed() {
        tally.add_failure("cargo test");
    }
    Ok(tally)
}

/// Names the programs that took the most time.
fn slowest(mut took: Vec<(String, Duration)>) -> String {
    took.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    let texts: Vec<_> =
        took.iter().take(SLOWEST).map(|(name, took)| format!("{name} {} s", took.as_secs())).collect();
    texts.join(", ")
}

/// The program that cargo says it runs next, such as `tests/tls.rs` of `metaq_transport`.
pub(crate) fn program_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("doc tests of {name}"));
    }
    let (_, path) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once('(')?;
    // Without the hash at its end.
    let file = path.rsplit('/').next()?;
    Some(file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowest_programs_come_first() {
        let took = [("a", 1), ("b", 61), ("c", 7)];
        let took = took.map(|(name, seconds)| (name.to_owned(), Duration::from_secs(seconds)));
        assert_eq!(slowest(took.into()), "b 61 s, c 7 s, a 1 s");
    }

    #[test]
    fn programs_are_known_by_the_lines_of_cargo() {
        let program = |line| program_of(line);
        assert_eq!(program("     Running tests/tls.rs (target/debug/deps/tls-00af)").as_deref(), Some("tls"));
        let unit = "     Running unittests src/lib.rs (target/debug/deps/metaq_protocol-1)";
        assert_eq!(program(unit).as_deref(), Some("metaq_protocol"));
        assert_eq!(program("   Doc-tests metaq_producer").as_deref(), Some("doc tests of metaq_producer"));
        for line in ["   Compiling x", "test Running ... ok", "running 3 tests"] {
            assert_eq!(program(line), None, "{line}");
        }
    }
}
