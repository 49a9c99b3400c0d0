//! Programs made of README files: the dependencies that a file names, and its examples.

use std::{fs, io, path::Path};

use super::packed::Packed;

/// The program of a README file.
#[derive(Debug)]
pub(super) struct Program {
    /// The crate whose README it is.
    pub(super) of: &'static str,
    /// Its name, and its folder in the workspace.
    pub(super) package: String,
    pub(super) examples: Vec<Example>,
}

/// An example of a README file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Example {
    pub(super) name: String,
    /// False when it is only built.
    pub(super) runs: bool,
    code: String,
}

/// Writes the programs of all README files that have examples.
pub(super) fn write(packed: &[Packed], folder: &Path) -> Result<Vec<Program>, String> {
    let mut programs = Vec::new();
    for packed in packed {
        let failed = |error: io::Error| format!("the program of {}: {error}", packed.of.name);
        let readme = fs::read_to_string(packed.path.join("README.md")).map_err(failed)?;
        let package = format!("{}-readme", packed.of.name);
        let examples = examples(&readme, &package.replace('-', "_"));
        if examples.is_empty() {
            continue;
        }
        let Some(manifest) = manifest(&readme, &package, packed.of.name) else {
            return Err(format!("README of {0} doesn't say how to depend on {0}", packed.of.name));
        };
        let root = folder.join(&package);
        fs::create_dir_all(root.join("examples")).map_err(failed)?;
        fs::write(root.join("Cargo.toml"), manifest).map_err(failed)?;
        for example in &examples {
            let file = root.join("examples").join(&example.name).with_extension("rs");
            fs::write(file, &example.code).map_err(failed)?;
        }
        programs.push(Program { of: packed.of.name, package, examples });
    }
    Ok(programs)
}

/// The blocks of code of a document: the words behind the fence, and the code.
fn blocks(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = text.split("\n```").skip(1).step_by(2);
    parts.filter_map(|block| block.split_once('\n'))
}

/// The manifest of a program with the dependencies that a README names; none when it doesn't name the crate.
fn manifest(readme: &str, package: &str, name: &str) -> Option<String> {
    let (_, dependencies) = blocks(readme).find(|(words, _)| *words == "toml")?;
    let is_named = dependencies.lines().any(|line| line.split(' ').next() == Some(name));
    let head =
        format!("[package]\nname = {package:?}\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n");
    is_named.then(|| format!("{head}\n{dependencies}\n"))
}

/// The examples of a README, named in order.
fn examples(readme: &str, prefix: &str) -> Vec<Example> {
    let is_rust = |words: &str| words.split(',').next() == Some("rust");
    let code = blocks(readme).filter(|(words, _)| is_rust(words));
    code.enumerate()
        .map(|(n, (words, code))| {
            let has_main = code.contains("fn main()");
            let end = if has_main { "" } else { "\nfn main() {}\n" };
            let runs = has_main && !words.contains("no_run");
            Example {
                name: format!("{prefix}_{n}"),
                runs,
                code: format!("#![allow(dead_code)]\n{code}{end}"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# x-y\n\n```toml\n[dependencies]\nx-y = \"1\"\n```\n\nAn example:\n\n\
        ```rust\nfn main() {}\n```\n\n```sh\nx\n```\n\n```rust,no_run\nfn main() { x() }\n```\n\n```rust\nfn x() {}\n```\n";

    #[test]
    fn dependencies_of_a_program_are_those_of_readme() {
        let manifest = |name| manifest(README, "p", name);
        assert!(manifest("x-y").unwrap().ends_with("publish = false\n\n[dependencies]\nx-y = \"1\"\n"));
        assert_eq!(manifest("x"), None);
    }

    #[test]
    fn examples_run_unless_they_have_no_main_or_say_so() {
        let examples = examples(README, "x");
        let runs: Vec<_> = examples.iter().map(|example| (example.name.as_str(), example.runs)).collect();
        assert_eq!(runs, [("x_0", true), ("x_1", false), ("x_2", false)]);
        assert!(examples[2].code.ends_with("fn x() {}\nfn main() {}\n"), "{}", examples[2].code);
    }
}
