//! `cargo xtask release-check`: the published crates as those get them who depend on them.
//!
//! Every crate is packed, and unpacked into a workspace outside of this one, where the other crates are found
//! in place of a registry. There its unit tests and doc tests run, programs that depend on it as its README
//! says run the README's examples, and its documentation is built and its links are followed.

mod links;
mod packed;
mod programs;

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{cargo_command, protoc, say, suites, tally::Program, target, test};
use packed::Packed;

/// A crate that is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crate {
    pub(crate) name: &'static str,
    /// Its folder in the repository.
    pub(crate) folder: &'static str,
    /// A dev-dependency that depends on this crate: the name, and features. Packing leaves it out, since
    /// neither could be published first, so it is added again for the tests.
    pub(crate) left_out: Option<(&'static str, &'static str)>,
}

/// The crates in the order in which they are published.
pub(crate) const CRATES: [Crate; 8] = [
    Crate { name: "metaq-protocol", folder: "metaq-protocol", left_out: None },
    Crate { name: "metaq-discovery", folder: "metaq-discovery", left_out: Some(("metaq-testkit", "peers")) },
    Crate { name: "metaq-transport", folder: "metaq-transport", left_out: Some(("metaq-testkit", "peers")) },
    Crate { name: "metaq-testkit", folder: "testkit", left_out: Some(("metaq-producer", "default")) },
    Crate { name: "metaq-producer", folder: "metaq-producer", left_out: None },
    Crate { name: "metaq-spool", folder: "metaq-spool", left_out: None },
    Crate { name: "metaq-tracing", folder: "metaq-tracing", left_out: None },
    Crate { name: "metaq-cli", folder: "metaq-cli", left_out: None },
];

/// The crate that is a command, and no library.
const COMMAND: &str = "metaq-cli";

/// The version of all crates of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Checks the published crates; true when they can be published.
pub(crate) fn run(args: &[String]) -> bool {
    if !args.is_empty() {
        say("usage: cargo xtask release-check\n");
        return false;
    }
    let began = Instant::now();
    let check = Check::new();
    match check.all() {
        Ok(lines) => {
            lines.iter().for_each(|line| say(&format!("{line}\n")));
            say(&format!("release-check: the packed crates work, after {} s\n", began.elapsed().as_secs()));
            // A folder that is left behind does no harm.
            let _ = fs::remove_dir_all(&check.folder);
            true
        }
        Err(error) => {
            say(&format!("release-check: {error}\nthe unpacked crates are in {}\n", check.folder.display()));
            false
        }
    }
}

/// The folders of a run.
struct Check {
    repository: PathBuf,
    /// The workspace of the unpacked crates. Its path is the same in each run, so that their dependencies
    /// are not built again.
    folder: PathBuf,
    target: PathBuf,
}

impl Check {
    fn new() -> Self {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = xtask.parent().unwrap_or(xtask).to_owned();
        let mut hasher = DefaultHasher::new();
        repository.hash(&mut hasher);
        let folder = env::temp_dir().join(format!("metaq-release-check-{:016x}", hasher.finish()));
        Self { repository, folder, target: target().join("release-check") }
    }

    /// Runs every step. Returns a line for each crate, and what the owner has to enter.
    fn all(&self) -> Result<Vec<String>, String> {
        say("packing the crates\n");
        let mut command = cargo_command();
        command.args(["package", "--no-verify", "--allow-dirty", "--quiet"]).current_dir(&self.repository);
        command.args(CRATES.iter().flat_map(|packed| ["--package", packed.name]));
        self.run(command)?;
        let packed = packed::unpack(&self.repository, &self.target.join("package"), &self.folder)?;
        let programs = programs::write(&packed, &self.folder)?;
        self.write_workspace(&packed, &programs)
            .map_err(|error| format!("writing the workspace: {error}"))?;
        let before = packed::files(&self.folder)?;

        say("running the unit tests of the unpacked crates\n");
        let unit = self.tests(&["--lib", "--bins"])?;
        say("running their doc tests\n");
        let doc = self.tests(&["--doc"])?;
        // No result is no success: a name that isn't found in the output counts as none.
        let libraries = || packed.iter().map(|packed| packed.of.name).filter(|name| *name != COMMAND);
        if let Some(name) = libraries().find(|name| passed(&unit, name) == 0 || passed(&doc, name) == 0) {
            return Err(format!("{name}: no unit test or no doc test has run"));
        }
        say("building the command, as `cargo install` does\n");
        self.command()?;
        say("running the programs of their README files\n");
        for program in &programs {
            self.program(program)?;
        }
        say("building their documentation\n");
        self.document(&packed)?;

        let after = packed::files(&self.folder)?;
        let written: Vec<_> =
            after.difference(&before).filter(|path| !path.ends_with("Cargo.lock")).collect();
        if !written.is_empty() {
            return Err(format!("tests wrote into the folders of the crates: {written:?}"));
        }
        let mut lines: Vec<_> = packed
            .iter()
            .map(|packed| {
                let name = packed.of.name;
                let ran = programs.iter().filter(|program| program.of == name).map(|it| it.examples.len());
                format!(
                    "{name}: {} KB packed, {} unit tests and {} doc tests passed, {} programs of README",
                    packed.bytes / 1000,
                    passed(&unit, name),
                    passed(&doc, name),
                    ran.sum::<usize>()
                )
            })
            .collect();
        if packed.iter().any(|packed| packed.manifest.contains("\nrepository = \"\"\n")) {
            lines.push("to be entered by the owner: `repository` in Cargo.toml (RELEASING.md)".to_owned());
        }
        Ok(lines)
    }

