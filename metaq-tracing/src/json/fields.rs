//! The fields of events and spans.

use std::{
    borrow::Cow,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use tracing::{
    Event,
    field::{Field, FieldSet, Visit},
};

use super::writer::{Value, Writer};

/// Hands each field over with its value.
pub(crate) struct EachField<F> {
    each: F,
    /// Of several fields with one name the last is handed over. Those of spans replace each other.
    fields: Option<&'static FieldSet>,
}

impl<F: FnMut(&'static str, Value<'_>)> EachField<F> {
    pub(crate) fn of_event(event: &Event<'_>, each: F) -> Self {
        Self { each, fields: Some(event.metadata().fields()) }
    }

    pub(crate) fn of_span(each: F) -> Self {
        Self { each, fields: None }
    }

    fn field(&mut self, field: &Field, value: Value<'_>) {
        let is_replaced = self.fields.is_some_and(|fields| {
            fields.iter().skip(field.index() + 1).any(|later| later.name() == field.name())
        });
        if !is_replaced {
            (self.each)(field.name(), value);
        }
    }
}

impl<F: FnMut(&'static str, Value<'_>)> Visit for EachField<F> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, Value::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, Value::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, Value::Text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, Value::Debug(value));
    }
}

/// A number that no other layer of the process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerId(u64);

impl LayerId {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The fields of a span, as each layer keeps them by its limit.
#[derive(Debug)]
pub(crate) struct KeptFields(Vec<(LayerId, SpanFields)>);

impl KeptFields {
    pub(crate) fn new(layer: LayerId, fields: SpanFields) -> Self {
        Self(vec![(layer, fields)])
    }

    pub(super) fn of(&self, layer: LayerId) -> Option<&SpanFields> {
        self.0.iter().find(|(of, _)| *of == layer).map(|(_, fields)| fields)
    }

    /// Takes over fields that were recorded later.
    pub(crate) fn merge(&mut self, layer: LayerId, later: SpanFields) {
        match self.0.iter_mut().find(|(of, _)| *of == layer) {
            Some((_, fields)) => fields.merge(later),
            None => self.0.push((layer, later)),
        }
    }
}

/// The fields of a span, kept with it as JSON of limited length.
#[derive(Debug)]
pub(crate) struct SpanFields {
    /// With the texts of those values that fit.
    fields: Vec<(&'static str, Option<String>)>,
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
        self.set(name, fits.then(|| writer.into_text()));
        Panicked(panics)
    }

    /// Replaces a value. One that does not fit leaves none, rather than one that holds no longer.
    fn set(&mut self, name: &'static str, text: Option<String>) {
        let at = self.fields.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.fields.push((name, None));
            self.fields.len() - 1
        });
        let value = &mut self.fields[at].1;
        self.left += value.take().map_or(0, |before| before.len());
        *value = text.filter(|text| text.len() <= self.left);
        match value {
            Some(text) => {
                self.left -= text.len();
                text.shrink_to_fit();
            }
            None => self.is_truncated = true,
        }
    }

    /// Takes over fields that were recorded later.
    pub(crate) fn merge(&mut self, later: Self) {
        self.is_truncated |= later.is_truncated;
        for (name, text) in later.fields {
            self.set(name, text);
        }
    }

    /// Writes the fields. The name of a span has the key `name`, so a field of that name gets another, and so
    /// does one that has this.
    pub(super) fn write(&self, writer: &mut Writer) {
        let written = self.fields.iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        for (name, text) in written {
            let is_taken = name.trim_start_matches('_') == "name";
            let key = if is_taken { Cow::Owned(format!("_{name}")) } else { Cow::Borrowed(*name) };
            writer.field(&key, Value::Json(text));
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
            let kept: usize = fields.fields.iter().flat_map(|(_, text)| text).map(String::len).sum();
            assert_eq!(kept + fields.left, 1000);
        }
        assert!(json(&fields).ends_with(",\"truncated\":true}"));
    }

    #[test]
    fn a_value_that_does_not_fit_leaves_no_earlier_one() {
        let mut fields = SpanFields::new(200);
        assert_eq!(fields.record("state", Value::Text("waiting")), Panicked(0));
        assert_eq!(fields.record("other", Value::Text(&"x".repeat(80))), Panicked(0));
        assert_eq!(fields.record("more", Value::Json(&"1".repeat(60))), Panicked(0));
        let mut later = SpanFields::new(200);
        assert_eq!(later.record("state", Value::Json(&"2".repeat(150))), Panicked(0));
        fields.merge(later);
        let json = json(&fields);
        assert!(!json.contains("state") && json.ends_with(",\"truncated\":true}"), "{json}");
    }
}
