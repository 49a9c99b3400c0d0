//! The steps of `cargo xtask lint`.

use std::{env, process::Command};

use super::{
    Missing, Source, Step, Stop,
    tools::{self, cargo, repository, run, run_each},
};

/// All steps, the quick ones first.
pub(super) const STEPS: [Step; 16] = [
    Step { name: "fmt", is_quick: true, check: fmt },
    Step { name: "tidy", is_quick: true, check: tidy },
    Step { name: "clippy", is_quick: true, check: clippy },
    Step { name: "features", is_quick: true, check: features },
    Step { name: "docs", is_quick: true, check: docs },
    Step { name: "no-std", is_quick: true, check: no_std },
    Step { name: "wasm32", is_quick: true, check: wasm32 },
    Step { name: "deny", is_quick: false, check: deny },
    Step { name: "advisories", is_quick: false, check: advisories },
    Step { name: "powerset", is_quick: false, check: powerset },
    Step { name: "alone", is_quick: false, check: alone },
    Step { name: "minimal-versions", is_quick: false, check: minimal_versions },
    Step { name: "msrv", is_quick: false, check: msrv },
    Step { name: "musl", is_quick: false, check: musl },
    Step { name: "semver", is_quick: false, check: semver },
    Step { name: "workflow", is_quick: false, check: workflow },
];

/// The libraries, in the order of their dependencies.
const LIBRARIES: [&str; 7] = [
    "metaq-protocol",
    "metaq-discovery",
    "metaq-transport",
    "metaq-testkit",
    "metaq-producer",
    "metaq-spool",
    "metaq-tracing",
];

/// The other packages.
const PROGRAMS: [&str; 4] = ["metaq-cli", "metaq-bench", "metaq-examples", "xtask"];

/// Sets of features of libraries that `features` checks: each feature by itself, and the pairs that share
/// code. `powerset` checks many more.
const FEATURES: [(&str, &[&str]); 7] = [
    ("metaq-protocol", &["", "std"]),
    (
        "metaq-discovery",
        &[
            "",
            "zookeeper",
            "etcd",
            "file",
            "mock",
            "tls",
            "zookeeper,tls",
            "etcd,tls",
            "tls-ring",
            "etcd,tls-ring",
        ],
    ),
    ("metaq-transport", &["", "serde", "tls", "tls-ring"]),
    ("metaq-testkit", &["", "zookeeper", "etcd", "peers"]),
    ("metaq-producer", &["", "serde", "config", "json", "metrics", "tls-ring"]),
    ("metaq-spool", &["", "metrics"]),
    ("metaq-tracing", &[""]),
];

/// Features of `metaq-producer` that are combined at a time. All sets of nine would take hours, and its
/// backends are features of `metaq-discovery`, of which all sets are checked.
const DEPTH: &str = "2";

const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];
const THUMB: &str = "thumbv7em-none-eabi";
const WASM: &str = "wasm32-unknown-unknown";
const MUSL: &str = "x86_64-unknown-linux-musl";

fn fmt() -> Result<(), Stop> {
    run(cargo().args(["fmt", "--all", "--check"]))
}

fn tidy() -> Result<(), Stop> {
    let xtask =
        env::current_exe().map_err(|error| Stop::Failed(format!("this program has no path: {error}")))?;
    run(Command::new(xtask).arg("tidy"))
}

fn clippy() -> Result<(), Stop> {
    let all = ["clippy", "--workspace", "--all-targets", "--all-features"];
    run(cargo().args(all).args(DENY_WARNINGS))
}

fn features() -> Result<(), Stop> {
    let sets = FEATURES.iter().flat_map(|(package, sets)| sets.iter().map(move |set| (package, set)));
    run_each(sets.map(|(package, set)| {
        let mut clippy = cargo();
        clippy.args(["clippy", "--package", package, "--no-default-features", "--features", set]);
        clippy.args(DENY_WARNINGS);
        clippy
    }))
}

fn docs() -> Result<(), Stop> {
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--all-features", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings");
    run(&mut doc)
}

/// The target has no standard library, so that dependencies can't use it either.
fn no_std() -> Result<(), Stop> {
    tools::target_is_installed(THUMB)?;
    let build = ["build", "--package", "metaq-protocol", "--no-default-features", "--target", THUMB];
    run(cargo().args(build))
}

fn wasm32() -> Result<(), Stop> {
    tools::target_is_installed(WASM)?;
    run_each([&[][..], &["--no-default-features"]].map(|options| {
        let mut build = cargo();
        build.args(["build", "--package", "metaq-protocol", "--target", WASM]).args(options);
        build
    }))
}

