//! The test programs of the workspace: building them, and running several at a time.

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
};

/// A test program, or the doc tests of all crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    /// Its package and its own name.
    pub(crate) name: String,
    run: Run,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    Program { path: PathBuf, folder: PathBuf },
    DocTests,
}

/// A suite that has run.
pub(crate) struct Done {
    pub(crate) suite: Suite,
    pub(crate) output: String,
    pub(crate) is_success: bool,
    pub(crate) took: Duration,
}

/// Runs the suites, as many at a time as there are workers, and hands over each that is done. Each command is
/// changed by `prepare` before it runs.
pub(crate) fn run_all(
    suites: Vec<Suite>,
    workers: usize,
    prepare: impl Fn(&mut Command) + Sync,
    mut done: impl FnMut(Done),
) {
    let queue = Mutex::new(VecDeque::from(suites));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next, prepare) = (sender.clone(), &next, &prepare);
            scope.spawn(move || {
                while let Some(suite) = next() {
                    // The receiver lives until all have ended.
                    let _ = sender.send(suite.run(prepare));
                }
            });
        }
        drop(sender);
        receiver.into_iter().for_each(&mut done);
    });
}

impl Suite {
    pub(crate) fn run(self, prepare: impl Fn(&mut Command)) -> Done {
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
        command.stdin(Stdio::null());
        prepare(&mut command);
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
    /// Prints and counts its results. The output is shown if `shows_all`, or when a test failed.
    pub(crate) fn report(&self, tally: &mut Tally, shows_all: bool) {
        let programs = self.programs();
        let is_explained = programs.iter().any(|program| !program.is_passed());
        if shows_all || is_explained || !self.is_success {
            let _ = writeln!(io::stdout(), "{}", self.output);
        }
        for program in programs {
            if !program.is_empty() {
                let _ = writeln!(io::stdout(), "{} in {:.1} s", program.describe(), self.took.as_secs_f32());
            }
            // The doc tests of one crate that fail are no failure of the others.
            tally.add(program, self.is_success || is_explained);
        }
    }

    /// The results in its output: one for a program, and one for the doc tests of each crate.
    pub(crate) fn programs(&self) -> Vec<Program> {
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

/// Builds all tests; none when that fails, for a reason that was shown.
pub(crate) fn build_or_explain() -> Option<Vec<Suite>> {
    build().unwrap_or_else(|error| {
        say(&format!("cargo can't be run: {error}\n"));
        None
    })
}

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
}