    /// Writes the manifest of the workspace, with the versions that the repository is locked to.
    fn write_workspace(&self, packed: &[Packed], programs: &[programs::Program]) -> io::Result<()> {
        let quoted = |folder: &str| format!("    {folder:?},\n");
        let members = packed.iter().map(|packed| quoted(&packed.folder));
        let members: String =
            members.chain(programs.iter().map(|program| quoted(&program.package))).collect();
        let patch = |packed: &Packed| format!("{} = {{ path = {:?} }}\n", packed.of.name, packed.folder);
        let patches: String = packed.iter().filter(|it| it.of.name != COMMAND).map(patch).collect();
        let manifest = format!(
            "[workspace]\nresolver = \"3\"\nmembers = [\n{members}]\n\n[patch.crates-io]\n{patches}\n\
             [profile.dev]\ndebug = false\n"
        );
        fs::write(self.folder.join("Cargo.toml"), manifest)?;
        fs::copy(self.repository.join("Cargo.lock"), self.folder.join("Cargo.lock")).map(drop)
    }

    /// Runs tests of all crates, of the given kinds. Returns the results of each program.
    fn tests(&self, kinds: &[&str]) -> Result<Vec<Program>, String> {
        let mut command = self.cargo();
        command.args(["test", "--all-features", "--no-fail-fast"]).args(kinds);
        // All of them each time, so that dependencies are built with the same features.
        command.args(CRATES.iter().flat_map(|packed| ["--package", packed.name]));
        let output = self.run(command)?;
        let mut programs: Vec<Program> = Vec::new();
        for line in output.lines() {
            match test::program_of(line) {
                Some(name) => programs.push(Program::new(&name)),
                None => programs.iter_mut().last().into_iter().for_each(|program| program.line(line)),
            }
        }
        Ok(programs)
    }

    /// Builds the command with its default features, and has it print its version.
    fn command(&self) -> Result<(), String> {
        let mut command = self.cargo();
        command.args(["run", "--quiet", "--package", COMMAND, "--", "--version"]);
        let output = self.run(command)?;
        if output.trim() == format!("metaq {VERSION}") {
            Ok(())
        } else {
            Err(format!("`metaq --version` printed {output:?}"))
        }
    }

    /// Builds the examples of a README file, and runs those that need no cluster.
    fn program(&self, program: &programs::Program) -> Result<(), String> {
        let mut command = self.cargo();
        command.args(["build", "--quiet", "--package", &program.package, "--examples"]);
        self.run(command)?;
        for example in program.examples.iter().filter(|example| example.runs) {
            let path = self.target.join("debug").join("examples").join(&example.name);
            self.run(Command::new(path))
                .map_err(|error| format!("README of {}, {}: {error}", program.of, example.name))?;
        }
        Ok(())
    }

    /// Builds the documentation as docs.rs does, which takes a nightly toolchain, or else without the marks
    /// of features; then follows the links.
    fn document(&self, packed: &[Packed]) -> Result<(), String> {
        let nightly = Command::new("cargo").args(["+nightly", "--version"]).stderr(Stdio::null()).output();
        let has_nightly = nightly.is_ok_and(|output| output.status.success());
        let mut command = self.cargo();
        if has_nightly {
            command = self.set_up(Command::new("cargo"));
            command.arg("+nightly").env("RUSTDOCFLAGS", "--cfg docsrs --deny warnings");
        } else {
            say("without the marks of features: there is no nightly toolchain\n");
            command.env("RUSTDOCFLAGS", "--deny warnings");
        }
        let folder = self.target.join("doc");
        for packed in packed {
            // Pages of what is no more would be targets of links.
            let _ = fs::remove_dir_all(folder.join(packed.of.name.replace('-', "_")));
        }
        command.args(["doc", "--no-deps", "--all-features", "--lib"]);
        command.args(packed.iter().flat_map(|packed| ["--package", packed.of.name]));
        self.run(command)?;
        let problems = links::check(&folder, packed)?;
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    /// Cargo in the workspace of the unpacked crates.
    fn cargo(&self) -> Command {
        self.set_up(cargo_command())
    }

    fn set_up(&self, mut command: Command) -> Command {
        command.current_dir(&self.folder).envs(protoc().map(|path| ("PROTOC", path)));
        // Tests with real peers run in the repository; the folder of their peers is one of the repository.
        command.env(test::PEERS, "none").env_remove("METAQ_PEERS_DIR").env_remove("CI");
        command
    }

    /// Runs a command. Returns its output of both kinds; fails with it when the command does.
    fn run(&self, mut command: Command) -> Result<String, String> {
        command.env("CARGO_TARGET_DIR", &self.target);
        let name = format!("{command:?}");
        let (output, is_success) =
            suites::output(command).map_err(|error| format!("{name} can't be run: {error}"))?;
        if is_success { Ok(output) } else { Err(format!("{output}\n{name} failed")) }
    }
}

/// The number of tests of a crate that passed.
fn passed(programs: &[Program], name: &str) -> usize {
    let name = if name == COMMAND { "metaq".to_owned() } else { name.replace('-', "_") };
    let doc = format!("doc tests of {name}");
    let of_crate = programs.iter().filter(|program| program.name == name || program.name == doc);
    of_crate.map(Program::passed).sum()
}
