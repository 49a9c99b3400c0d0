//! Arrows between the rooms of a crate: the modules that are a file or a folder directly below `src/`.
//!
//! A room uses another one when its code names a path into it. A circle of rooms can only be read, tested and
//! moved as a whole, so the tables allow each one arrow by arrow.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    path::Path,
};

use super::{
    File, Problem,
    source::{Code, Named},
};

/// The crates whose rooms are looked at, by their folders.
pub(super) const CRATES: [&str; 8] = [
    "metaq-protocol",
    "metaq-discovery",
    "metaq-transport",
    "metaq-producer",
    "metaq-spool",
    "metaq-tracing",
    "testkit",
    "metaq-cli",
];

/// The rooms of a crate and what each uses, with the first place where it does.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    arrows: BTreeMap<(String, String), String>,
    problems: Vec<Problem>,
}

/// The module that a file below `src/` is, from the root; empty for the root itself.
fn modules(path: &Path) -> Vec<String> {
    let mut modules: Vec<_> = path.with_extension("").iter().map(|part| part.display().to_string()).collect();
    if modules.last().is_some_and(|last| last == "mod") || is_root(path) {
        modules.pop();
    }
    modules
}

fn is_root(path: &Path) -> bool {
    path == Path::new("lib.rs") || path == Path::new("main.rs")
}

/// The code of a file below `src/`.
struct Source<'a> {
    file: &'a File,
    modules: Vec<String>,
    is_root: bool,
    test_modules: Vec<&'a str>,
    paths: Vec<Named<'a>>,
}

impl<'a> Source<'a> {
    /// Reads the file if it is one of the crate. Other programs of the crate, in `src/bin`, have no rooms.
    fn of(folder: &str, file: &'a File) -> Option<Self> {
        let path = file.path.strip_prefix(folder).ok()?.strip_prefix("src").ok()?;
        if path.starts_with("bin") {
            return None;
        }
        let code = Code::of(&file.text);
        let paths = code.paths();
        let test_modules = code.test_modules;
        Some(Self { file, modules: modules(path), is_root: is_root(path), test_modules, paths })
    }
}

/// The rooms of the names that the root imports: `None` for what another crate defines.
type Imports<'a> = BTreeMap<&'a str, Option<String>>;

impl Rooms {
    /// Reads the files below the `src/` of a crate.
    pub(super) fn of(folder: &str, files: &[File]) -> Self {
        let mut sources: Vec<_> = files.iter().filter_map(|file| Source::of(folder, file)).collect();
        let tests: BTreeSet<Vec<String>> = sources
            .iter()
            .flat_map(|source| {
                let inside = |test: &&str| [&source.modules[..], &[(*test).to_owned()]].concat();
                source.test_modules.iter().map(inside)
            })
            .collect();
        let is_test = |modules: &[String]| (1..=modules.len()).any(|len| tests.contains(&modules[..len]));
        sources.retain(|source| !is_test(&source.modules));
        let rooms: BTreeSet<_> =
            sources.iter().filter_map(|source| source.modules.first().cloned()).collect();
        let mut found = Self::default();
        let root = sources.iter().find(|source| source.is_root);
        let imports = root.map(|root| found.imports(root, &rooms)).unwrap_or_default();
        let is_program = root.is_some_and(|root| root.file.path.ends_with("main.rs"));
        let root = if is_program { "main" } else { "lib" };
        for source in &sources {
            let own = source.modules.first().map_or(root, String::as_str);
            for named in &source.paths {
                // What the root hands on, it doesn't use.
                let is_handed_on = source.is_root && named.import.is_some_and(|import| import.is_public);
                let Some(first) = first_word(&source.modules, named, &rooms).filter(|_| !is_handed_on) else {
                    continue;
                };
                let used = match first {
                    Some(first) if rooms.contains(first) => Some(first),
                    Some(first) => imports.get(first).map_or(Some(root), Option::as_deref),
                    None => Some(root),
                };
                if let Some(used) = used.filter(|used| *used != own) {
                    let place = format!("{}:{}", source.file.path.display(), named.line);
                    found.arrows.entry((own.to_owned(), used.to_owned())).or_insert(place);
                }
            }
        }
        found
    }

