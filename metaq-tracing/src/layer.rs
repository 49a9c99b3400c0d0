//! The layer itself, which runs on the threads that log.

use std::sync::Arc;

use bytes::Bytes;
use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::{
    buffer::Buffer,
    json::{self, EachField, Form, KeptFields, LayerId, Origin, SpanFields},
    panics::contain,
    suppression::{ExcludedTargets, Suppressed, Work},
};

/// The keys of messages.
#[derive(Clone, Debug)]
pub(crate) enum Key {
    None,
    Fixed(Bytes),
    Target,
}

/// A [`Layer`] that sends events as JSON to a topic. Built by [`builder`](Self::builder).
///
/// It never waits and never fails: what it can't take is dropped and counted. A thread that logs writes the
/// event as JSON, and puts it into a buffer behind a lock that is held for a moment; a thread of the layer's
/// own sends what is there. Filters of `tracing-subscriber`, such as
/// [`with_filter`](Layer::with_filter), choose what is sent.
///
/// Within another layer that holds a lock while it is called, or under a filter that is changed while events
/// come, it behaves as any other layer.
#[derive(Debug)]
pub struct MetaqLayer {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) form: Form,
    pub(crate) key: Key,
    pub(crate) excluded: ExcludedTargets,
    pub(crate) id: LayerId,
}

impl MetaqLayer {
    /// The fields of a span that `record` reads, without any lock.
    fn read(&self, record: impl FnOnce(&mut dyn tracing::field::Visit)) -> SpanFields {
        let mut fields = SpanFields::new(self.form.limit);
        record(&mut EachField::of_span(|name, value: json::Value<'_>| {
            let panicked = fields.record(name, value);
            self.buffer.counts.panicked_fields.add(panicked.0);
        }));
        fields
    }

    /// Adds fields to those that this layer keeps for a span.
    fn keep<S>(&self, id: &Id, ctx: &Context<'_, S>, fields: SpanFields)
    where
        S: Subscriber + for<'l> LookupSpan<'l>,
    {
        let Some(span) = ctx.span(id).filter(|_| !fields.is_empty()) else { return };
        // The lock panics if another layer has panicked under it.
        contain(|| {
            let mut extensions = span.extensions_mut();
            match extensions.get_mut::<KeptFields>() {
                Some(kept) => kept.merge(self.id, fields),
                None => extensions.insert(KeptFields::new(self.id, fields)),
            }
        });
    }
}

impl<S> Layer<S> for MetaqLayer
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Ok(_work) = Work::begin() else { return };
        let fields = self.read(|visit| attributes.record(visit));
        self.keep(id, &ctx, fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Ok(_work) = Work::begin() else { return };
        let later = self.read(|visit| values.record(visit));
        self.keep(id, &ctx, later);
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        // First, as this decides about most of the events that are not sent.
        if self.excluded.contain(event.metadata().target()) {
            return;
        }
        let _work = match Work::begin() {
            Ok(work) => work,
            Err(Suppressed::OwnThread) => return,
            Err(Suppressed::Nested) => {
                self.buffer.counts.offered.add(1);
                return self.buffer.counts.nested.add(1);
            }
        };
        let origin = Origin::of(event);
        if self.excluded.contain(&origin.target) {
            return;
        }
        self.buffer.offer(|| {
            let key = match &self.key {
                Key::None => None,
                Key::Fixed(key) => Some(key.clone()),
                Key::Target => Some(Bytes::copy_from_slice(origin.target.as_bytes())),
            };
            (json::format(event, &origin, &ctx, &self.form, self.id), key)
        });
    }
}
