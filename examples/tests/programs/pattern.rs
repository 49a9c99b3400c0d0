//! Comparing output with a documented one, in which names in angle brackets stand for what differs from run
//! to run.

/// A documented output. `<port>` stands for any text within a line; where the name occurs again, it stands
/// for the same text.
pub(crate) struct Pattern<'a>(&'a str);

/// The texts that names stand for.
type Bindings<'a> = Vec<(&'a str, &'a str)>;

impl<'a> Pattern<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Compares line by line.
    ///
    /// # Errors
    /// The first line that differs.
    pub(crate) fn compare(&self, output: &str) -> Result<(), String> {
        let (mut patterns, mut lines) = (self.0.lines(), output.lines());
        let mut bindings = Bindings::new();
        loop {
            match (patterns.next(), lines.next()) {
                (None, None) => return Ok(()),
                (Some(pattern), Some(line)) if matches(pattern, line, &mut bindings) => {}
                (Some(pattern), Some(line)) => {
                    return Err(format!("{pattern:?} is documented, and {line:?} printed"));
                }
                (Some(pattern), None) => return Err(format!("{pattern:?} is documented, and not printed")),
                (None, Some(line)) => return Err(format!("{line:?} is printed, and not documented")),
            }
        }
    }
}

/// Returns whether a line matches, and adds the texts of the names in it.
fn matches<'a>(pattern: &'a str, line: &'a str, bindings: &mut Bindings<'a>) -> bool {
    let Some((literal, name, rest)) = first_name(pattern) else { return pattern == line };
    let Some(line) = line.strip_prefix(literal) else { return false };
    if let Some((_, text)) = bindings.iter().find(|(known, _)| *known == name) {
        return line.strip_prefix(text).is_some_and(|line| matches(rest, line, bindings));
    }
    // The shortest text first, and never none.
    let ends = line.char_indices().map(|(at, char)| at + char.len_utf8());
    ends.into_iter().any(|end| {
        let known = bindings.len();
        bindings.push((name, &line[..end]));
        let is_match = matches(rest, &line[end..], bindings);
        if !is_match {
            bindings.truncate(known);
        }
        is_match
    })
}

/// Splits a pattern at its first name: the literal before it, the name, and the rest.
fn first_name(pattern: &str) -> Option<(&str, &str, &str)> {
    let is_name =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'-'));
    pattern.match_indices('<').find_map(|(begin, _)| {
        let (name, rest) = pattern[begin + 1..].split_once('>')?;
        is_name(name).then_some((&pattern[..begin], name, rest))
    })
}

#[test]
fn names_stand_for_the_same_text_everywhere() {
    let pattern = Pattern::new("broker on <port>\n<n> sent to <port>, <n> stored: <text>");
    assert_eq!(pattern.compare("broker on 81\n5 sent to 81, 5 stored: a, b\n"), Ok(()));
    for (other, reason) in [
        ("broker on 81\n5 sent to 82, 5 stored: a", "is documented, and \"5 sent"),
        ("broker on 81\n5 sent to 81, 4 stored: a", "is documented, and \"5 sent"),
        ("broker on 81\n5 sent to 81, 5 stored: ", "is documented, and \"5 sent"),
        ("broker at 81\n5 sent to 81, 5 stored: a", "is documented, and \"broker at"),
        ("broker on 81", "and not printed"),
        ("broker on 81\n5 sent to 81, 5 stored: a\nmore", "and not documented"),
    ] {
        assert!(pattern.compare(other).is_err_and(|difference| difference.contains(reason)), "{other}");
    }
}

#[test]
fn angle_brackets_around_anything_else_are_text() {
    assert_eq!(Pattern::new("a < b, <B> <c d>").compare("a < b, <B> <c d>"), Ok(()));
    assert!(Pattern::new("<B>").compare("x").is_err());
}
