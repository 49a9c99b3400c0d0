//! Limits of length, with a ceiling for each crate on what is beyond them; a ceiling may only be lowered.

use std::cmp::{Ordering, Reverse};

use super::{
    File, Problem,
    lexer::{Kind, Token, tokens},
    tables,
};

/// The columns that a line with a comment may have, unless it is the row of a table, which can't be broken.
/// Code is broken by rustfmt.
const COLUMNS: usize = 110;

/// The characters that the name of a test may have.
const TEST_NAME: usize = 60;

/// The lines that a file below `src/` may have.
const FILE_LINES: usize = 500;

/// The number of places that the report of one ceiling names.
const NAMED: usize = 12;

/// The numbers of things that a crate, by its folder, may have beyond the limits. A crate without
/// ceilings may have none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ceilings {
    pub(super) folder: &'static str,
    pub(super) long_comments: usize,
    pub(super) long_test_names: usize,
    pub(super) long_files: usize,
    /// The line of the entry in the tables.
    pub(super) line: u32,
}

/// Something that is too long: where, and how long.
type Place = (usize, String);

/// The lines that hold a comment and are too long.
fn long_comments(text: &str) -> Vec<Place> {
    if text.lines().all(|line| line.len() <= COLUMNS) {
        return Vec::new();
    }
    let is_row = |line: &str| line.trim_start().trim_start_matches(['/', '!']).trim_start().starts_with('|');
    let mut lines = vec![false; text.lines().count() + 1];
    for token in tokens(text).iter().filter(|token| token.kind == Kind::Comment) {
        let last = token.line + token.text.matches('\n').count();
        lines[token.line - 1..last].fill(true);
    }
    let columns = text.lines().map(|line| if is_row(line) { 0 } else { line.chars().count() });
    let long =
        (1..).zip(columns.zip(lines)).filter(|(_, (columns, is_comment))| *is_comment && *columns > COLUMNS);
    long.map(|(line, (columns, _))| (line, format!("{columns} columns"))).collect()
}

/// The tests whose names are too long.
fn long_test_names(text: &str) -> Vec<Place> {
    let is_long = |name: &str| name.chars().count() > TEST_NAME;
    // Most files have no tests, and are not worth the tokens.
    if !text.contains("test]") && !text.contains("test(") {
        return Vec::new();
    }
    let code: Vec<_> = tokens(text).into_iter().filter(|token| token.kind != Kind::Comment).collect();
    let mut long = Vec::new();
    let mut is_test = false;
    for (at, token) in code.iter().enumerate() {
        if token.is("#") && code.get(at + 1).is_some_and(|token| token.is("[")) {
            // `#[test]`, `#[tokio::test]` and `#[tokio::test(start_paused = true)]`.
            let path: Vec<&Token<'_>> = code[at + 2..]
                .iter()
                .take_while(|token| token.kind == Kind::Name || token.is("::"))
                .collect();
            is_test |= path.last().is_some_and(|name| name.is("test"));
        } else if token.is("fn") {
            let name = code.get(at + 1).filter(|_| is_test);
            let name = name.filter(|name| is_long(name.text));
            long.extend(name.map(|name| (name.line, format!("{} characters", name.text.chars().count()))));
            is_test = false;
        }
    }
    long
}

/// A file that is too long, by its last line.
fn long_file(text: &str) -> Vec<Place> {
    let lines = text.lines().count();
    if lines > FILE_LINES { vec![(lines, format!("{lines} lines"))] } else { Vec::new() }
}

/// One of the limits in one crate.
struct Limit {
    /// The field of its ceiling.
    field: &'static str,
    /// The things that are too long.
    what: String,
    advice: &'static str,
    ceiling: usize,
    find: fn(&str) -> Vec<Place>,
    /// True for a limit of files below `src/` alone.
    is_of_source: bool,
}

fn limits(of: &Ceilings) -> [Limit; 3] {
    [
        Limit {
            field: "long_comments",
            what: format!("lines with comments longer than {COLUMNS} columns"),
            advice: "break the line",
            ceiling: of.long_comments,
            find: long_comments,
            is_of_source: false,
        },
        Limit {
            field: "long_test_names",
            what: format!("names of tests longer than {TEST_NAME} characters"),
            advice: "name the behaviour in fewer words, and put the rest into a comment",
            ceiling: of.long_test_names,
            find: long_test_names,
            is_of_source: false,
        },
        Limit {
            field: "long_files",
            what: format!("files longer than {FILE_LINES} lines"),
            advice: "split the file by what its parts do",
            ceiling: of.long_files,
            find: long_file,
            is_of_source: true,
        },
    ]
}

