//! Ceilings on the crates that a program builds by depending on one of ours, and the reasons for them in
//! ARCHITECTURE.md.

use std::{collections::BTreeSet, io, path::Path, process::Stdio};

use super::{Problem, tables};
use crate::cargo_command;

/// A crate with some of its features, and the number of crates from elsewhere that are built for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) package: &'static str,
    /// The arguments of cargo that choose its features.
    pub(super) features: &'static [&'static str],
    pub(super) ceiling: usize,
    /// Set when ARCHITECTURE.md has a reason for each crate.
    pub(super) has_reasons: bool,
    /// The line of the entry in the tables.
    pub(super) line: u32,
}

/// The target whose trees are counted: other platforms have other crates.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The document with the reasons, and its section.
const REASONS: (&str, &str) = ("ARCHITECTURE.md", "### Reasons");

/// The crates of a tree as `cargo tree --prefix none` prints it, by name and version, without those of the
/// workspace. Procedural macros count, crates that only tests or build scripts need don't.
fn crates(printed: &str) -> BTreeSet<(&str, &str)> {
    let lines = printed.lines().filter(|line| !line.contains("(/"));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, rest)| (name, first_word(rest))).collect()
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// The names in the first column of the section's tables, with their lines.
fn rows(document: &str) -> Vec<(usize, &str)> {
    let lines = (1..).zip(document.lines()).skip_while(|(_, line)| *line != REASONS.1).skip(1);
    let lines = lines.take_while(|(_, line)| !line.starts_with('#'));
    let cells = lines.filter_map(|(n, line)| Some((n, line.strip_prefix("| `")?.split(" | ").next()?)));
    cells.flat_map(|(n, cell)| cell.split('`').step_by(2).map(move |name| (n, name))).collect()
}

/// Compares a tree, as cargo prints it, with its ceiling. The second result is a lower ceiling that would do.
fn compare(tree: &Tree, printed: &str) -> (Option<Problem>, Option<String>) {
    let crates = crates(printed);
    let (count, name) = (crates.len(), [&[tree.package], tree.features].concat().join(" "));
    let problem = (count > tree.ceiling).then(|| {
        let list: Vec<_> = crates.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "{name} is built from {count} crates, and {} is the ceiling; do without the new ones, or raise it and give the \
             reason in {}. They are {}",
            tree.ceiling,
            REASONS.0,
            list.join(", ")
        );
        Problem { path: tables::PATH.into(), line: tree.line as usize, text }
    });
    let hint = (count < tree.ceiling)
        .then(|| format!("{}:{}: {name} needs only {count} crates", tables::PATH, tree.line));
    (problem, hint)
}

/// The crates without a reason, and the reasons without a crate.
fn compare_reasons(used: &BTreeSet<String>, document: &str) -> Vec<Problem> {
    let rows = rows(document);
    let problem = |line, text| Problem { path: REASONS.0.into(), line, text };
    let missing = used.iter().filter(|name| rows.iter().all(|(_, row)| row != name));
    let missing = missing.map(|name| problem(1, format!("its section Reasons has no reason for {name}")));
    let gone = rows.iter().filter(|(_, row)| !used.contains(*row));
    missing.chain(gone.map(|(n, row)| problem(*n, format!("{row} is no dependency any more")))).collect()
}

/// Counts the crates of all trees. Compiles nothing.
pub(super) fn check(root: &Path, all: &[Tree], document: &str) -> io::Result<(Vec<Problem>, Vec<String>)> {
    let (mut problems, mut hints, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    let start = |tree: &Tree| {
        let mut command = cargo_command();
        command
            .current_dir(root)
            .args(["tree", "--locked", "--quiet", "--edges", "normal", "--prefix", "none"]);
        command.args(["--target", TARGET, "--package", tree.package]).args(tree.features);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    // All at once: each takes a third of a second.
    let started: Vec<_> = all.iter().map(start).collect();
    for (tree, started) in all.iter().zip(started) {
        let output = started?.wait_with_output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let (problem, hint) = compare(tree, &printed);
        problems.extend(problem);
        hints.extend(hint);
        if tree.has_reasons {
            used.extend(crates(&printed).into_iter().map(|(name, _)| name.to_owned()));
        }
    }
    problems.extend(compare_reasons(&used, document));
    Ok((problems, hints))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "ours v0.1.0 (/r/ours)\nbytes v1.0.0\nderive v2.0.0 (proc-macro)\nsyn v3.0.0\n\
                           also-ours v0.1.0 (/r/also-ours) (*)\nsyn v3.0.0 (*)\nsyn v2.0.0\n";

    fn tree(ceiling: usize) -> Tree {
        Tree { package: "ours", features: &["--all-features"], ceiling, has_reasons: true, line: 7 }
    }

    #[test]
    fn each_version_of_a_crate_counts_once() {
        let counted = [("bytes", "v1.0.0"), ("derive", "v2.0.0"), ("syn", "v2.0.0"), ("syn", "v3.0.0")];
        assert_eq!(crates(PRINTED), BTreeSet::from(counted));
    }

    #[test]
    fn a_tree_that_grows_is_a_problem_and_one_that_shrinks_a_hint() {
        let (problem, hint) = compare(&tree(3), PRINTED);
        let problem = problem.unwrap().to_string();
        assert!(
            problem.contains("tables.rs:7: ours --all-features is built from 4 crates, and 3 is"),
            "{problem}"
        );
        assert!(problem.ends_with("bytes, derive, syn, syn"), "{problem}");
        assert_eq!(hint, None);
        let (problem, hint) = compare(&tree(4), PRINTED);
        assert!(problem.is_none() && hint.is_none());
        let (problem, hint) = compare(&tree(5), PRINTED);
        assert!(problem.is_none() && hint.unwrap().ends_with("needs only 4 crates"));
    }

    #[test]
    fn reasons_and_crates_are_the_same() {
        let document = "## Other\n| `x` | y |\n### Reasons\n\n| crate | reason |\n|---|---|\n\
                        | `bytes` | buffers |\n| `derive`, `gone` | macros |\n## More\n| `syn` | z |\n";
        let used = crates(PRINTED).into_iter().map(|(name, _)| name.to_owned()).collect();
        let found = compare_reasons(&used, document);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md:1: its section Reasons has no reason for syn",
                "ARCHITECTURE.md:8: gone is no dependency any more"
            ]
        );
    }
}