fn deny() -> Result<(), Stop> {
    tools::subcommand_is_installed("deny")?;
    run(cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}

fn advisories() -> Result<(), Stop> {
    tools::subcommand_is_installed("deny")?;
    let done = run(cargo().args(["deny", "check", "advisories"]));
    match done {
        Err(Stop::Failed(output)) if output.contains("failed to fetch advisory database") => {
            Err(Stop::Missing(Missing {
                what: "the database of advisories can't be fetched".to_owned(),
                remedy: "run this where https://github.com/rustsec/advisory-db can be reached".to_owned(),
                source: Source::Elsewhere,
            }))
        }
        done => done,
    }
}

fn powerset() -> Result<(), Stop> {
    tools::subcommand_is_installed("hack")?;
    let hack = |packages: &[&str], options: &[&str]| {
        let mut hack = cargo();
        hack.args(["hack", "clippy", "--feature-powerset", "--keep-going"]);
        // `_tls` is what both features of TLS share, and builds with one of them.
        hack.args(["--exclude-features", "default,_tls"]);
        hack.args(packages.iter().flat_map(|package| ["--package", package])).args(options);
        hack.args(DENY_WARNINGS);
        hack
    };
    let [small @ .., producer, spool, tracing] = &LIBRARIES;
    run_each([hack(small, &[]), hack(&[producer], &["--depth", DEPTH]), hack(&[spool, tracing], &[])])
}

/// Each package with its tests by itself. What is built at a time shares its features, so one that uses a
/// feature which only another package enables shows nowhere else.
fn alone() -> Result<(), Stop> {
    run_each(LIBRARIES.iter().chain(&PROGRAMS).map(|package| {
        let mut check = cargo();
        check.args(["check", "--package", package, "--all-targets", "--all-features"]);
        check
    }))
}

/// The oldest versions that the manifests of the published crates allow, each of which has to be enough.
fn minimal_versions() -> Result<(), Stop> {
    let nightly = tools::toolchain("nightly")?;
    let copy = tools::copy_published()
        .map_err(|error| Stop::Failed(format!("the tree can't be copied: {error}")))?;
    let update = ["cargo", "update", "--quiet", "-Z", "direct-minimal-versions"];
    run(Command::new("rustup").args(["run", &nightly]).args(update).current_dir(&copy))?;
    let mut check = cargo();
    check.args(["check", "--workspace", "--all-features", "--keep-going", "--target-dir"]);
    check.arg(copy.with_extension("target")).current_dir(&copy);
    run(&mut check)
}

fn msrv() -> Result<(), Stop> {
    let version = tools::rust_version()
        .ok_or_else(|| Stop::Failed("Cargo.toml has no rust-version in [workspace.package]".to_owned()))?;
    let toolchain = tools::toolchain(&version)?;
    let mut check = Command::new("rustup");
    check.args(["run", &toolchain, "cargo", "check", "--workspace", "--all-features"]);
    tools::prepare(&mut check);
    // The variable names the cargo of this program, which is another one.
    check.env_remove("CARGO");
    run(&mut check)
}

/// The command has to run on every Linux, hence without a C library of the system.
fn musl() -> Result<(), Stop> {
    tools::target_is_installed(MUSL)?;
    tools::program_is_installed("musl-gcc", "musl-tools")?;
    run(cargo().args(["build", "--package", "metaq-cli", "--target", MUSL]))?;
    let command = crate::target().join(MUSL).join("debug").join("metaq");
    run(Command::new(&command).arg("--version"))?;
    let (_, output) = tools::output(Command::new("ldd").arg(&command));
    // The words of glibc, newer and older; its exit code differs as well.
    if output.contains("statically linked") || output.contains("not a dynamic executable") {
        Ok(())
    } else {
        Err(Stop::Failed(format!("{} is linked dynamically:\n{output}", command.display())))
    }
}

/// Compares with the release that is the nearest ancestor.
fn semver() -> Result<(), Stop> {
    let mut last = Command::new("git");
    last.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^"]).current_dir(repository());
    let tag = last.output().ok().filter(|output| output.status.success());
    let Some(tag) = tag.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()) else {
        return Err(Stop::Missing(Missing {
            what: "git names no tag of a release before this commit".to_owned(),
            remedy: "runs once there is a tag vVERSION".to_owned(),
            source: Source::Elsewhere,
        }));
    };
    tools::subcommand_is_installed("semver-checks")?;
    let mut checks = cargo();
    checks.args(["semver-checks", "--all-features", "--baseline-rev", &tag]);
    checks.args(LIBRARIES.iter().flat_map(|library| ["--package", library]));
    run(&mut checks)
}

fn workflow() -> Result<(), Stop> {
    if !tools::is_there("actionlint", &["--version"]) {
        return Err(Stop::Missing(Missing {
            what: "actionlint is missing".to_owned(),
            remedy: "go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12".to_owned(),
            source: Source::Elsewhere,
        }));
    }
    run(Command::new("actionlint").current_dir(repository()))
}
