//! Reading Rust files: the paths that code names, without tests.

use super::lexer::{Kind, Token, tokens};

/// The code of a file outside of tests.
#[derive(Debug, Default)]
pub(super) struct Code<'a> {
    tokens: Vec<Token<'a>>,
    /// The modules of other files that are tests: `#[cfg(test)] mod name;`.
    pub(super) test_modules: Vec<&'a str>,
}

/// A path that code names, from the crate's root where its first word says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) path: Vec<&'a str>,
    pub(super) line: usize,
    /// The module within the file that names it, such as `size` for `mod size { … }`.
    pub(super) inner: Vec<&'a str>,
    pub(super) import: Option<Import<'a>>,
}

/// The import that a `use` makes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Import<'a> {
    /// The name by which it is known here; `*` for all names of a module.
    pub(super) name: &'a str,
    /// True for `pub use`, `pub(crate) use` and the like.
    pub(super) is_public: bool,
}

impl<'a> Code<'a> {
    pub(super) fn of(source: &'a str) -> Self {
        let all: Vec<_> = tokens(source).into_iter().filter(|token| token.kind != Kind::Comment).collect();
        let mut code = Self::default();
        let mut at = 0;
        while at < all.len() {
            let Some(after) = test_attribute(&all, at) else {
                code.tokens.push(all[at].clone());
                at += 1;
                continue;
            };
            if all[at + 1].is("!") {
                // The whole file is a test.
                return Self::default();
            }
            let begin = skip_attributes(&all, after);
            at = item_end(&all, begin);
            let item = &all[begin..at];
            let is_module =
                |name: &Token<'_>, before: &Token<'_>| before.is("mod") && name.kind == Kind::Name;
            let name = item.windows(3).find(|three| is_module(&three[1], &three[0]) && three[2].is(";"));
            code.test_modules.extend(name.map(|three| three[1].text));
        }
        code
    }

    /// Every path of at least two words, and every import.
    pub(super) fn paths(&self) -> Vec<Named<'a>> {
        let mut found = Vec::new();
        let (mut depth, mut at) = (0_usize, 0);
        let mut inner: Vec<(&str, usize)> = Vec::new();
        while let Some(token) = self.tokens.get(at) {
            let names = || inner.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            let next = self.tokens.get(at + 1);
            if token.is("{") {
                depth += 1;
            } else if token.is("}") {
                depth = depth.saturating_sub(1);
                if inner.last().is_some_and(|(_, outer)| *outer == depth) {
                    inner.pop();
                }
            } else if token.is("mod") && self.tokens.get(at + 2).is_some_and(|token| token.is("{")) {
                inner.extend(next.map(|name| (name.text, depth)));
            } else if token.is("use") && !next.is_some_and(|token| token.is("<")) {
                let before = at.checked_sub(1).map(|before| &self.tokens[before]);
                let is_public = before.is_some_and(|token| token.is("pub") || token.is(")"));
                let mut leaves = Vec::new();
                at = self.use_tree(at + 1, &mut Vec::new(), &mut leaves);
                found.extend(leaves.into_iter().map(|(path, line, name)| {
                    let import = Some(Import { name, is_public });
                    Named { path, line, inner: names(), import }
                }));
                continue;
            } else if token.kind == Kind::Name && next.is_some_and(|token| token.is("::")) {
                let (path, end) = self.path(at);
                // `pub(in …)` names a module that it is in anyway.
                let is_visibility = at >= 3 && self.tokens[at - 1].is("in") && self.tokens[at - 3].is("pub");
                if path.len() > 1 && !is_visibility {
                    found.push(Named { path, line: token.line, inner: names(), import: None });
                }
                at = end;
                continue;
            }
            at += 1;
        }
        found
    }

    /// The path that begins at a name, and the index of what follows.
    fn path(&self, mut at: usize) -> (Vec<&'a str>, usize) {
        let mut path = vec![self.tokens[at].text];
        at += 1;
        while self.tokens.get(at).is_some_and(|token| token.is("::")) {
            at += 1;
            match self.tokens.get(at) {
                Some(token) if token.kind == Kind::Name => path.push(token.text),
                _ => break,
            }
            at += 1;
        }
        (path, at)
    }

    /// The paths of a use tree that begins at `at`, each behind `before`; returns the index of what follows.
    fn use_tree(
        &self,
        mut at: usize,
        before: &mut Vec<&'a str>,
        leaves: &mut Vec<(Vec<&'a str>, usize, &'a str)>,
    ) -> usize {
        let own = before.len();
        let mut line = 0;
        let mut name = None;
        while let Some(token) = self.tokens.get(at) {
            if token.is("{") {
                at += 1;
                while self.tokens.get(at).is_some_and(|token| !token.is("}")) {
                    let begin = at;
                    at = self.use_tree(at, before, leaves);
                    // Behind the comma, and behind whatever doesn't belong here.
                    let is_stuck = at == begin || self.tokens.get(at).is_some_and(|token| token.is(","));
                    at += usize::from(is_stuck);
                }
                before.truncate(own);
                return at + 1;
            }
            if token.is("*") {
                (line, name) = (token.line, Some("*"));
            } else if token.is("as") {
                at += 1;
                name = self.tokens.get(at).map(|alias| alias.text);
            } else if token.kind == Kind::Name {
                line = token.line;
                // `a::{self}` is `a`.
                if token.text != "self" || before.is_empty() {
                    before.push(token.text);
                }
                name = before.last().copied();
            } else if !token.is("::") {
                break;
            }
            at += 1;
        }
        leaves.extend(name.map(|name| (before.clone(), line, name)));
        before.truncate(own);
        at
    }
}

