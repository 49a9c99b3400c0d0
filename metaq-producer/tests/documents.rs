//! The documents are true of the code: log lines in `docs/operations.md` have the texts and levels of the
//! code, the tests that documents name exist, and links have targets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

const DOCUMENT: &str = include_str!("../../docs/operations.md");

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// Documents that name tests.
const NAMING_TESTS: [&str; 2] =
    [include_str!("../../docs/reliability.md"), include_str!("../../docs/transactions.md")];

/// The folders of documents.
const FOLDERS: [&str; 10] = [
    "",
    "docs",
    "metaq-protocol",
    "metaq-protocol/tests/vectors",
    "metaq-discovery",
    "metaq-transport",
    "metaq-producer",
    "metaq-tracing",
    "metaq-cli",
    "testkit",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
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

/// `code` with every backslash at the end of a line removed, and the indentation of the next line.
fn without_continuations(code: &str) -> String {
    let mut parts = code.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| whole + part.trim_start())
}

/// The code of the libraries that log, without tests, with string literals in one piece.
fn libraries() -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for library in ["metaq-transport", "metaq-producer", "metaq-discovery"] {
        sources(&repository().join(library).join("src"), &mut all);
    }
    assert!(all.len() > 100, "the repository is not where it is expected: {} files", all.len());
    all.retain(|(path, _)| path.file_name().is_some_and(|name| name != "tests.rs"));
    for (_, text) in &mut all {
        *text = without_continuations(text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default());
    }
    all
}

/// The first string literal in `code`.
fn first_literal(code: &str) -> Option<&str> {
    let (_, literal) = code.split_once('"')?;
    literal.split_once('"').map(|(literal, _)| literal)
}

/// The level and the text of every log line that `code` writes; a text that is made of values ends at the
/// first of them.
fn logged(code: &str) -> Vec<(&'static str, &str)> {
    let mut found = Vec::new();
    for level in LEVELS {
        let mark = format!("tracing::{level}!(");
        let mut begins: Vec<_> = code.match_indices(&mark).map(|(at, mark)| at + mark.len()).collect();
        // The macro that contains panics of subscribers.
        begins.extend(code.match_indices("log!(").filter_map(|(at, mark)| {
            let arguments = &code[at + mark.len()..];
            arguments.trim_start().starts_with(&format!("{level},")).then_some(at + mark.len())
        }));
        for begin in begins {
            let text = first_literal(&code[begin..]).unwrap();
            found.push((level, text.split('{').next().unwrap_or_default()));
        }
    }
    found
}

/// The rows of log lines: level and text.
fn rows() -> Vec<(&'static str, &'static str)> {
    let cells = |row: &'static str| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        Some((cells.next()?, cells.next()?))
    };
    DOCUMENT.lines().filter_map(cells).filter(|(level, _)| LEVELS.contains(level)).collect()
}

#[test]
fn every_log_line_is_documented_with_its_level() {
    let rows = rows();
    let mut count = 0;
    for (path, code) in libraries() {
        for (level, text) in logged(&code) {
            // Made of values alone.
            if text.is_empty() {
                continue;
            }
            count += 1;
            let is_documented = |(known, cell): &(&str, &str)| *known == level && cell.contains(text);
            assert!(
                rows.iter().any(is_documented),
                "{level} {text:?} of {} is not documented",
                path.display()
            );
        }
    }
    assert!(count > 30, "only {count} log lines were found");
}

#[test]
fn every_log_line_in_the_document_is_in_the_code() {
    let libraries = libraries();
    let (_, section) = DOCUMENT.split_once("\n## Log lines\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        // Lines of the log have their level before the text; reasons have none.
        let text = if LEVELS.contains(&cells[0].trim()) { cells[1] } else { cells[0] };
        for part in text.split('`').skip(1).step_by(2).filter(|part| part.contains(' ')) {
            count += 1;
            assert!(libraries.iter().any(|(_, code)| code.contains(part)), "no library writes {part:?}");
        }
    }
    assert!(count > 40, "only {count} texts were found");
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut all = Vec::new();
    sources(repository(), &mut all);
    let mut count = 0;
    for document in NAMING_TESTS {
        let quoted = document.split('`').skip(1).step_by(2);
        let is_name = |text: &&str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        for name in quoted.filter(is_name).filter(|text| text.matches('_').count() > 3) {
            count += 1;
            let function = format!("fn {name}(");
            assert!(all.iter().any(|(_, text)| text.contains(&function)), "there is no test {name}");
        }
    }
    assert!(count > 40, "only {count} tests are named");
}

