//! Every rule of the Java client is spoken of: in `docs/compatibility.md`, or in a test that cites it. And
//! what is spoken of, there is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The numbers of the rules.
const RULES: &str = include_str!("java_rules.txt");
const DOCUMENT: &str = include_str!("../../docs/compatibility.md");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The text of every Rust file below `folder`.
fn sources(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            into.push((path, text));
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    sources(&repository(), &mut all);
    assert!(all.len() > 100, "the repository is not where it is expected: {} files", all.len());
    all
}

/// The part of a file that is tests.
fn tests_of<'a>(path: &Path, text: &'a str) -> &'a str {
    if path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs") {
        return text;
    }
    text.find("#[cfg(test)]").map_or("", |start| &text[start..])
}

/// The numbers of rules in a text, such as `M-26`, of those groups that are listed.
fn cited(text: &str) -> BTreeSet<String> {
    let bytes = text.as_bytes();
    let mut found = BTreeSet::new();
    for (dash, _) in text.match_indices('-') {
        let Some(letter) =
            dash.checked_sub(1).map(|at| bytes[at]).filter(|letter| b"SPDLMTXQNEK".contains(letter))
        else {
            continue;
        };
        let begins =
            dash < 2 || !(bytes[dash - 2].is_ascii_alphanumeric() || b"_-.".contains(&bytes[dash - 2]));
        let digits: String = text[dash + 1..].chars().take_while(char::is_ascii_digit).collect();
        let ends = !text[dash + 1 + digits.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        // A rule has at most two digits; a year or a model doesn't.
        if begins && ends && (1..=2).contains(&digits.len()) {
            found.insert(format!("{}-{digits}", letter as char));
        }
    }
    found
}

fn rules() -> BTreeSet<String> {
    let rules = RULES.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    rules.map(str::to_owned).collect()
}

/// The rows of the document's tables, as cells.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule |"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
}

#[test]
fn every_rule_of_sending_has_a_test_or_a_row() {
    let in_rows: BTreeSet<_> = rows().flat_map(|row| cited(row[0])).collect();
    let in_tests: BTreeSet<_> =
        all_sources().iter().flat_map(|(path, text)| cited(tests_of(path, text))).collect();
    let rules = rules();
    assert!(rules.len() > 150, "{}", rules.len());
    let silent: Vec<_> = rules
        .iter()
        .filter(|rule| !rule.starts_with('K') && !in_rows.contains(*rule) && !in_tests.contains(*rule))
        .collect();
    assert!(silent.is_empty(), "nothing is said of {silent:?}");
}

#[test]
fn every_number_that_is_cited_is_a_rule() {
    let rules = rules();
    let wrong = |text: &str| cited(text).into_iter().filter(|rule| !rules.contains(rule)).collect::<Vec<_>>();
    assert_eq!(wrong(DOCUMENT), [""; 0], "in the document");
    for (path, text) in all_sources() {
        if path.file_name().is_some_and(|name| name != "compatibility.rs") {
            assert_eq!(wrong(&text), [""; 0], "in {}", path.display());
        }
    }
}

#[test]
fn every_row_is_whole_and_names_a_test_that_there_is() {
    let sources = all_sources();
    let is_there = |test: &str| {
        let function = format!("fn {test}(");
        sources.iter().any(|(path, text)| tests_of(path, text).contains(&function))
    };
    for row in rows() {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(!cited(row[0]).is_empty() && row[1].len() > 10 && row[2].len() > 7, "{row:?}");
        match row[3].strip_prefix('`').and_then(|test| test.strip_suffix('`')) {
            Some(test) => assert!(is_there(test), "there is no test {test}, for {}", row[0]),
            None => assert_eq!(row[3], "—", "{row:?}"),
        }
    }
}

#[test]
fn numbers_of_rules_are_told_from_other_text() {
    let found =
        cited("M-26 (K-1), P-3: \"D-7\"; N-7: but 0-1, UTF-8, RFC-99, M-2024, x_S-1, MM-3, S-1x, Z-4 and L-");
    let expected = ["D-7", "K-1", "M-26", "N-7", "P-3"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected));
}
