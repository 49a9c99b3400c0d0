//! Events as JSON.
//!
//! `writer` writes JSON of limited length, `fields` reads the fields of events and spans. Here the parts are
//! put together.

mod fields;
mod writer;

use std::{borrow::Cow, thread, time::SystemTime};

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use self::writer::Writer;
pub(crate) use self::{
    fields::{EachField, KeptFields, LayerId, SpanFields},
    writer::Value,
};
use crate::panics::contain;

/// The target of events that come from the `log` crate; the real one is in a field.
const OF_LOG: &str = "log";

/// The options of the form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// The most bytes of an event.
    pub(crate) limit: usize,
    pub(crate) has_thread_name: bool,
    pub(crate) has_source: bool,
}

/// The place that an event comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) target: Cow<'static, str>,
    file: Option<Cow<'static, str>>,
    line: Option<u64>,
}

impl Origin {
    /// Looks into the fields of an event only if it came through the `log` crate.
    pub(crate) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut origin = Self {
            target: Cow::Borrowed(metadata.target()),
            file: metadata.file().map(Cow::Borrowed),
            line: metadata.line().map(u64::from),
        };
        if metadata.target() == OF_LOG {
            event.record(&mut EachField::of_event(event, |name, value: Value<'_>| match (name, value) {
                ("log.target", Value::Text(target)) => origin.target = Cow::Owned(target.to_owned()),
                ("log.file", Value::Text(file)) => origin.file = Some(Cow::Owned(file.to_owned())),
                ("log.line", Value::Unsigned(line)) => origin.line = Some(line),
                _ => {}
            }));
        }
        origin
    }
}

/// An event as JSON.
#[derive(Debug)]
pub(crate) struct Formatted {
    pub(crate) text: Vec<u8>,
    pub(crate) is_truncated: bool,
    /// The number of fields whose `Debug` implementation panicked.
    pub(crate) panics: u64,
}

/// Writes an event, with the spans that it is in.
pub(crate) fn format<S>(
    event: &Event<'_>,
    origin: &Origin,
    ctx: &Context<'_, S>,
    form: &Form,
    layer: LayerId,
) -> Formatted
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    let mut writer = Writer::new(form.limit);
    writer.raw("{");
    writer.field("timestamp", Value::Text(&timestamp(SystemTime::now())));
    writer.field("level", Value::Text(event.metadata().level().as_str()));
    writer.field("target", Value::Text(&origin.target));
    if form.has_thread_name
        && let Some(name) = thread::current().name()
    {
        writer.field("threadName", Value::Text(name));
    }
    if form.has_source {
        if let Some(file) = &origin.file {
            writer.field("filename", Value::Text(file));
        }
        if let Some(line) = origin.line {
            writer.field("line_number", Value::Unsigned(line));
        }
    }
    event.record(&mut EachField::of_event(event, |name, value: Value<'_>| {
        if name == "message" {
            writer.field(name, value);
        }
    }));
    write_fields(event, &mut writer);
    if let Some(scope) = ctx.event_scope(event) {
        write_spans(scope.from_root(), layer, &mut writer);
    }
    let (is_truncated, panics) = (writer.is_truncated(), writer.panics());
    Formatted { text: writer.finish(), is_truncated, panics }
}

/// Writes the fields other than the message, if there are any.
fn write_fields(event: &Event<'_>, writer: &mut Writer) {
    let begin = writer.len();
    if !writer.raw(",\"fields\":{") {
        return writer.rewind(begin);
    }
    let empty = writer.len();
    let is_of_log = event.metadata().target() == OF_LOG;
    event.record(&mut EachField::of_event(event, |name, value: Value<'_>| {
        if name != "message" && !(is_of_log && name.starts_with("log.")) {
            writer.field(name, value);
        }
    }));
    if writer.len() == empty {
        writer.rewind(begin);
    } else {
        writer.end('}');
    }
}

/// Writes spans, from the outermost to the one that the event is in, with the fields that a layer has kept.
fn write_spans<'a, S>(spans: impl Iterator<Item = SpanRef<'a, S>>, layer: LayerId, writer: &mut Writer)
where
    S: LookupSpan<'a> + 'a,
{
    let begin = writer.len();
    if !writer.raw(",\"spans\":[") {
        return writer.rewind(begin);
    }
    let empty = writer.len();
    for span in spans {
        let before = writer.len();
        let comma = if before == empty { "" } else { "," };
        if !(writer.raw(comma) && writer.raw("{") && writer.field("name", Value::Text(span.name()))) {
            // The ones within it don't fit either.
            writer.rewind(before);
            break;
        }
        // The lock panics if another layer has panicked under it.
        contain(|| {
            if let Some(fields) = span.extensions().get::<KeptFields>().and_then(|kept| kept.of(layer)) {
                fields.write(writer);
            }
        });
        writer.end('}');
    }
    if writer.len() == empty {
        writer.rewind(begin);
    } else {
        writer.end(']');
    }
}

/// A time in UTC, with microseconds.
fn timestamp(time: SystemTime) -> String {
    // What a clock that is set wrongly shows has no text otherwise.
    let last = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_micros(time.clamp(SystemTime::UNIX_EPOCH, last)).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_in_utc_whatever_the_clock_shows() {
        let of = |seconds: i64, nanos: u32| {
            let seconds_of = Duration::from_secs(seconds.unsigned_abs());
            let time = match seconds < 0 {
                true => SystemTime::UNIX_EPOCH - seconds_of,
                false => SystemTime::UNIX_EPOCH + seconds_of,
            };
            timestamp(time + Duration::from_nanos(nanos.into()))
        };
        assert_eq!(of(1_700_000_000, 123_456_789), "2023-11-14T22:13:20.123456Z");
        assert_eq!(of(-5, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(of(400_000_000_000, 0), "9999-12-31T23:59:59.000000Z");
    }
}
