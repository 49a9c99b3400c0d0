//! Rust source as tokens, in which comments, strings and code can't be confused.

/// One token, and the line on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or a keyword; a raw one without its `r#`.
    Name,
    /// One character of punctuation, or `::`.
    Sign,
    /// A string, a character, a number or a lifetime.
    Literal,
    /// A comment, doc comments included, with its marks.
    Comment,
}

impl Token<'_> {
    /// True for a name, keyword or sign that reads `text`.
    pub(super) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Name | Kind::Sign) && self.text == text
    }
}

/// Splits source that compiles; of other source the tokens are a guess, and never a panic.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let (kind, len) = if first.is_whitespace() {
            (None, rest.len() - rest.trim_start().len())
        } else if rest.starts_with("//") {
            (Some(Kind::Comment), rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (Some(Kind::Comment), block_comment(rest))
        } else if let Some(len) = string(rest) {
            (Some(Kind::Literal), len)
        } else if first == '\'' {
            (Some(Kind::Literal), quote(rest))
        } else if first.is_ascii_digit() {
            (Some(Kind::Literal), name(rest))
        } else if let Some(raw) = rest.strip_prefix("r#") {
            at += 2;
            (Some(Kind::Name), name(raw))
        } else if is_in_name(first) {
            (Some(Kind::Name), name(rest))
        } else if rest.starts_with("::") {
            (Some(Kind::Sign), 2)
        } else {
            (Some(Kind::Sign), first.len_utf8())
        };
        let text = &source[at..at + len];
        if let Some(kind) = kind {
            tokens.push(Token { kind, text, line });
        }
        line += text.bytes().filter(|byte| *byte == b'\n').count();
        at += len;
    }
    tokens
}

fn is_in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the name at the beginning of a text.
fn name(text: &str) -> usize {
    text.find(|c| !is_in_name(c)).unwrap_or(text.len())
}

/// The length of a block comment, those within it included.
fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string at the beginning of a text, if there is one: plain, raw, of bytes or of C.
fn string(text: &str) -> Option<usize> {
    if !text.starts_with(['"', 'b', 'c', 'r']) {
        return None;
    }
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix).unwrap_or_default();
        let rest = if prefix.ends_with('r') { rest.trim_start_matches('#') } else { rest };
        rest.starts_with('"')
    })?;
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let end = format!("\"{}", &rest[..hashes]);
        let begin = hashes + 1;
        return Some(rest[begin..].find(&end).map_or(text.len(), |at| prefix.len() + begin + at + end.len()));
    }
    Some(prefix.len() + quoted(rest, '"'))
}

/// The length of a character or a lifetime.
fn quote(text: &str) -> usize {
    let mut inner = text[1..].chars();
    let (first, second) = (inner.next(), inner.next());
    match first {
        Some('\\') => quoted(text, '\''),
        Some(first) if second == Some('\'') => first.len_utf8() + 2,
        Some(_) => 1 + name(&text[1..]),
        None => 1,
    }
}

/// The length of what begins and ends with `mark`, with escapes.
fn quoted(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' {
            is_escaped = true;
        } else if c == mark {
            return at + mark.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str, kind: Kind) -> Vec<&str> {
        tokens(source).into_iter().filter(|token| token.kind == kind).map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let source = r####"
            a /* b /* c */ d */ e // f "g
            "h \" i" r#"j " k"# b"l" br##"m "# n"## 'o' '\'' 'static p"####;
        assert_eq!(texts(source, Kind::Name), ["a", "e", "p"]);
        assert_eq!(texts(source, Kind::Comment), ["/* b /* c */ d */", "// f \"g"]);
        let literals =
            ["\"h \\\" i\"", "r#\"j \" k\"#", "b\"l\"", "br##\"m \"# n\"##", "'o'", "'\\''", "'static"];
        assert_eq!(texts(source, Kind::Literal), literals);
    }

    #[test]
    fn lines_are_counted_through_whatever_spans_them() {
        let source = "a\n/* b\n */ c \"d\n\n\" e\n";
        let lines: Vec<_> = tokens(source).iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 3, 3, 5]);
    }

    #[test]
    fn paths_and_raw_names_are_told_apart() {
        assert_eq!(texts("a::b:c r#fn rb b2", Kind::Name), ["a", "b", "c", "fn", "rb", "b2"]);
        assert_eq!(texts("a::b:c", Kind::Sign), ["::", ":"]);
    }

    #[test]
    fn source_that_ends_early_is_no_panic() {
        for source in ["\"a", "'", "'\\", "/* a", "r#\"a", "r#", "b'", "ä'ö", "'ä'", "/"] {
            let _ = tokens(source);
        }
        assert_eq!(texts("'ä' x", Kind::Name), ["x"]);
    }
}
