//! A selector whose panics stay with the message that it was asked about.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_protocol::{Partition, Topic};

use crate::{
    Message, Outcome, PartitionSelector,
    panics::{self, contain},
    route::topic_state::TopicState,
};

/// The selector of a topic.
pub(crate) struct GuardedSelector {
    selector: Arc<dyn PartitionSelector>,
    wants_outcomes: bool,
    /// Whether a panic of `observe` was logged.
    has_panicked: AtomicBool,
}

impl GuardedSelector {
    pub(crate) fn new(selector: Arc<dyn PartitionSelector>) -> Self {
        let wants_outcomes = selector.wants_outcomes();
        Self { selector, wants_outcomes, has_panicked: AtomicBool::new(false) }
    }

    /// Asks the selector; again, if `unfit` is what it chose before. A message that names its partition goes
    /// there, whatever the selector would say.
    ///
    /// # Errors
    /// What it panicked with. The senders' threads and the dispatcher, which sends the messages of everybody,
    /// go on: whatever the selector left undone is behind its own `&self`, as if another thread had panicked
    /// in it.
    pub(crate) fn select(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Option<Partition>,
    ) -> Result<Option<Partition>, String> {
        if let Some(partition) = message.partition() {
            return Ok(unfit.is_none().then_some(partition));
        }
        let asked = panics::catch(|| match unfit {
            None => self.selector.select(topic, partitions, message),
            Some(unfit) => self.selector.reselect(topic, partitions, message, unfit),
        });
        asked.map_err(|panic| format!("the partition selector panicked: {panic}"))
    }

    /// Whether the selector wants the outcomes of attempts.
    pub(crate) fn wants_outcomes(&self) -> bool {
        self.wants_outcomes
    }
}

/// The end of an attempt, which the selector of its topic wants to know.
pub(crate) struct Observation {
    pub(crate) topic: Arc<TopicState>,
    pub(crate) partition: Partition,
    pub(crate) latency: Duration,
    pub(crate) outcome: Result<(), Outcome>,
}

impl Observation {
    /// Passes it to the selector. No lock may be held, because the selector is foreign code. Panics are
    /// caught, so that later observations are still delivered.
    pub(crate) fn deliver(self) {
        // Also of what is dropped with it.
        contain(|| self.observe());
    }

    fn observe(self) {
        let Self { topic, partition, latency, outcome } = self;
        let GuardedSelector { selector, has_panicked, .. } = &topic.selector;
        let told = panics::catch(|| selector.observe(partition, latency, outcome));
        if let Err(panic) = told
            && !has_panicked.swap(true, Ordering::Relaxed)
        {
            // A subscriber may panic, too.
            let topic = &topic.topic;
            contain(|| {
                tracing::error!(%topic, panic, "partition selector panicked in observe; further panics are not reported");
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::panic_any, sync::atomic::AtomicUsize};

    use tracing::{
        Event, Metadata, Subscriber,
        span::{Attributes, Id, Record},
        subscriber::with_default,
    };

    use super::*;
    use crate::route::followed::Followed;

    /// Panics in `select` and in `observe`, with a payload that panics when it is dropped.
    #[derive(Default)]
    struct Panics {
        told: AtomicUsize,
    }

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    impl PartitionSelector for Panics {
        fn select(&self, _: &Topic, _: &[Partition], _: &Message) -> Option<Partition> {
            panic_any(PanicsWhenDropped)
        }

        fn observe(&self, _: Partition, _: Duration, _: Result<(), Outcome>) {
            self.told.fetch_add(1, Ordering::Relaxed);
            panic_any(PanicsWhenDropped)
        }
    }

    /// A subscriber that panics at every event.
    struct PanicsAtEvents;

    impl Subscriber for PanicsAtEvents {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            panic!("the log is gone");
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn nothing_that_panics_keeps_others_from_being_told() {
        let selector = Arc::new(Panics::default());
        let topic = Topic::new("t").unwrap();
        let guarded = Arc::clone(&selector) as Arc<dyn PartitionSelector>;
        let state = Arc::new(TopicState::new(
            topic.clone(),
            Arc::default(),
            guarded,
            None,
            false,
            Arc::default(),
            Followed::never(),
        ));
        with_default(PanicsAtEvents, || {
            for _ in 0..3 {
                let (topic, partition) = (Arc::clone(&state), Partition::new(0, 0));
                Observation { topic, partition, latency: Duration::ZERO, outcome: Ok(()) }.deliver();
            }
        });
        assert_eq!(selector.told.load(Ordering::Relaxed), 3);
        let message = Message::new(topic.clone(), "");
        let error = state.selector.select(&topic, &[], &message, None).unwrap_err();
        assert_eq!(error, "the partition selector panicked: (no text)");
    }
}
