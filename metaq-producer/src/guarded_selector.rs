//! A selector whose panics stay with the message that it was asked about.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_protocol::{Partition, Topic};

use crate::{Message, Outcome, PartitionSelector, route::TopicState};

/// The selector of a topic.
pub(crate) struct GuardedSelector {
    selector: Arc<dyn PartitionSelector>,
    wants_outcomes: bool,
    /// Whether it was told that `observe` panics.
    has_panicked: AtomicBool,
}

impl GuardedSelector {
    pub(crate) fn new(selector: Arc<dyn PartitionSelector>) -> Self {
        let wants_outcomes = selector.wants_outcomes();
        Self { selector, wants_outcomes, has_panicked: AtomicBool::new(false) }
    }

    /// Asks the selector; again, if `unfit` is what it chose before.
    ///
    /// # Errors
    /// What it panicked with. The senders' threads and the dispatcher, which sends the messages of everybody, go on: whatever
    /// the selector left undone is behind its own `&self`, as if another thread had panicked in it.
    pub(crate) fn select(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Option<Partition>,
    ) -> Result<Option<Partition>, String> {
        let asked = catch_unwind(AssertUnwindSafe(|| match unfit {
            None => self.selector.select(topic, partitions, message),
            Some(unfit) => self.selector.select_instead(topic, partitions, message, unfit),
        }));
        asked.map_err(|panic| format!("the partition selector panicked: {}", text(&*panic)))
    }

    /// Whether the ends of attempts are to be told.
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
    /// Tells the selector. No lock may be held: what it does is its own affair.
    pub(crate) fn tell(self) {
        let Self { topic, partition, latency, outcome } = self;
        let GuardedSelector { selector, has_panicked, .. } = &topic.selector;
        let told = catch_unwind(AssertUnwindSafe(|| selector.observe(partition, latency, outcome)));
        if let Err(panic) = told
            && !has_panicked.swap(true, Ordering::Relaxed)
        {
            let (topic, panic) = (&topic.topic, text(&*panic));
            tracing::error!(%topic, panic, "partition selector panicked when told how a message fared; said once");
        }
    }
}

/// What somebody panicked with, if it is a text.
fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}
