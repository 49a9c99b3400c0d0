//! A check that every citation of a rule has its rule in `docs/`.
//!
//! Rules have ids, such as the bold one at the beginning of a list item in `docs/java-client.md`. Sections
//! of `docs/protocol.md` and `docs/registry.md` have numbers, and are cited by the name of the document, a
//! section sign and the number. Public documentation explains in words and cites nothing.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// The documents that define rules, and the name under which their sections are cited.
const DOCUMENTS: [(&str, Option<&str>); 3] = [
    ("docs/protocol.md", Some("protocol")),
    ("docs/registry.md", Some("registry")),
    ("docs/java-client.md", None),
];

/// The sign before the number of a section.
const SIGN: char = '\u{a7}';

/// A word for a document that is not in this repository, put together so that it isn't found here.
const OLD: &str = concat!("find", "ings");

/// The letters of rules.
const GROUPS: &str = "BCDEGKLMNPQRSTWX";

/// A citation, or a notation that leads nowhere.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A rule by its id, or a section by its document and number.
    Rule(String),
    /// Anything that only looks like a citation.
    Stray(String),
}

/// The id at the beginning of a text, such as `K-11`.
fn id(text: &str) -> Option<&str> {
    let digits = text.strip_prefix(|letter| GROUPS.contains(letter))?.strip_prefix('-')?;
    let len = digits.bytes().take_while(u8::is_ascii_digit).count();
    let follows = digits[len..].chars().next();
    // A rule has at most three digits; a year or a model doesn't.
    let is_whole = (1..=3).contains(&len) && !follows.is_some_and(|c| c.is_alphanumeric() || c == '_');
    is_whole.then(|| &text[..len + 2])
}

/// The number of a section at the beginning of a text, such as `3.1`.
fn section(text: &str) -> &str {
    let len = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    text[..len].trim_end_matches('.')
}

/// The words of a line without the marks of a comment.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.trim_start().trim_start_matches(['/', '!']).split_whitespace()
}