    /// The names that the root imports, by which other rooms may call what a room defines.
    fn imports<'a>(&mut self, root: &Source<'a>, rooms: &BTreeSet<String>) -> Imports<'a> {
        let mut imports = BTreeMap::new();
        for named in &root.paths {
            let Some(import) = named.import.filter(|_| named.inner.is_empty()) else { continue };
            let room = match named.path[..] {
                ["crate" | "self", first, ..] | [first, ..] => rooms.get(first),
                [] => None,
            };
            if import.name == "*" && room.is_some() {
                let text = "the root names all of a room by `*`; name each item, so that its room is known";
                self.problems.push(Problem {
                    path: root.file.path.clone(),
                    line: named.line,
                    text: text.into(),
                });
            }
            imports.insert(import.name, room.cloned());
        }
        imports
    }

    /// The circles, each named with every arrow.
    pub(super) fn problems(&self, folder: &str) -> Vec<String> {
        let mut problems: Vec<_> = self.problems.iter().map(ToString::to_string).collect();
        let arrows = self.arrows.keys().map(|(from, to)| (from.as_str(), to.as_str()));
        let mut found: BTreeSet<(&str, &str)> = arrows.collect();
        while let Some(circle) = shortest_circle(&found) {
            let place = |(from, to): &(&str, &str)| {
                let place = &self.arrows[&((*from).to_owned(), (*to).to_owned())];
                format!("{place}: {from} uses {to}")
            };
            let arrows: Vec<_> = circle.iter().map(place).collect();
            problems.push(format!(
                "{}, in a circle of rooms of {folder}; move what is shared into a room that both may use, or an item to \
                 where it is used\n    {}",
                arrows[0],
                arrows[1..].join("\n    ")
            ));
            // Each arrow is reported once, so that a few lines name what has to change.
            found.retain(|arrow| !circle.contains(arrow));
        }
        problems
    }

    /// The graph as text for Graphviz.
    pub(super) fn graphviz(&self, folder: &str) -> String {
        let mut text = format!("digraph \"{folder}\" {{\n    rankdir=LR;\n    node [shape=box];\n");
        for (from, to) in self.arrows.keys() {
            // A String takes whatever is written.
            let _ = writeln!(text, "    \"{from}\" -> \"{to}\";");
        }
        text.push_str("}\n");
        text
    }
}

/// The first word of a path from the root of the crate; `Some(None)` for the root itself, `None` for a path
/// that may lead into another crate, or into the own room.
fn first_word<'a>(module: &[String], named: &Named<'a>, rooms: &BTreeSet<String>) -> Option<Option<&'a str>> {
    let depth = module.len() + named.inner.len();
    match named.path[..] {
        ["crate", ..] => Some(named.path.get(1).copied()),
        ["self", ..] if depth == 0 => Some(named.path.get(1).copied()),
        ["super", ..] => {
            let supers = named.path.iter().take_while(|word| **word == "super").count();
            // A path that goes less high stays in the own room.
            (supers >= depth).then(|| named.path.get(supers).copied())
        }
        [first, ..] if depth == 0 && rooms.contains(first) => Some(Some(first)),
        _ => None,
    }
}

/// The shortest way from one room to another, as rooms.
fn way<'a>(arrows: &BTreeSet<(&'a str, &'a str)>, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = VecDeque::from([from]);
    while let Some(room) = next.pop_front() {
        if room == to {
            let mut way = vec![room];
            let mut at = room;
            while at != from {
                at = before[at];
                way.push(at);
            }
            way.reverse();
            return Some(way);
        }
        for (_, used) in arrows.iter().filter(|(user, _)| *user == room) {
            if *used != from && !before.contains_key(used) {
                before.insert(used, room);
                next.push_back(used);
            }
        }
    }
    None
}

