//! Arrows between the crates of the workspace.

use std::path::Path;

use super::{Problem, tables};

/// A crate of the workspace, and those of its crates that it may depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crate {
    pub(super) folder: &'static str,
    pub(super) name: &'static str,
    pub(super) dependencies: &'static [&'static str],
    pub(super) dev_dependencies: &'static [&'static str],
}

/// The dependencies of a manifest: the line, the name, and true where only tests depend on it.
fn dependencies(manifest: &str) -> Vec<(usize, &str, bool)> {
    let mut found = Vec::new();
    // True within a section of tests; none outside of dependencies.
    let mut section = None;
    for (n, line) in (1..).zip(manifest.lines()) {
        let line = line.trim();
        if let Some(heading) = line.strip_prefix('[') {
            let heading = heading.split(']').next().unwrap_or_default();
            // `target.'cfg(unix)'.dependencies` has those of a platform, `dependencies.name` a single one.
            let (kind, name) = match heading.split_once("dependencies") {
                Some((kind, "")) => (kind, None),
                Some((kind, name)) => (kind, name.strip_prefix('.')),
                None => ("none", None),
            };
            let is_target = kind.starts_with("target.") && kind.ends_with(['.', '-']);
            let is_known = ["", "dev-", "build-"].contains(&kind) || is_target;
            section = is_known.then(|| kind.ends_with("dev-"));
            found.extend(name.zip(section).map(|(name, is_dev)| (n, name, is_dev)));
            section = section.filter(|_| name.is_none());
        } else if let Some(is_dev) = section {
            let key = line.split(['.', '=', ' ', '#']).next().unwrap_or_default();
            // A dependency may be known by another name.
            let package = line.split_once("package = \"").and_then(|(_, package)| package.split('"').next());
            found.push((n, package.unwrap_or(key), is_dev));
        }
    }
    found.retain(|(_, name, _)| !name.is_empty());
    found
}

/// The folders of the workspace's members, with their lines.
fn members(manifest: &str) -> Vec<(usize, &str)> {
    let lines = (1..).zip(manifest.lines()).skip_while(|(_, line)| !line.starts_with("members"));
    let names = lines.take_while(|(_, line)| !line.starts_with(']'));
    names.filter_map(|(n, line)| Some((n, line.trim().strip_prefix('"')?.split('"').next()?))).collect()
}

/// The arrows of a crate that the table doesn't have.
fn wrong(of: &Crate, manifest: &str, all: &[Crate]) -> Vec<Problem> {
    let path = Path::new(of.folder).join("Cargo.toml");
    let problem = |(line, name, is_dev): (usize, &str, bool)| {
        let used = all.iter().find(|used| used.name == name)?;
        let is_allowed =
            of.dependencies.contains(&used.name) || is_dev && of.dev_dependencies.contains(&used.name);
        let kind = if is_dev { "tests of " } else { "" };
        let list = if is_dev { "dev_dependencies" } else { "dependencies" };
        (!is_allowed).then(|| {
            let text = format!(
                "{kind}{} may not depend on {name}; move the code to where both may reach it (ARCHITECTURE.md), or \
                 change `{list}` of it in {} and say there why",
                of.name,
                tables::PATH
            );
            Problem { path: path.clone(), line, text }
        })
    };
    dependencies(manifest).into_iter().filter_map(problem).collect()
}

/// Compares the manifests, which `read` reads by their paths, with the table.
pub(super) fn check(all: &[Crate], read: impl Fn(&Path) -> String) -> Vec<Problem> {
    let workspace = read(Path::new("Cargo.toml"));
    let unknown =
        members(&workspace).into_iter().filter(|(_, folder)| all.iter().all(|of| of.folder != *folder));
    let mut problems: Vec<_> = unknown
        .map(|(line, folder)| {
            let text = format!("{folder} isn't in {}; say there what it may depend on", tables::PATH);
            Problem { path: "Cargo.toml".into(), line, text }
        })
        .collect();
    for of in all {
        problems.extend(wrong(of, &read(&Path::new(of.folder).join("Cargo.toml")), all));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Crate; 2] = [
        Crate { folder: "low", name: "x-low", dependencies: &[], dev_dependencies: &["x-high"] },
        Crate { folder: "high", name: "x-high", dependencies: &["x-low"], dev_dependencies: &[] },
    ];

    fn problems(low: &str, high: &str) -> Vec<String> {
        let read = |path: &Path| match path.to_str() {
            Some("Cargo.toml") => "[workspace]\nmembers = [\n    \"low\",\n    \"high\",\n]\n".to_owned(),
            Some("low/Cargo.toml") => low.to_owned(),
            _ => high.to_owned(),
        };
        check(&ALL, read).iter().map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn arrows_of_the_table_are_fine() {
        let low = "[dependencies]\nbytes = \"1\"\n[dev-dependencies]\nx-high.workspace = true\n";
        assert_eq!(problems(low, "[dependencies]\nx-low = { path = \"../low\" }"), [""; 0]);
        assert_eq!(problems("[features]\nx-high = []\n[package]\nname = \"x-high\"", ""), [""; 0]);
    }

    #[test]
    fn an_arrow_that_points_up_is_a_problem() {
        for (low, line) in [
            ("[dependencies]\nx-high.workspace = true", 2),
            ("[dependencies]\n\nx-high = { path = \"../high\" }", 3),
            ("[dependencies]\nhigh = { path = \"../high\", package = \"x-high\" }", 2),
            ("[dependencies.x-high]\npath = \"../high\"", 1),
            ("[build-dependencies]\nx-high = \"1\"", 2),
            ("[target.'cfg(unix)'.dependencies]\nx-high = \"1\"", 2),
            ("[dev-dependencies]\n[target.'cfg(unix)'.dependencies] # why\nx-high = \"1\"", 3),
        ] {
            let found = problems(low, "");
            assert_eq!(found.len(), 1, "{low}: {found:?}");
            let begin = format!("low/Cargo.toml:{line}: x-low may not depend on x-high; ");
            assert!(found[0].starts_with(&begin), "{low}: {found:?}");
        }
        let found = problems("", "[target.'cfg(unix)'.dev-dependencies]\nx-high = \"1\"");
        assert!(found[0].starts_with("high/Cargo.toml:2: tests of x-high may not"), "{found:?}");
    }

    #[test]
    fn a_crate_that_the_table_lacks_is_a_problem() {
        let found = check(&ALL[..1], |path| match path.to_str() {
            Some("Cargo.toml") => "[workspace]\nmembers = [\n    \"low\",\n    \"new\",\n]\n".to_owned(),
            _ => String::new(),
        });
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("Cargo.toml:4: new isn't in "), "{found:?}");
    }
}
