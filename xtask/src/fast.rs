//! `cargo xtask test --fast`: the tests that need nothing but Rust, several programs at a time.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    say,
    tally::{Program, Tally},
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

/// A test program, or the doc tests of all crates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Suite {
    name: String,
    run: Run,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    Program { path: PathBuf, folder: PathBuf },
    DocTests,
}

/// A suite that has run.
struct Done {
    suite: Suite,
    output: String,
    is_success: bool,
    took: Duration,
}

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
    let mut suites = match build() {
        Ok(Some(suites)) => suites,
        Ok(None) => return false,
        Err(error) => {
            say(&format!("cargo can't be run: {error}\n"));
            return false;
        }
    };
    suites.retain(|suite| LEFT_OUT.iter().all(|(begin, _)| !suite.name.starts_with(begin)));
    // The longest first, so that none is left alone at the end; new ones may be long.
    suites.sort_by_key(|suite| std::cmp::Reverse(times.get(&suite.name).unwrap_or(Duration::MAX)));
    let began = Instant::now();
    let mut tally = Tally::default();
    run_all(suites, names, |done| {
        let programs = done.programs();
        let is_explained = programs.iter().any(|program| !program.is_passed());
        if is_explained || !done.is_success {
            let _ = writeln!(io::stdout(), "{}", done.output);
        }
        for program in programs {
            if !program.is_empty() {
                let _ = writeln!(io::stdout(), "{} in {:.1} s", program.describe(), done.took.as_secs_f32());
            }
            // The doc tests of one crate that fail are no failure of the others.
            tally.add(program, done.is_success || is_explained);
        }
        if names.is_empty() {
            times.set(&done.suite.name, done.took);
        }
    });
    if names.is_empty() {
        times.set(times::ALL, began.elapsed());
        times.write();
    }
    test::finish(&tally, began.elapsed())
}

/// Runs the suites, one more at a time than there are cores, since most tests wait most of the time and some
/// have bounds on time; hands over each that is done.
fn run_all(suites: Vec<Suite>, names: &[String], mut done: impl FnMut(Done)) {
    let workers = 1 + thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(VecDeque::from(suites));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(suite) = next() {
                    // The receiver lives until all have ended.
                    let _ = sender.send(suite.run(names));
                }
            });
        }
        drop(sender);
        receiver.into_iter().for_each(&mut done);
    });
}

impl Suite {
    fn run(self, names: &[String]) -> Done {
        let mut command = match &self.run {
            Run::Program { path, folder } => {
                let mut command = Command::new(path);
                command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder);
                command
            }
            Run::DocTests => {
                let mut command = test::cargo_for_tests();
                command.args(test::ALL).args([test::EVEN_IF_FAILED, "--doc", "--"]);
                command
            }
        };
        command.args(names).env(test::PEERS, "none").stdin(Stdio::null());
        // Where nothing may be skipped, this flag still asks for it.
        command.env_remove("CI");
        command.envs(SHORT.map(|(variable, value, _)| (variable, value)));
        let began = Instant::now();
        let (output, is_success) = match output(command) {
            Ok(done) => done,
            Err(error) => (format!("it can't be run: {error}\n"), false),
        };
        Done { suite: self, output, is_success, took: began.elapsed() }
    }
}

/// Runs a command; its output of both kinds in order, and whether it succeeded.
pub(crate) fn output(mut command: Command) -> io::Result<(String, bool)> {
    let (mut output, writer) = io::pipe()?;
    let mut running = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // It holds the writing end, without which the output ends with the program.
    drop(command);
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    let status = running.wait()?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if !status.success() {
        text.push_str(&format!("{status}\n"));
    }
    Ok((text, status.success()))
}

impl Done {
    /// The results in its output: one for a program, and one for the doc tests of each crate.
    fn programs(&self) -> Vec<Program> {
        let mut programs = vec![Program::new(&self.suite.name)];
        for line in self.output.lines() {
            match test::program_of(line).filter(|_| self.suite.run == Run::DocTests) {
                Some(name) => programs.push(Program::new(&name)),
                None => programs.iter_mut().last().into_iter().for_each(|program| program.line(line)),
            }
        }
        if programs.len() > 1 {
            // Before the first crate there are none.
            programs.remove(0);
        }
        programs
    }
}

