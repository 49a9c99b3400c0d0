//! JSON text of limited length.

use std::{
    fmt::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::panics::forget;

/// What is kept free for the end of a text that reached its limit: the end of a string that was cut, of a
/// string in an object in an array in the whole, and the mark of truncation.
const END: usize = "…\"}]".len() + TRUNCATED.len();

/// The end of an event that does not say everything.
const TRUNCATED: &str = ",\"truncated\":true}";

/// The text of a value whose `Debug` implementation panicked.
const PANICKED: &str = "\"(its Debug implementation panicked)\"";

/// The value of a field.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(&'a str),
    /// Written as a string, by code of the program's.
    Debug(&'a dyn fmt::Debug),
    /// JSON already.
    Json(&'a str),
}

/// Writes JSON that is valid at its end, however much does not fit.
pub(crate) struct Writer {
    text: String,
    /// The length up to which anything but ends is written.
    limit: usize,
    /// The length that one string may have.
    longest: usize,
    is_truncated: bool,
    panics: u64,
}

impl Writer {
    /// A text of at most `limit` bytes, in which one string has at most half of them.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            text: String::with_capacity(256.min(limit)),
            limit: limit.saturating_sub(END),
            longest: limit / 2,
            is_truncated: false,
            panics: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether something was cut or left out.
    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Notes that something was left out before.
    pub(crate) fn set_truncated(&mut self) {
        self.is_truncated = true;
    }

    /// The number of values whose `Debug` implementation panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics
    }

    /// Writes a text if it fits.
    pub(crate) fn raw(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= self.limit;
        if fits {
            self.text.push_str(text);
        } else {
            self.is_truncated = true;
        }
        fits
    }

    /// Removes what was written since the text had this length.
    pub(crate) fn rewind(&mut self, len: usize) {
        self.text.truncate(len);
    }

    /// Writes a key and its value, after a comma unless an object was just begun, or nothing if not even the
    /// beginning of the value fits.
    pub(crate) fn field(&mut self, key: &str, value: Value<'_>) -> bool {
        let begin = self.text.len();
        let comma = if self.text.ends_with('{') { "" } else { "," };
        let fits = self.raw(comma) && self.whole_string(key) && self.raw(":") && self.value(value);
        if !fits {
            self.text.truncate(begin);
        }
        fits
    }

    /// Writes a value, cut if it is a string, or nothing if it does not fit.
    pub(crate) fn value(&mut self, value: Value<'_>) -> bool {
        let begin = self.text.len();
        let written = match value {
            Value::Bool(value) => write!(Raw(self), "{value}"),
            Value::Signed(value) => write!(Raw(self), "{value}"),
            Value::Unsigned(value) => write!(Raw(self), "{value}"),
            Value::Float(value) if value.is_finite() => write!(Raw(self), "{value:?}"),
            // JSON has no other.
            Value::Float(_) => write!(Raw(self), "null"),
            Value::Json(value) => Raw(self).write_str(value),
            Value::Text(value) => return self.string(|text| text.write_str(value)),
            Value::Debug(value) => return self.string(|text| write!(text, "{value:?}")),
        };
        if written.is_err() {
            self.text.truncate(begin);
        }
        written.is_ok()
    }

    /// Ends an object or an array.
    pub(crate) fn end(&mut self, end: char) {
        self.text.push(end);
    }

    /// Ends the event.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.text.push_str(if self.is_truncated { TRUNCATED } else { "}" });
        self.text.into_bytes()
    }

    /// The text without an end.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn whole_string(&mut self, text: &str) -> bool {
        let limit = self.limit;
        let is_whole =
            self.raw("\"") && Escaped { writer: self, limit, is_cut: false }.write_str(text).is_ok();
        self.is_truncated |= !is_whole;
        is_whole && self.raw("\"")
    }

    /// Writes a string that `write` makes, which may be code of the program's, and cuts it if it is too long.
    fn string(&mut self, write: impl FnOnce(&mut Escaped<'_>) -> fmt::Result) -> bool {
        let begin = self.text.len();
        if !self.raw("\"") {
            return false;
        }
        let limit = self.limit.min(begin.saturating_add(self.longest));
        let mut escaped = Escaped { writer: self, limit, is_cut: false };
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut escaped)));
        // An implementation may ignore that nothing more is taken.
        let is_cut = escaped.is_cut;
        if let Err(panic) = written {
            forget(panic);
            self.panics += 1;
            self.text.truncate(begin);
            return self.raw(PANICKED);
        }
        if is_cut {
            self.is_truncated = true;
            self.text.push('…');
        }
        self.text.push('"');
        true
    }
}

/// Writes text that needs no escaping.
struct Raw<'a>(&'a mut Writer);

impl fmt::Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.raw(text) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Writes the inside of a string, up to a limit. What comes after the first piece that does not fit is left
/// out, too.
struct Escaped<'a> {
    writer: &'a mut Writer,
    limit: usize,
    is_cut: bool,
}