/// The letters and digits at the end of a word.
fn last_word(word: &str) -> &str {
    let word = word.trim_end_matches(|c: char| !c.is_alphanumeric());
    word.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

/// Everything in a text that cites a rule, with the number of its line. A citation may be broken over two
/// lines.
fn citations(text: &str) -> Vec<(usize, Found)> {
    let mut found = Vec::new();
    let mut before = "";
    for (line, word) in (1..).zip(text.lines()).flat_map(|(n, line)| words(line).map(move |word| (n, word))) {
        for (at, _) in word.char_indices().filter(|_| word.contains('-')) {
            let is_begin = !word[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
            if let Some(id) = id(&word[at..]).filter(|_| is_begin) {
                found.push((line, Found::Rule(id.to_owned())));
            }
        }
        for (at, _) in word.match_indices(SIGN) {
            let document = if at == 0 { before } else { last_word(&word[..at]) }.to_lowercase();
            let number = section(&word[at + SIGN.len_utf8()..]);
            let is_known = DOCUMENTS.iter().any(|(_, name)| *name == Some(document.as_str()));
            let cited = format!("{document} {SIGN}{number}");
            let is_section = is_known && !number.is_empty();
            found.push((line, if is_section { Found::Rule(cited) } else { Found::Stray(cited) }));
        }
        let last = last_word(word);
        let mut parts = word.split(|c: char| !c.is_alphanumeric() && c != '_');
        let is_rule = matches!(last.to_lowercase().as_str(), "rule" | "rules");
        let is_old = is_rule && matches!(before.to_lowercase().as_str(), "wire" | "registry")
            || parts.any(|part| part.eq_ignore_ascii_case(OLD) || is_promise(part));
        if is_old {
            let named = if is_rule { format!("{before} {word}") } else { word.to_owned() };
            found.push((line, Found::Stray(named)));
        }
        before = last;
    }
    found
}

/// Whether a word is the number of a wish or a fault, of lists that are not in this repository.
fn is_promise(word: &str) -> bool {
    let digits = word.strip_prefix(['W', 'F']).unwrap_or_default();
    (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The rules that a document defines, with the numbers of their lines.
fn definitions(text: &str, name: Option<&str>) -> Vec<(usize, String)> {
    let define = |line: &str| {
        if let Some(item) = line.strip_prefix("- **") {
            return id(item).filter(|id| item[id.len()..].starts_with("** ")).map(str::to_owned);
        }
        let number = section(line.trim_start_matches('#').trim_start());
        let is_section = line.starts_with('#') && !number.is_empty();
        name.filter(|_| is_section).map(|name| format!("{name} {SIGN}{number}"))
    };
    (1..).zip(text.lines()).filter_map(|(n, line)| define(line).map(|rule| (n, rule))).collect()
}

/// The files of a crate's public modules, if a file is its root.
fn public_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    if !path.ends_with("lib.rs") {
        return Vec::new();
    }
    let names = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let files = |name| [path.with_file_name(format!("{name}.rs")), path.with_file_name(name).join("mod.rs")];
    names.flat_map(files).chain([path.to_owned()]).collect()
}

/// The lines of public documentation in a Rust file: whatever is `pub` here can be reached.
fn public_documentation(text: &str, is_public_module: bool) -> Vec<usize> {
    let lines: Vec<_> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_public = |at: usize| {
        let mut after = lines[at..].iter().map(|line| line.trim());
        // An attribute ends at the line that closes it.
        let mut is_attribute = false;
        let item = after.find(|line| {
            let is_part = is_attribute || line.starts_with("#[");
            is_attribute = is_part && !line.ends_with(']');
            !line.starts_with("///") && !is_part
        });
        // A variant, or a method of a trait, is as public as what it belongs to.
        let outer =
            lines[..at].iter().rev().find(|line| !line.is_empty() && indent(line) < indent(lines[at]));
        item.is_some_and(|item| item.starts_with("pub "))
            || outer.is_some_and(|line| {
                let line = line.trim_start();
                line.starts_with("pub enum ") || line.starts_with("pub trait ")
            })
    };
    let is_documentation = |at: usize| {
        let line = lines[at].trim_start();
        line.starts_with("//!") && is_public_module || line.starts_with("///") && is_public(at)
    };
    (0..lines.len()).filter(|at| is_documentation(*at)).map(|at| at + 1).collect()
}

/// Every file of the repository that may cite rules.
fn files(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_skipped = ["target", ".git"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !is_skipped {
            files(&path, into)?;
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "md" || kind == "toml") {
            into.push(path);
        }
    }
    Ok(())
}

/// The problems with the citations of a file, one a line.
fn problems(
    path: &Path,
    text: &str,
    rules: &BTreeMap<String, String>,
    public_modules: &[PathBuf],
) -> Vec<String> {
    let is_rust = path.extension().is_some_and(|kind| kind == "rs");
    let is_public_module = public_modules.iter().any(|module| module == path);
    let public = if is_rust { public_documentation(text, is_public_module) } else { Vec::new() };
    let problem = |(line, found): &(usize, Found)| match found {
        Found::Stray(text) => Some(format!(
            "{}:{line}: \"{text}\" leads nowhere; cite rules of docs/ as in CONTRIBUTING.md",
            path.display()
        )),
        Found::Rule(rule) if !rules.contains_key(rule) => {
            Some(format!("{}:{line}: there is no rule {rule} in docs/", path.display()))
        }
        Found::Rule(rule) if public.contains(line) => {
            Some(format!("{}:{line}: public documentation cites {rule}", path.display()))
        }
        Found::Rule(_) => None,
    };
    citations(text).iter().filter_map(problem).collect()
}

/// The rules of all documents with the places where they are defined, and those that are defined twice.
fn all_rules<'a>(
    documents: impl IntoIterator<Item = (&'a str, Option<&'a str>, String)>,
) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut rules, mut twice) = (BTreeMap::new(), Vec::new());
    for (path, name, text) in documents {
        for (line, rule) in definitions(&text, name) {
            let place = format!("{path}:{line}");
            if let Some(first) = rules.insert(rule.clone(), place.clone()) {
                twice.push(format!("{place}: {rule} is defined at {first} already"));
            }
        }
    }
    (rules, twice)
}