/// The documents of the repository, by their paths.
fn documents() -> Vec<(PathBuf, String)> {
    let entries = FOLDERS.iter().flat_map(|folder| fs::read_dir(repository().join(folder)).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let documents = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The text of a document outside of its blocks of code.
fn prose(document: &str) -> String {
    let mut is_code = false;
    let is_prose = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    document.lines().filter(is_prose).fold(String::new(), |prose, line| prose + line + "\n")
}

/// The links that a document defines: labels and targets.
fn definitions(prose: &str) -> Vec<(&str, &str)> {
    let definitions = prose.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
    definitions.filter(|(label, _)| !label.contains(']')).collect()
}

/// The name of a heading in links.
fn place(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|letter| letter.is_alphanumeric() || ['-', '_'].contains(letter)).collect()
}

#[test]
fn every_link_of_a_document_has_a_target() {
    let mut count = 0;
    for (path, document) in documents() {
        let prose = prose(&document);
        let in_place = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let targets = in_place.chain(definitions(&prose).into_iter().map(|(_, target)| target));
        for target in targets.filter(|target| !target.starts_with("https://")) {
            count += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let of_file = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(of_file.exists(), "{}: there is no {target}", path.display());
            if !heading.is_empty() {
                let text = self::prose(&fs::read_to_string(&of_file).unwrap());
                let mut headings = text.lines().filter(|line| line.starts_with('#')).map(place);
                assert!(headings.any(|place| place == heading), "{}: there is no {target}", path.display());
            }
        }
    }
    assert!(count > 150, "only {count} links were found");
}

#[test]
fn every_link_of_a_document_is_defined() {
    let mut count = 0;
    for (path, document) in documents() {
        let prose = prose(&document);
        let definitions = definitions(&prose);
        for label in prose.split("][").skip(1).filter_map(|rest| rest.split(']').next()) {
            count += 1;
            let is_defined = definitions.iter().any(|(defined, _)| *defined == label);
            assert!(is_defined, "{}: [{label}] is not defined", path.display());
        }
        for (label, _) in &definitions {
            count += 1;
            let uses = prose.matches(&format!("[{label}]")).count();
            assert!(uses > 1, "{}: [{label}] is not used", path.display());
        }
    }
    assert!(count > 100, "only {count} links were found");
}

#[test]
fn every_link_of_a_guide_has_a_target_on_docs_rs() {
    let on_docs_rs = include_str!("../src/guide_links.md");
    let known = definitions(on_docs_rs);
    let guides = include_str!("../src/guides.rs");
    let mut count = 0;
    for guide in fs::read_dir(repository().join("metaq-producer/guides")).unwrap() {
        let guide = guide.unwrap();
        let name = guide.file_name().into_string().unwrap();
        let stem = name.trim_end_matches(".md");
        if stem == "repository" {
            continue;
        }
        assert!(guides.contains(&format!("\"{stem}\"")), "{name} is not a module of the documentation");
        let prose = prose(&fs::read_to_string(guide.path()).unwrap());
        let in_place = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in in_place {
            let is_kept = target.starts_with('#') || target.starts_with("https://");
            assert!(is_kept, "{name}: define the link to {target} at the end of the document");
        }
        for (label, _) in definitions(&prose) {
            count += 1;
            let is_known = known.iter().any(|(known, _)| *known == label);
            assert!(is_known, "{name}: guide_links.md doesn't define [{label}]");
        }
    }
    assert!(count > 30, "only {count} links were found");
}

#[test]
fn every_module_in_the_tables_of_the_architecture_exists() {
    let architecture = include_str!("../../ARCHITECTURE.md");
    let (mut source, mut count) = (None, 0);
    for line in architecture.lines() {
        if line.starts_with('#') {
            let name = line.strip_prefix("### ").and_then(|heading| heading.split(':').next());
            let folder = name.map(|name| if name == "metaq-testkit" { "testkit" } else { name });
            source =
                folder.map(|folder| repository().join(folder).join("src")).filter(|source| source.is_dir());
        }
        let (Some(source), Some(row)) = (&source, line.strip_prefix("| `")) else { continue };
        for module in row.split(" | ").next().unwrap_or_default().split('`').step_by(2) {
            count += 1;
            let module = module.trim_end_matches('/');
            let is_there = source.join(module).is_dir() || source.join(format!("{module}.rs")).is_file();
            assert!(is_there, "there is no module {module} in {}", source.display());
        }
    }
    assert!(count > 50, "only {count} modules were found");
}

#[test]
fn log_lines_are_found_in_code() {
    let code =
        "log!(\n warn,\n broker = %b,\n \"one \\\n      line\"); tracing::info!(%x, \"two{}\", text(\"a\"))";
    let code = without_continuations(code);
    assert_eq!(logged(&code), [("info", "two"), ("warn", "one line")]);
}