impl Limit {
    /// The places of `files` that are beyond it, in their order.
    fn places<'a>(&self, files: &[&'a File]) -> Vec<(&'a File, Place)> {
        let is_meant = |file: &&&File| !self.is_of_source || file.is_source();
        let places = |file: &&'a File| {
            let file = *file;
            (self.find)(&file.text).into_iter().map(move |place| (file, place))
        };
        files.iter().filter(is_meant).flat_map(places).collect()
    }

    /// The report of more places than the ceiling has.
    fn grown(&self, folder: &str, places: &[(&File, Place)]) -> Option<Problem> {
        let ((file, (line, size)), others) = places.split_first()?;
        let Self { what, advice, ceiling, .. } = self;
        let mut text =
            format!("{size}: {advice}; {folder} has {} {what}, and its ceiling is {ceiling}", places.len());
        for (file, (line, size)) in others.iter().take(NAMED - 1) {
            text.push_str(&format!("\n    {}:{line}: {size}", file.path.display()));
        }
        if places.len() > NAMED {
            text.push_str(&format!("\n    and {} more; files changed last come first", places.len() - NAMED));
        }
        Some(Problem { path: file.path.clone(), line: *line, text })
    }
}

/// Compares the files with the ceilings: what grew, and what could be lowered.
pub(super) fn check(files: &[File], ceilings: &[Ceilings]) -> (Vec<Problem>, Vec<String>) {
    let mut folders: Vec<_> =
        files.iter().map(File::folder).chain(ceilings.iter().map(|of| of.folder)).collect();
    folders.sort_unstable();
    folders.dedup();
    let (mut problems, mut lower) = (Vec::new(), Vec::new());
    for folder in folders {
        let mut own: Vec<_> = files.iter().filter(|file| file.folder() == folder).collect();
        // Something grows where a file was changed last.
        own.sort_by_key(|file| Reverse(file.modified));
        let of = ceilings.iter().find(|of| of.folder == folder).copied().unwrap_or_default();
        for limit in limits(&of) {
            let (places, Limit { field, ceiling, .. }) = (limit.places(&own), &limit);
            match places.len().cmp(ceiling) {
                Ordering::Equal => {}
                Ordering::Less => lower.push(format!(
                    "{}:{}: `{field}` of {folder} can be lowered from {ceiling} to {}",
                    tables::PATH,
                    of.line,
                    places.len()
                )),
                Ordering::Greater => problems.extend(limit.grown(folder, &places)),
            }
        }
    }
    (problems, lower)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn file(path: &str, text: &str, age: u64) -> File {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age);
        File { path: path.into(), text: text.to_owned(), modified }
    }

    fn ceilings(long_comments: usize, long_test_names: usize, long_files: usize) -> [Ceilings; 1] {
        [Ceilings { folder: "a", long_comments, long_test_names, long_files, line: 7 }]
    }

    fn problems(files: &[File], ceilings: &[Ceilings]) -> Vec<String> {
        check(files, ceilings).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn long_lines_of_comments_are_found_and_others_left() {
        let long = "ä ".repeat(60);
        let text = format!("let a = \"{long}\";\n// {long}\n/* a\n{long}\n*/\nb(); // {long}\n// short\n");
        let lines: Vec<_> = long_comments(&text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [2, 4, 6]);
        assert_eq!(long_comments(&format!("//{}", "-".repeat(108))), []);
        assert_eq!(long_comments(&format!("//{}", "-".repeat(109))), [(1, "111 columns".to_owned())]);
        assert_eq!(long_comments(&format!("    //! | {long} |")), [], "the row of a table");
    }

    #[test]
    fn long_names_of_tests_are_found_and_others_left() {
        let long = "a".repeat(61);
        let text = format!(
            "fn {long}() {{}}\n#[test]\nfn short() {{}}\n#[test]\n#[ignore]\nfn {long}() {{}}\n\
             #[tokio::test(start_paused = true)]\nasync fn {long}() {{}}\n#[cfg(test)]\nfn b{long}() {{}}"
        );
        let lines: Vec<_> = long_test_names(&text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [6, 8]);
        assert_eq!(long_test_names(&format!("#[test]\nfn {}() {{}}", "a".repeat(60))), []);
    }

    #[test]
    fn long_files_are_found_below_src_alone() {
        let long = "x\n".repeat(501);
        let files = [file("a/src/b.rs", &long, 0), file("a/tests/c.rs", &long, 0)];
        let found = problems(&files, &[]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("a/src/b.rs:501: 501 lines: split the file"), "{found:?}");
        assert_eq!(problems(&[file("a/src/b.rs", &long[2..], 0)], &[]), [""; 0]);
    }

    #[test]
    fn beyond_a_ceiling_what_changed_last_is_named_first() {
        let long = format!("//{}\n", "-".repeat(120));
        let files = [file("a/src/old.rs", &long, 9), file("a/src/new.rs", &format!("\n{long}"), 1)];
        assert_eq!(problems(&files, &ceilings(2, 0, 0)), [""; 0]);
        let expected = "a/src/new.rs:2: 122 columns: break the line; a has 2 lines with comments longer than 110 \
                        columns, and its ceiling is 1\n    a/src/old.rs:1: 122 columns";
        assert_eq!(problems(&files, &ceilings(1, 0, 0)), [expected]);
    }

    #[test]
    fn ceilings_that_can_be_lowered_are_no_failure() {
        let (problems, lower) = check(&[], &ceilings(1, 2, 0));
        assert!(problems.is_empty());
        let fields = [
            "`long_comments` of a can be lowered from 1 to 0",
            "`long_test_names` of a can be lowered from 2 to 0",
        ];
        assert_eq!(lower.len(), 2);
        assert!(lower.iter().zip(fields).all(|(line, field)| line.ends_with(field)), "{lower:?}");
    }
}