/// The problems of the repository with citations, one a line.
pub(crate) fn check(repository: &Path) -> io::Result<Vec<String>> {
    let mut documents = Vec::new();
    for (path, name) in DOCUMENTS {
        documents.push((path, name, fs::read_to_string(repository.join(path))?));
    }
    let (rules, mut wrong) = all_rules(documents);
    let mut paths = Vec::new();
    files(repository, &mut paths)?;
    paths.sort();
    let mut texts = Vec::new();
    for path in &paths {
        texts.push((path.strip_prefix(repository).unwrap_or(path), fs::read_to_string(path)?));
    }
    let public: Vec<_> = texts.iter().flat_map(|(path, text)| public_modules(path, text)).collect();
    let mut cited = 0;
    for (path, text) in &texts {
        cited += citations(text).len();
        wrong.extend(problems(path, text, &rules, &public));
    }
    // Fewer mean that the check has lost its eyes.
    if rules.len() <= 250 || cited <= 700 {
        wrong.push(format!(
            "docs/: only {} rules and {cited} citations were found in {} files",
            rules.len(),
            paths.len()
        ));
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The check must not take what these tests look at for citations.

    /// An id that is put together here.
    fn rule(group: &str, number: u32) -> String {
        format!("{group}-{number}")
    }

    fn cites(text: &str) -> Vec<Found> {
        citations(text).into_iter().map(|(_, found)| found).collect()
    }

    #[test]
    fn ids_are_told_from_other_text() {
        let (m, k) = (rule("M", 926), rule("K", 901));
        let text =
            format!("{m} ({k}), but 0-1, UTF-8, RFC-99, x_{k}, {k}x, {k}_, {k}9, X{k}, -{k}, Z-4 and K-");
        assert_eq!(cites(&text), [Found::Rule(m), Found::Rule(k)]);
    }

    #[test]
    fn sections_are_cited_by_document_and_number() {
        let signed = |text: &str| text.replace('$', "\u{a7}");
        let text = signed("(protocol $3.1), \"Registry $19: so\".\n/// and protocol\n    /// $1.2. It");
        let expected =
            ["protocol $3.1", "registry $19", "protocol $1.2"].map(|text| Found::Rule(signed(text)));
        assert_eq!(cites(&text), expected);
    }

    #[test]
    fn other_notations_lead_nowhere() {
        for text in [
            "(wire $3.1)",
            "protocol $",
            "it is $6",
            "registry $1 and $7",
            "(wire\n/// ru!le 1.2)",
            "a registry ru!le",
            "(find!ings: \"Sizes\")",
            "(W!7, so)",
            "F!21:",
            "x.expect(\"W!1\").unwrap();",
        ] {
            let text = text.replace('$', "\u{a7}").replace('!', "");
            let strays = cites(&text).into_iter().filter(|found| matches!(found, Found::Stray(_)));
            assert_eq!(strays.count(), 1, "{text}");
        }
        assert_eq!(cites("as f64, f32, W800, a wire's rule, W"), []);
    }

    #[test]
    fn rules_are_defined_by_items_and_headings() {
        let (b, k) = (rule("B", 901), rule("K", 902));
        let text = format!(
            "# Title\n## 3 Requests\n### 3.1 `put`\n- **{b}** A put.\n- See **{b}**, {k}.\n- **{k}**: x\n"
        );
        let defined = |name| definitions(&text, name).into_iter().map(|(_, rule)| rule).collect::<Vec<_>>();
        let sections = ["3", "3.1"].map(|number| format!("protocol {SIGN}{number}"));
        assert_eq!(defined(Some("protocol")), [&*sections[0], &*sections[1], &*b]);
        assert_eq!(defined(None), [&*b]);
    }

    #[test]
    fn what_is_defined_twice_or_nowhere_is_a_problem() {
        let [b, k] = [rule("B", 901), rule("K", 902)];
        let document = |rule: &str| format!("## 1 X\n- **{rule}** x\n");
        let (rules, twice) =
            all_rules([("a.md", Some("protocol"), document(&b)), ("b.md", Some("registry"), document(&b))]);
        assert_eq!(twice, [format!("b.md:2: {b} is defined at a.md:2 already")]);
        let path = Path::new("x.rs");
        assert_eq!(problems(path, &format!("// {b}, protocol {SIGN}1\n"), &rules, &[]), [""; 0]);
        assert_eq!(
            problems(path, &format!("\n// {k}\n"), &rules, &[]),
            [format!("x.rs:2: there is no rule {k} in docs/")]
        );
        let section = format!("protocol {SIGN}1.9");
        assert_eq!(
            problems(path, &section, &rules, &[]),
            [format!("x.rs:1: there is no rule {section} in docs/")]
        );
    }

    #[test]
    fn public_documentation_cites_nothing() {
        let b = rule("B", 901);
        let (rules, _) = all_rules([("a.md", None, format!("- **{b}** x"))]);
        let is_public = |path: &str, text: &str| {
            let modules = public_modules(Path::new("src/lib.rs"), "pub mod public;\nmod private;\n");
            !problems(Path::new(path), &text.replace('$', &format!("({b})")), &rules, &modules).is_empty()
        };
        assert!(is_public("src/lib.rs", "//! A crate $."));
        assert!(is_public("x.rs", "/// A type $.\n#[derive(Debug)]\npub struct X;"));
        assert!(is_public("x.rs", "/// A function $.\n#[deprecated(\n    note = \"x\"\n)]\npub fn x() {}"));
        assert!(is_public("x.rs", "impl X {\n    /// A method\n    /// $.\n    pub fn x() {}\n}"));
        assert!(is_public("x.rs", "pub enum X {\n    A,\n    /// A variant $.\n    B,\n}"));
        assert!(is_public("x.rs", "pub trait X {\n    /// A method $.\n    fn x();\n}"));
        assert!(is_public("src/public.rs", "//! A module $."));
        assert!(is_public("src/public/mod.rs", "//! A module $."));
        assert!(!is_public("src/private.rs", "//! A module $."));
        assert!(!is_public("x.rs", "/// A type $.\npub(crate) struct X;"));
        assert!(!is_public("x.rs", "enum X {\n    /// A variant $.\n    B,\n}\npub struct Y;"));
        assert!(!is_public("x.rs", "pub fn x() {\n    // A comment $.\n    y();\n}"));
        assert!(!is_public("x.md", "/// $\npub fn x()"));
    }
}