impl Escaped<'_> {
    /// Writes one character, or nothing.
    fn piece(&mut self, piece: &str) -> fmt::Result {
        if self.writer.text.len() + piece.len() > self.limit {
            self.is_cut = true;
            return Err(fmt::Error);
        }
        self.writer.text.push_str(piece);
        Ok(())
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_cut {
            return Err(fmt::Error);
        }
        let mut rest = text;
        while !rest.is_empty() {
            let special = rest.find(|c: char| c < ' ' || c == '"' || c == '\\');
            let (plain, after) = rest.split_at(special.unwrap_or(rest.len()));
            let mut fitting = self.limit.saturating_sub(self.writer.text.len()).min(plain.len());
            while !plain.is_char_boundary(fitting) {
                fitting -= 1;
            }
            self.writer.text.push_str(&plain[..fitting]);
            if fitting < plain.len() {
                self.is_cut = true;
                return Err(fmt::Error);
            }
            let mut chars = after.chars();
            match chars.next() {
                None => {}
                Some('"') => self.piece("\\\"")?,
                Some('\\') => self.piece("\\\\")?,
                Some('\n') => self.piece("\\n")?,
                Some('\r') => self.piece("\\r")?,
                Some('\t') => self.piece("\\t")?,
                Some(other) => self.piece(&format!("\\u{:04x}", u32::from(other)))?,
            }
            rest = chars.as_str();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> serde_json::Value {
        serde_json::from_slice(text)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text)))
    }

    #[test]
    fn values_are_read_back() {
        let mut writer = Writer::new(4096);
        assert!(writer.raw("{"));
        let odd = "a \"quote\", a \\, \n\r\t\u{1}\u{7f} ключ 🦀";
        for (key, value) in [
            ("a", Value::Bool(true)),
            ("b", Value::Signed(i64::MIN)),
            ("c", Value::Unsigned(u64::MAX)),
            ("d", Value::Float(1e300)),
            ("e", Value::Float(1.0)),
            ("f", Value::Float(f64::NAN)),
            ("g \"", Value::Text(odd)),
            ("h", Value::Debug(&Some("x"))),
            ("i", Value::Json("[1]")),
        ] {
            assert!(writer.field(key, value));
        }
        let expected = serde_json::json!({
            "a": true, "b": i64::MIN, "c": u64::MAX, "d": 1e300, "e": 1.0, "f": null, "g \"": odd,
            "h": "Some(\"x\")", "i": [1],
        });
        assert_eq!(parsed(&writer.finish()), expected);
    }

    #[test]
    fn whatever_the_limit_is_it_is_kept_and_the_text_valid() {
        let long = "\u{1}ключ\"".repeat(100);
        for limit in 64..1500 {
            let mut writer = Writer::new(limit);
            assert!(writer.raw("{"));
            writer.field("first", Value::Text(&long));
            let begin = writer.len();
            if writer.raw(",\"spans\":[{") {
                writer.field("name", Value::Debug(&long));
                writer.field("n", Value::Unsigned(u64::MAX));
                writer.end('}');
                writer.end(']');
            } else {
                writer.rewind(begin);
            }
            assert!(writer.is_truncated());
            let text = writer.finish();
            assert!(text.len() <= limit, "{} of {limit} bytes", text.len());
            assert_eq!(parsed(&text)["truncated"], true, "{limit}");
        }
    }

    #[test]
    fn a_long_text_leaves_half_to_others() {
        let mut writer = Writer::new(1000);
        assert!(writer.raw("{") && writer.field("message", Value::Text(&"x".repeat(5000))));
        assert!(writer.field("user", Value::Text("7")));
        let text = parsed(&writer.finish());
        assert_eq!((&text["user"], &text["truncated"]), (&"7".into(), &true.into()));
        let message = text["message"].as_str().unwrap();
        assert!(message.ends_with("x…") && (450..=510).contains(&message.len()), "{}", message.len());
    }

    #[test]
    fn an_implementation_that_panics_costs_its_value_alone() {
        struct Panics;
        impl fmt::Debug for Panics {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("half of it")?;
                panic!("Debug of a test");
            }
        }
        let mut writer = Writer::new(1000);
        assert!(writer.raw("{") && writer.field("a", Value::Debug(&Panics)));
        assert!(writer.field("b", Value::Signed(1)));
        assert_eq!((writer.panics(), writer.is_truncated()), (1, false));
        let expected = serde_json::json!({ "a": "(its Debug implementation panicked)", "b": 1 });
        assert_eq!(parsed(&writer.finish()), expected);
    }

    #[test]
    fn an_implementation_that_ignores_the_end_is_cut_all_the_same() {
        struct Ignores;
        impl fmt::Debug for Ignores {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for _ in 0..1000 {
                    let _ = f.write_str(&"long ".repeat(10));
                    let _ = f.write_str("s");
                }
                Ok(())
            }
        }
        let mut writer = Writer::new(400);
        assert!(writer.raw("{") && writer.field("a", Value::Debug(&Ignores)));
        let text = writer.finish();
        assert!(text.len() <= 400 && parsed(&text)["a"].as_str().unwrap().ends_with('…'));
    }
}
