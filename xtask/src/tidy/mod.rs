//! `cargo xtask tidy`: checks of the tree that need no compiling.

mod crates;
mod lexer;
mod limits;
mod rooms;
mod source;
mod tables;
mod trees;

use std::{
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use crate::{rules, say};
use rooms::Rooms;

/// A Rust file of the repository.
#[derive(Debug)]
struct File {
    /// From the root of the repository.
    path: PathBuf,
    text: String,
    modified: SystemTime,
}

impl File {
    /// The folder of its crate.
    fn folder(&self) -> &str {
        self.path.iter().next().and_then(|part| part.to_str()).unwrap_or_default()
    }

    /// True below a `src/`.
    fn is_source(&self) -> bool {
        self.path.iter().any(|part| part == "src")
    }
}

/// A place to change, with the reason and the change.
#[derive(Debug)]
struct Problem {
    path: PathBuf,
    line: usize,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// The results of all checks.
#[derive(Debug, Default)]
struct Found {
    problems: Vec<String>,
    /// Improvements that are possible, and no failures.
    hints: Vec<String>,
}

/// Checks the tree, or prints the graph of its rooms; true when all is in order.
pub(crate) fn run(args: &[String]) -> bool {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let root = repository();
    let done = match args[..] {
        [] => return check_all(root),
        ["--graph"] => graph(root, None),
        ["--graph", folder] if rooms::CRATES.contains(&folder) => graph(root, Some(folder)),
        _ => {
            say(&format!("usage: cargo xtask tidy [--graph [{}]]\n", rooms::CRATES.join(" | ")));
            return false;
        }
    };
    match done {
        // A reader that has closed the pipe has seen enough.
        Ok(text) => writeln!(io::stdout(), "{}", text.trim_end()).is_ok(),
        Err(error) => {
            say(&format!("the tree can't be read: {error}\n"));
            false
        }
    }
}

fn check_all(root: &Path) -> bool {
    let began = Instant::now();
    let found = match check(root) {
        Ok(found) => found,
        Err(error) => {
            say(&format!("the tree can't be read: {error}\n"));
            return false;
        }
    };
    for line in found.problems.iter().chain(&found.hints) {
        say(&format!("{line}\n"));
    }
    let result = match found.problems.len() {
        0 => "in order".to_owned(),
        1 => "1 problem".to_owned(),
        problems => format!("{problems} problems"),
    };
    say(&format!("tidy: {result}, after {} ms\n", began.elapsed().as_millis()));
    found.problems.is_empty()
}

/// The root of the repository.
fn repository() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

fn check(root: &Path) -> io::Result<Found> {
    let files = rust_files(root)?;
    let read = |path: &Path| fs::read_to_string(root.join(path)).unwrap_or_default();
    let mut found = Found::default();
    found.problems.extend(crates::check(&tables::CRATES, read).iter().map(ToString::to_string));
    for folder in rooms::CRATES {
        found.problems.extend(Rooms::of(folder, &files).problems(folder));
    }
    let (grown, hints) = limits::check(&files, &tables::CEILINGS);
    found.problems.extend(grown.iter().map(ToString::to_string));
    found.hints = hints;
    let (grown, hints) = trees::check(root, &tables::TREES, &read(Path::new("ARCHITECTURE.md")))?;
    found.problems.extend(grown.iter().map(ToString::to_string));
    found.hints.extend(hints);
    found.problems.extend(rules::check(root)?);
    Ok(found)
}

/// The graphs of the rooms of all crates, or of one, as text for Graphviz.
fn graph(root: &Path, only: Option<&str>) -> io::Result<String> {
    let files = rust_files(root)?;
    let folders = rooms::CRATES.iter().filter(|folder| only.is_none_or(|only| only == **folder));
    Ok(folders.map(|folder| Rooms::of(folder, &files).graphviz(folder)).collect())
}

/// All Rust files of the repository, by their paths.
fn rust_files(root: &Path) -> io::Result<Vec<File>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let is_skipped = ["target", ".git"].iter().any(|name| path.ends_with(name));
            if path.is_dir() && !is_skipped {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let modified = path.metadata()?.modified()?;
                let text = fs::read_to_string(&path)?;
                let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
                files.push(File { path, text, modified });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let found = check(repository()).unwrap();
        assert!(found.problems.is_empty(), "{}", found.problems.join("\n"));
        assert!(rust_files(repository()).unwrap().len() > 300);
    }
}
