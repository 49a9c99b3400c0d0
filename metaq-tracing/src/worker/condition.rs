//! The state of sending: the pauses after failures, and which of them were logged.

use std::{fmt, time::Duration};

use metaq_producer::SendError;
use tokio::time::Instant;

use super::Worker;
use crate::panics::contain;

/// The first pause after events could not be sent, and the longest one, which doubles grow to. While brokers
/// are away, the producer waits for them besides.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// The target of the thread's own lines, which README names.
const TARGET: &str = "metaq_tracing::worker";

/// The state of sending, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Condition {
    pub(super) is_published: bool,
    /// Nothing but delayed events is tried meanwhile.
    pub(super) pause: Pause,
    /// No delayed event is tried meanwhile.
    pub(super) retry_pause: Pause,
    /// The number of events that had been dropped when a line said that events wait, or that some do.
    reported: Option<u64>,
    reported_delayed: Option<u64>,
    has_lost: bool,
}

/// A pause that grows until it is reset.
#[derive(Debug, Default)]
pub(super) struct Pause {
    until: Option<Instant>,
    length: Duration,
}

impl Pause {
    pub(super) fn is_over(&mut self) -> bool {
        self.until = self.until.filter(|until| *until > Instant::now());
        self.until.is_none()
    }

    fn begin(&mut self) {
        // What fails at the same time is one failure.
        if self.is_over() {
            self.length = (self.length * 2).clamp(SHORTEST, LONGEST);
            self.until = Some(Instant::now() + self.length);
        }
    }
}

impl Condition {
    /// The end of the pause that ends first.
    pub(super) fn paused_until(&mut self) -> Option<Instant> {
        // One that is over would end again at once.
        let _ = (self.pause.is_over(), self.retry_pause.is_over());
        self.pause.until.into_iter().chain(self.retry_pause.until).min()
    }

    pub(super) fn succeeded(&mut self, worker: &Worker, was_delayed: bool) {
        self.pause = Pause::default();
        if was_delayed {
            self.retry_pause = Pause::default();
        }
        let before = match (self.reported, self.reported_delayed) {
            // It said so of all events: what is delayed has no line of its own.
            (Some(before), _) => Some(before),
            (None, Some(before)) if !worker.buffer.has_delayed() => Some(before),
            _ => None,
        };
        if let Some(before) = before {
            (self.reported, self.reported_delayed) = (None, None);
            let dropped = worker.buffer.counts.full.get() - before;
            let topic = &worker.topic;
            contain(|| tracing::info!(target: TARGET, %topic, dropped, "log events are sent again"));
        }
    }

    /// Notes that events can't be sent, or the topic can't be published.
    pub(super) fn failed(&mut self, worker: &Worker, error: &dyn fmt::Display) {
        self.pause.begin();
        if self.reported.is_none() {
            self.reported = Some(worker.buffer.counts.full.get());
            let topic = &worker.topic;
            contain(
                || tracing::warn!(target: TARGET, %topic, %error, "log events can't be sent now, and are buffered"),
            );
        }
    }

    /// Notes that an event can't be sent while a broker is connected.
    pub(super) fn delayed(&mut self, worker: &Worker, error: &SendError) {
        self.retry_pause.begin();
        if self.reported.is_none() && self.reported_delayed.is_none() {
            self.reported_delayed = Some(worker.buffer.counts.full.get());
            let topic = &worker.topic;
            contain(
                || tracing::warn!(target: TARGET, %topic, %error, "some log events can't be sent now, and are buffered"),
            );
        }
    }

    pub(super) fn lost(&mut self, worker: &Worker, error: &SendError) {
        if !std::mem::replace(&mut self.has_lost, true) {
            let (topic, outcome) = (&worker.topic, error.outcome().as_str());
            contain(|| {
                tracing::warn!(target: TARGET, %topic, outcome, %error, "a log event failed; further ones are counted only");
            });
        }
    }
}