/// The index behind an attribute that is there at `at` and has what follows compiled for tests only.
fn test_attribute(all: &[Token<'_>], at: usize) -> Option<usize> {
    let open = at + 1 + usize::from(all.get(at + 1)?.is("!"));
    if !all[at].is("#") || !all.get(open)?.is("[") || !all.get(open + 1)?.is("cfg") {
        return None;
    }
    let end = closed(all, open);
    let has = |word: &str| all[open..end].iter().any(|token| token.is(word));
    (has("test") && !has("not") && !has("any")).then_some(end)
}

/// The index behind all attributes that begin at `at`.
fn skip_attributes(all: &[Token<'_>], mut at: usize) -> usize {
    while all.get(at).is_some_and(|token| token.is("#")) {
        at = closed(all, at + 1);
    }
    at
}

/// The index behind the bracket that closes the one at `open`.
fn closed(all: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in all.iter().enumerate().skip(open) {
        if ["(", "[", "{"].iter().any(|sign| token.is(sign)) {
            depth += 1;
        } else if [")", "]", "}"].iter().any(|sign| token.is(sign)) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at + 1;
            }
        }
    }
    all.len()
}

/// The index behind the item, field or arm that begins at `begin`.
fn item_end(all: &[Token<'_>], begin: usize) -> usize {
    const ITEMS: [&str; 15] = [
        "fn",
        "mod",
        "struct",
        "enum",
        "impl",
        "const",
        "static",
        "type",
        "trait",
        "async",
        "unsafe",
        "extern",
        "let",
        "union",
        "macro_rules",
    ];
    let mut first = begin;
    if all.get(first).is_some_and(|token| token.is("pub")) {
        first += 1;
        if all.get(first).is_some_and(|token| token.is("(")) {
            first = closed(all, first);
        }
    }
    let starts = |word: &str| all.get(first).is_some_and(|token| token.is(word));
    let (is_use, is_item) = (starts("use"), ITEMS.iter().any(|word| starts(word)));
    let mut at = begin;
    while let Some(token) = all.get(at) {
        if token.is(";") {
            return at + 1;
        }
        if token.is("}") || token.is(",") && !is_item {
            return at;
        }
        if ["(", "[", "{"].iter().any(|sign| token.is(sign)) {
            let is_body = token.is("{") && is_item && !is_use;
            at = closed(all, at);
            if is_body {
                return at;
            }
        } else {
            at += 1;
        }
    }
    all.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        Code::of(source).paths().iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn trees_of_use_are_taken_apart() {
        let source = "pub(crate) use crate::{a::{self, b as c}, d::*};\nuse super::e;\nuse f;";
        let named = Code::of(source).paths();
        let found: Vec<_> = named
            .iter()
            .map(|named| {
                let import = named.import.unwrap();
                (named.path.join("::"), import.name, import.is_public, named.line)
            })
            .collect();
        let expected = [
            ("crate::a".to_owned(), "a", true, 1),
            ("crate::a::b".to_owned(), "c", true, 1),
            ("crate::d".to_owned(), "*", true, 1),
            ("super::e".to_owned(), "e", false, 2),
            ("f".to_owned(), "f", false, 3),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn paths_in_code_macros_and_signatures_are_found() {
        let source =
            "fn f(a: &crate::a::A<super::b::B>) -> impl Fn() + use<'_> { $crate::c::log!(self::d::e()) }";
        assert_eq!(paths(source), ["crate::a::A", "super::b::B", "crate::c::log", "self::d::e"]);
        assert_eq!(paths("pub(in crate::a) struct X; // crate::b\nconst X: &str = \"crate::c\";"), [""; 0]);
    }

    #[test]
    fn tests_are_left_out() {
        for test in [
            "#[cfg(test)] mod tests { use a::b; fn x() { a::c(); } }",
            "#[cfg(test)]\n#[allow(x)]\npub(crate) mod tests;",
            "#[cfg(all(test, unix))] use a::{b, c};",
            "#[cfg(test)] pub(crate) fn a<T, U>(b: [u8; 2]) -> a::b { a::c() }",
            "#[cfg(test)] const A: [u8; 2] = a::b();",
        ] {
            assert_eq!(paths(&format!("{test} fn d() {{ e::f() }}")), ["e::f"], "{test}");
        }
        assert_eq!(paths("struct A { #[cfg(test)] b: c::d, e: f::g }"), ["f::g"]);
        assert_eq!(paths("#![cfg(test)] use a::b;"), [""; 0]);
        assert_eq!(paths("#[cfg(not(test))] use a::b;"), ["a::b"]);
        assert_eq!(Code::of("#[cfg(test)] mod a;\n#[cfg(test)] mod b {}").test_modules, ["a"]);
    }

    #[test]
    fn modules_within_a_file_are_known() {
        let named = Code::of("mod a { mod b { use c::d; } use e::f; }\nuse g::h;").paths();
        let inner: Vec<_> = named.iter().map(|named| named.inner.join("::")).collect();
        assert_eq!(inner, ["a::b", "a", ""]);
    }
}
