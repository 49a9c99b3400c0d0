//! The fields of events and spans.

use std::fmt;

use tracing::field::{Field, Visit};

use super::writer::{Value, Writer};

/// Hands each field over with its value.
pub(crate) struct EachField<F>(pub(crate) F);

impl<F: FnMut(&'static str, Value<'_>)> Visit for EachField<F> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        (self.0)(field.name(), Value::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        (self.0)(field.name(), Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        (self.0)(field.name(), Value::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        (self.0)(field.name(), Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        (self.0)(field.name(), Value::Text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        (self.0)(field.name(), Value::Debug(value));
    }
}

/// The fields of a span, kept with it as JSON of limited length.
#[derive(Debug)]
pub(crate) struct SpanFields {
    fields: Vec<(&'static str, String)>,
    /// The bytes that further values may have.
    left: usize,
    is_truncated: bool,
}

impl SpanFields {
    pub(crate) fn new(limit: usize) -> Self {
        Self { fields: Vec::new(), left: limit, is_truncated: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty() && !self.is_truncated
    }

    /// Adds a field, with its value's text, in place of an earlier one of that name.
    pub(crate) fn record(&mut self, name: &'static str, value: Value<'_>) -> Panicked {
        let mut writer = Writer::new(self.left);
        let fits = writer.value(value);
        self.is_truncated |= writer.is_truncated();
        let panics = writer.panics();
        if fits {
            self.set(name, writer.into_text());
        }
        Panicked(panics)
    }

    fn set(&mut self, name: &'static str, mut text: String) {
        let known = self.fields.iter().position(|(known, _)| *known == name);
        let before = known.map_or(0, |at| self.fields[at].1.len());
        if text.len() > self.left + before {
            self.is_truncated = true;
            return;
        }
        self.left = self.left + before - text.len();
        text.shrink_to_fit();
        match known {
            Some(at) => self.fields[at].1 = text,
            None => self.fields.push((name, text)),
        }
    }

    /// Takes over fields that were recorded later.
    pub(crate) fn merge(&mut self, later: Self) {
        self.is_truncated |= later.is_truncated;
        for (name, text) in later.fields {
            self.set(name, text);
        }
    }

    /// Writes the fields. The name of a span has the key `name`, so a field of that name gets another.
    pub(super) fn write(&self, writer: &mut Writer) {
        for (name, text) in &self.fields {
            writer.field(if *name == "name" { "_name" } else { name }, Value::Json(text));
        }
        if self.is_truncated {
            writer.set_truncated();
        }
    }
}

/// The number of values whose `Debug` implementation panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Panicked(pub(crate) u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn json(fields: &SpanFields) -> String {
        let mut writer = Writer::new(4096);
        assert!(writer.raw("{"));
        fields.write(&mut writer);
        String::from_utf8(writer.finish()).unwrap()
    }

    #[test]
    fn what_is_recorded_later_replaces_what_was_before() {
        let mut fields = SpanFields::new(1000);
        assert!(fields.is_empty());
        assert_eq!(fields.record("a", Value::Unsigned(1)), Panicked(0));
        assert_eq!(fields.record("name", Value::Text("x")), Panicked(0));
        let mut later = SpanFields::new(1000);
        assert_eq!(later.record("a", Value::Debug(&"two")), Panicked(0));
        assert_eq!(later.record("b", Value::Bool(true)), Panicked(0));
        fields.merge(later);
        assert_eq!(json(&fields), r#"{"a":"\"two\"","_name":"x","b":true}"#);
    }

    #[test]
    fn what_is_kept_is_limited_however_often_it_is_recorded() {
        let mut fields = SpanFields::new(1000);
        for n in 0..1000 {
            let mut later = SpanFields::new(1000);
            assert_eq!(later.record(["a", "b", "c"][n % 3], Value::Text(&"x".repeat(n))), Panicked(0));
            fields.merge(later);
            let kept: usize = fields.fields.iter().map(|(_, text)| text.len()).sum();
            assert_eq!(kept + fields.left, 1000);
        }
        assert!(json(&fields).ends_with(",\"truncated\":true}"));
    }
}
