//! A `tracing` span for each message, from when it is accepted until its outcome.

use std::mem;

use metaq_protocol::Topic;
use tracing::{Span, field::Empty};

use crate::{
    Outcome,
    interceptor::CompletedSend,
    panics::{self, contain},
};

/// The span of one message. The subscriber's code runs when it begins, ends, and is dropped: never under a
/// lock.
#[derive(Debug)]
pub(crate) struct SendSpan {
    span: Span,
    has_ended: bool,
}

impl SendSpan {
    /// Begins a span within the caller's current one. None if no subscriber wants it.
    #[cold]
    pub(crate) fn begin(topic: &Topic) -> Option<Box<Self>> {
        let begun = panics::catch(|| {
            tracing::info_span!(
                target: "metaq_producer",
                "metaq.send",
                topic = %topic,
                partition = Empty,
                outcome = Empty,
                attempts = Empty,
            )
        });
        begun.ok().filter(|span| !span.is_disabled()).map(|span| Box::new(Self { span, has_ended: false }))
    }

    /// The message has ended.
    pub(crate) fn end(&mut self, send: &CompletedSend) {
        self.has_ended = true;
        contain(|| {
            if let Some(partition) = send.partition {
                self.span.record("partition", tracing::field::display(partition));
            }
            self.span.record("outcome", send.outcome.map_or_else(Outcome::as_str, |()| "acknowledged"));
            self.span.record("attempts", send.attempts);
        });
    }

    /// The message was not accepted.
    pub(crate) fn end_refused(&mut self) {
        self.has_ended = true;
        contain(|| {
            self.span.record("outcome", Outcome::NotSent.as_str());
            self.span.record("attempts", 0);
        });
    }
}

impl Drop for SendSpan {
    fn drop(&mut self) {
        if !self.has_ended {
            // The caller has given up before it was accepted.
            self.end_refused();
        }
        let span = mem::replace(&mut self.span, Span::none());
        contain(|| drop(span));
    }
}