/// Builds all tests; none when that fails.
fn build() -> io::Result<Option<Vec<Suite>>> {
    let mut command = test::cargo_for_tests();
    command.args(test::ALL).args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let mut running = command.stdout(Stdio::piped()).spawn()?;
    let lines = running.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines());
    let mut suites: Vec<_> = lines.map_while(Result::ok).filter_map(|line| suite(&line)).collect();
    suites.push(Suite { name: "doc tests".to_owned(), run: Run::DocTests });
    Ok(running.wait()?.success().then_some(suites))
}

/// The suite of a message of cargo about a test program that it has built.
fn suite(message: &str) -> Option<Suite> {
    let (target, profile) = message.split_once("\"profile\":")?;
    let profile = &profile[..profile.find('}')?];
    if !message.starts_with("{\"reason\":\"compiler-artifact\"") || !profile.contains("\"test\":true") {
        return None;
    }
    let path = PathBuf::from(field(message, "executable")?);
    let folder = Path::new(&field(target, "manifest_path")?).parent()?.to_owned();
    let name = field(target.split_once("\"target\":")?.1, "name")?;
    let package = folder.file_name()?.display().to_string();
    Some(Suite { name: format!("{package} {name}"), run: Run::Program { path, folder } })
}

/// The text of a field of JSON, its first one of that name.
fn field(json: &str, name: &str) -> Option<String> {
    let (_, value) = json.split_once(&format!("\"{name}\":\""))?;
    let mut text = String::new();
    let mut chars = value.chars();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            // Paths have no other escapes than these.
            '\\' => text.push(chars.next().filter(|c| matches!(c, '\\' | '"' | '/'))?),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as cargo writes it, on one line.
    fn message(executable: &str, is_test: bool) -> String {
        format!(
            "{{\"reason\":\"compiler-artifact\",\"package_id\":\"path+file:///r/x#metaq-x@0.1.0\",\
             \"manifest_path\":\"/r/x/Cargo.toml\",\"target\":{{\"kind\":[\"test\"],\"crate_types\":[\"bin\"],\
             \"name\":\"tls\",\"src_path\":\"/r/x/tests/tls.rs\",\"edition\":\"2024\",\"doc\":false,\
             \"doctest\":false,\"test\":true}},\"profile\":{{\"opt_level\":\"0\",\"debuginfo\":1,\
             \"test\":{is_test}}},\"features\":[],\"filenames\":[\"/r/t\"],\"executable\":{executable},\
             \"fresh\":true}}"
        )
    }

    #[test]
    fn programs_are_found_in_the_messages_of_cargo() {
        let found = suite(&message("\"/r/t/tls-1\"", true)).unwrap();
        let run = Run::Program { path: "/r/t/tls-1".into(), folder: "/r/x".into() };
        assert_eq!(found, Suite { name: "x tls".to_owned(), run });
        assert_eq!(suite(&message("\"/r/t/metaq\"", false)), None);
        assert_eq!(suite(&message("null", true)), None);
        assert_eq!(suite("{\"reason\":\"build-finished\",\"success\":true}"), None);
    }

    #[test]
    fn escapes_in_paths_are_undone() {
        assert_eq!(field(r#"{"a":"b","c":"d\\e\"f"}"#, "c").as_deref(), Some("d\\e\"f"));
        assert_eq!(field(r#"{"a":"b"#, "a"), None);
        assert_eq!(field(r#"{"a":"b"}"#, "c"), None);
    }

    #[test]
    fn doc_tests_have_results_for_each_crate() {
        let output = "   Doc-tests a\ntest result: ok. 1 passed; 0 failed;\n   Doc-tests b\n\
                      test x ... FAILED\ntest result: FAILED. 0 passed; 1 failed;\n";
        let suite = Suite { name: "doc tests".to_owned(), run: Run::DocTests };
        let done = Done { suite, output: output.to_owned(), is_success: false, took: Duration::ZERO };
        let described: Vec<_> = done.programs().iter().map(Program::describe).collect();
        assert_eq!(described, ["doc tests of a: 1 passed", "doc tests of b: 0 passed, 1 FAILED"]);
    }

    #[test]
    fn a_suite_runs_without_peers_and_without_ci() {
        let run = Run::Program { path: "/usr/bin/env".into(), folder: "/".into() };
        let done = Suite { name: "x env".to_owned(), run }.run(&[]);
        let has = |line: &str| done.output.lines().any(|other| other == line);
        assert!(done.is_success && has("METAQ_PEERS=none"), "{}", done.output);
        assert!(!done.output.lines().any(|line| line.starts_with("CI=")), "{}", done.output);
    }
}
