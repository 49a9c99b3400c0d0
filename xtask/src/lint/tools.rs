//! What the steps run: cargo, its subcommands, toolchains and targets.

use std::{
    env, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Missing, Source, Stop};
use crate::{cargo_command, protoc, target};

/// The root of the repository.
pub(super) fn repository() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo at the root of the repository, which prints warnings and errors and no progress.
pub(super) fn cargo() -> Command {
    let mut command = cargo_command();
    prepare(&mut command);
    command
}

/// Sets folder and environment of a command that builds.
pub(super) fn prepare(command: &mut Command) {
    command.current_dir(repository()).env("CARGO_TERM_QUIET", "true");
    command.envs(protoc().map(|path| ("PROTOC", path)));
}

/// Runs a command to its end; returns whether it succeeded, and all that it printed.
pub(super) fn output(command: &mut Command) -> (bool, String) {
    match try_output(command) {
        Ok((is_success, output)) => (is_success, String::from_utf8_lossy(&output).into_owned()),
        Err(error) => (false, format!("{} can't be run: {error}", command.get_program().display())),
    }
}

fn try_output(command: &mut Command) -> io::Result<(bool, Vec<u8>)> {
    // One pipe for both, so that the order of the lines is kept.
    let (mut reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut running = command.spawn()?;
    // The command holds the writing end, without which the output ends with the program.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    Ok((running.wait()?.success(), output))
}

/// Runs a command that is a step, or part of one.
pub(super) fn run(command: &mut Command) -> Result<(), Stop> {
    let (is_success, output) = output(command);
    if is_success {
        return Ok(());
    }
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    Err(Stop::Failed(format!("$ {program} {}\n{output}", args.join(" "))))
}

/// Runs all commands although one fails.
pub(super) fn run_each(commands: impl IntoIterator<Item = Command>) -> Result<(), Stop> {
    let mut failed = Vec::new();
    for mut command in commands {
        match run(&mut command) {
            Err(Stop::Failed(output)) => failed.push(output),
            done => done?,
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Stop::Failed(failed.join("\n"))) }
}

/// True when the program can be run with these arguments.
pub(super) fn is_there(program: &str, args: &[&str]) -> bool {
    output(Command::new(program).args(args)).0
}

/// Checks for `cargo NAME`.
pub(super) fn subcommand_is_installed(name: &str) -> Result<(), Missing> {
    if output(cargo().args([name, "--version"])).0 {
        return Ok(());
    }
    Err(Missing {
        what: format!("cargo-{name} is missing"),
        remedy: format!("cargo install --locked cargo-{name}"),
        source: Source::Registry,
    })
}

/// Checks for the standard library, or `core`, of a target.
pub(super) fn target_is_installed(name: &str) -> Result<(), Missing> {
    let (_, sysroot) = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(repository()));
    if Path::new(sysroot.trim()).join("lib/rustlib").join(name).join("lib").is_dir() {
        return Ok(());
    }
    Err(Missing {
        what: format!("the target {name} is missing"),
        remedy: format!("rustup target add {name}"),
        source: Source::Elsewhere,
    })
}

/// Checks for a program that comes with a package of Debian and Ubuntu.
pub(super) fn program_is_installed(name: &str, package: &str) -> Result<(), Missing> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        return Ok(());
    }
    Err(Missing {
        what: format!("{name} is missing"),
        remedy: format!("apt-get install {package}"),
        source: Source::Elsewhere,
    })
}

/// The full name of the installed toolchain of a version or channel. Asks for the list, since naming one that
/// is missing may have it installed.
pub(super) fn toolchain(version: &str) -> Result<String, Missing> {
    let (_, list) = output(Command::new("rustup").args(["toolchain", "list"]));
    find_toolchain(&list, version).map(str::to_owned).ok_or_else(|| Missing {
        what: format!("the toolchain {version} is missing"),
        remedy: format!("rustup toolchain install {version} --profile minimal"),
        source: Source::Elsewhere,
    })
}

fn find_toolchain<'a>(list: &'a str, version: &str) -> Option<&'a str> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.into_iter().find(|name| name.strip_prefix(version).is_some_and(|rest| rest.starts_with(['-', '.'])))
}

/// The oldest Rust that the workspace promises to build with.
pub(super) fn rust_version() -> Option<String> {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).ok()?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "))?;
    Some(line.trim().trim_matches('"').to_owned())
}

/// Copies the tree without its lock file, and without the members that are not published: their dependencies
/// must not raise those of the others.
pub(super) fn copy_published() -> io::Result<PathBuf> {
    let copy = target().join("lint").join("minimal-versions");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(repository());
    let (is_success, files) = output(&mut list);
    if !is_success {
        return Err(io::Error::other(files));
    }
    for file in files.split_terminator('\0').filter(|file| *file != "Cargo.lock") {
        let (from, to) = (repository().join(file), copy.join(file));
        // A file that was deleted is listed until that is committed.
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap_or(&copy))?;
            fs::copy(from, to)?;
        }
    }
    let manifest = copy.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    let is_published = |member: &str| {
        let text = fs::read_to_string(copy.join(member).join("Cargo.toml")).unwrap_or_default();
        !text.lines().any(|line| line == "publish = false")
    };
    fs::write(&manifest, without_members(&text, is_published))?;
    Ok(copy)
}

/// The manifest of a workspace without the members that are not to be kept. Each stands on a line of its own.
fn without_members(manifest: &str, is_kept: impl Fn(&str) -> bool) -> String {
    let member = |line: &str| Some(line.trim().strip_prefix('"')?.strip_suffix("\",")?.to_owned());
    let kept = manifest.lines().filter(|line| member(line).is_none_or(|member| is_kept(&member)));
    kept.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolchains_are_found_by_whole_versions() {
        let list = "stable-x86_64 (active, default)\nnightly-2026-01-01-x86_64\n1.89.0-x86_64\n1.9-x86_64\n";
        assert_eq!(find_toolchain(list, "nightly"), Some("nightly-2026-01-01-x86_64"));
        assert_eq!(find_toolchain(list, "1.89"), Some("1.89.0-x86_64"));
        assert_eq!(find_toolchain(list, "1.89.0"), Some("1.89.0-x86_64"));
        assert_eq!(find_toolchain(list, "1.9"), Some("1.9-x86_64"));
        assert_eq!(find_toolchain(list, "1.8"), None);
    }

    #[test]
    fn members_are_removed_line_by_line() {
        let manifest = "members = [\n    \"a\",\n    \"b\",\n]\nkeywords = [\"b\", \"c\"]\n";
        let expected = "members = [\n    \"a\",\n]\nkeywords = [\"b\", \"c\"]\n";
        assert_eq!(without_members(manifest, |member| member != "b"), expected);
    }

    #[test]
    fn rust_version_is_that_of_the_workspace() {
        assert_eq!(rust_version().as_deref(), Some(env!("CARGO_PKG_RUST_VERSION")));
    }

    #[test]
    fn failures_of_all_commands_are_kept() {
        let git = |arg: &str| {
            let mut git = Command::new("git");
            git.arg(arg);
            git
        };
        let Err(Stop::Failed(output)) = run_each(["no-such-a", "--version", "no-such-b"].map(git)) else {
            panic!("both unknown commands should fail");
        };
        assert_eq!(output.matches("$ git no-such-").count(), 2, "{output}");
    }
}