/// The arrows of a circle that has the fewest.
fn shortest_circle<'a>(arrows: &BTreeSet<(&'a str, &'a str)>) -> Option<Vec<(&'a str, &'a str)>> {
    let circle = |(from, to): &(&'a str, &'a str)| {
        let way = way(arrows, to, from)?;
        let back = way.windows(2).map(|pair| (pair[0], pair[1]));
        Some([(*from, *to)].into_iter().chain(back).collect::<Vec<_>>())
    };
    arrows.iter().filter_map(circle).min_by_key(Vec::len)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A crate of these files, by their paths below `src/`.
    fn rooms(files: &[(&str, &str)]) -> Rooms {
        let file = |(path, text): &(&str, &str)| File {
            path: Path::new("x/src").join(path),
            text: (*text).to_owned(),
            modified: SystemTime::UNIX_EPOCH,
        };
        Rooms::of("x", &files.iter().map(file).collect::<Vec<_>>())
    }

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        rooms(files).arrows.keys().map(|(from, to)| format!("{from} {to}")).collect()
    }

    #[test]
    fn paths_lead_to_the_rooms_that_define_what_they_name() {
        let root = "mod a;\nmod b;\npub use a::{A, deep::C as D};\npub use other::E;\nconst F: u8 = 1;";
        let b = ("b.rs", "");
        for (path, code, expected) in [
            ("c.rs", "use crate::b::X;", &["c b"][..]),
            ("c.rs", "use crate::{A, b};", &["c a", "c b"]),
            ("c.rs", "use crate::D;", &["c a"]),
            ("c.rs", "use crate::E;", &[]),
            ("c.rs", "use crate::F;", &["c lib"]),
            ("c.rs", "fn f() { crate::b::g() }", &["c b"]),
            ("c.rs", "use super::b;", &["c b"]),
            ("c.rs", "use super::*;", &["c lib"]),
            ("c/mod.rs", "use super::b; mod d; use self::d::E;", &["c b"]),
            ("c/d.rs", "use super::e; use crate::c::f;", &[]),
            ("c/d.rs", "use super::super::b;", &["c b"]),
            ("c.rs", "mod d { use super::e; use super::super::b; }", &["c b"]),
            ("c.rs", "#[cfg(test)] mod tests { use crate::b; }", &[]),
            ("c.rs", "/// [`X`](crate::b::X)\nconst X: &str = \"crate::b\"; // crate::b", &[]),
            ("bin/c.rs", "use crate::b;", &[]),
        ] {
            assert_eq!(
                arrows(&[("lib.rs", root), ("a.rs", ""), b, (path, code)]),
                expected,
                "{path}: {code}"
            );
        }
    }

    #[test]
    fn modules_of_tests_have_no_arrows() {
        let files =
            [("a/mod.rs", "#[cfg(test)]\nmod tests;"), ("a/tests/x.rs", "use crate::b;"), ("b.rs", "")];
        assert_eq!(arrows(&files), [""; 0]);
    }

    #[test]
    fn the_root_of_a_program_is_a_room() {
        let files = [
            ("main.rs", "mod a;\nuse crate::b::B;\nfn main() { a::run() }\nconst X: u8 = 1;"),
            ("a.rs", "use crate::{B, X};"),
            ("b.rs", ""),
        ];
        assert_eq!(arrows(&files), ["a b", "a main", "main a", "main b"]);
    }

    #[test]
    fn a_circle_is_named_with_every_arrow() {
        let files = [
            ("a.rs", "\nuse crate::b::B;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a::A;"),
            ("d.rs", "use crate::a::A;"),
        ];
        let found = rooms(&files).problems("x");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("x/src/a.rs:2: a uses b, in a circle of rooms of x; "), "{found:?}");
        assert!(found[0].ends_with("\n    x/src/b.rs:1: b uses c\n    x/src/c.rs:1: c uses a"), "{found:?}");
    }

    #[test]
    fn a_root_that_hands_on_everything_is_a_problem() {
        let found = rooms(&[("lib.rs", "mod a;\npub use a::*;"), ("a.rs", "")]).problems("x");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("x/src/lib.rs:2: the root names all of a room"), "{found:?}");
    }

    #[test]
    fn the_graph_can_be_drawn() {
        let files = [("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")];
        let text = rooms(&files).graphviz("x");
        assert!(text.starts_with("digraph \"x\" {\n") && text.ends_with("}\n"), "{text}");
        assert!(text.contains("\n    \"a\" -> \"b\";\n"), "{text}");
    }
}
