//! `examples/README.md` and the examples agree on what there is, and how it is run.

use std::{collections::BTreeSet, fs, path::Path};

use crate::document::{README, sections};

/// The tests that are examples themselves.
const TESTS: [&str; 2] = ["mock_in_unit_test", "service_test"];

/// The manifest's examples: name, path and features.
fn examples() -> Vec<(&'static str, &'static str, Option<&'static str>)> {
    let field = |text: &'static str, name: &str| {
        let (_, value) = text.split_once(&format!("\n{name} = "))?;
        Some(value.split('\n').next()?.trim_matches(['[', ']', '"']))
    };
    let manifest = include_str!("../../Cargo.toml").split("\n[[example]]").skip(1);
    let examples = manifest.map(|text| {
        let (name, path) = (field(text, "name").unwrap(), field(text, "path").unwrap());
        (name, path, field(text, "required-features"))
    });
    examples.collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

#[test]
fn every_example_is_documented_with_its_command() {
    let sections = sections(README);
    let documented: BTreeSet<_> = sections.iter().map(|section| section.name).collect();
    let existing: BTreeSet<_> = examples().iter().map(|(name, ..)| *name).chain(TESTS).collect();
    assert_eq!(documented, existing);
    assert_eq!(documented.len(), sections.len(), "a section occurs twice");
    for (name, path, features) in examples() {
        let section = sections.iter().find(|section| section.name == name).unwrap();
        assert_eq!(section.file, path);
        let features = features.map(|features| format!("--features {features} ")).unwrap_or_default();
        let command = format!("cargo run -p metaq-examples {features}--example {name}");
        assert!(section.command.contains(&command), "{name} is not run by {command}");
    }
}

#[test]
fn the_readme_of_the_repository_links_every_example() {
    let readme = include_str!("../../../README.md");
    for section in sections(README) {
        let link = format!("[{}](examples/{})", section.name, section.file);
        assert!(readme.contains(&link), "README.md lacks {link}");
    }
}

#[test]
fn every_example_says_at_its_top_how_it_is_run() {
    for section in sections(README) {
        let source = read(section.file);
        let head: Vec<_> = source.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let head = head.join("\n");
        for line in section.command.lines() {
            assert!(head.contains(&format!("\n {line}")), "the head of {} lacks: {line}", section.file);
        }
        assert!(head.contains("print"), "the head of {} does not say what it prints", section.file);
    }
}

#[test]
fn every_example_has_40_to_120_lines() {
    for (name, path, _) in examples() {
        let lines = read(path).lines().count();
        assert!((40..=120).contains(&lines), "{name} has {lines} lines");
    }
}

#[test]
fn tests_that_are_examples_are_documented_with_their_names() {
    for name in TESTS {
        let section = crate::document::section(name);
        let source = read(section.file);
        let mut tests: Vec<_> = source
            .split("\n#[tokio::test")
            .skip(1)
            .filter_map(|rest| rest.split("async fn ").nth(1)?.split('(').next())
            .collect();
        tests.sort_unstable();
        let mut lines = section.output.lines();
        let shown: Vec<_> =
            lines.by_ref().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok")).collect();
        assert_eq!(shown, tests, "{name}");
        assert!(section.output.contains(&format!("running {} tests\n", tests.len())), "{name}");
        assert!(
            section.output.contains(&format!("test result: ok. {} passed; 0 failed;", tests.len())),
            "{name}"
        );
        assert!(section.command == format!("cargo test -p metaq-examples --test {name}"), "{name}");
    }
}
