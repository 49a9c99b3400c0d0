//! Publishing a topic by the first message to it.
//!
//! The topic is held once, by no caller: messages find it while it is being published and wait for its
//! first broker as for any other. When that fails, it is let go of, and the next message begins anew. So
//! it does when the runtime of an attempt isn't driven until the attempt's time is up.
//!
//! That next attempt begins after a pause, for which its messages wait, too. Else a registry that refuses at
//! once would be asked once for each message.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metaq_protocol::Topic;
use tokio::time::Instant;

use crate::{
    SendError, SendErrorKind, deadline, panics,
    route::{
        topic_state::TopicState,
        topics::{NotHeld, Topics},
    },
};

/// The first pause after an attempt that failed; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause, if the time of messages allows it.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The time after which the failure of an attempt is forgotten.
const MEMORY: Duration = Duration::from_secs(10);

/// The number of topics whose failures are remembered: names may come from anywhere.
const MOST_FAILURES: usize = 1024;

/// The beginning of an attempt to publish a topic.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    /// None for one that begins at once.
    pub(super) not_before: Option<Instant>,
    /// The pause before it; zero if none has failed lately.
    pub(super) pause: Duration,
}

impl Start {
    /// That of the attempt after one that began so and failed at an instant.
    fn after(failed: Self, at: Instant, longest: Duration) -> Self {
        let pause = (2 * failed.pause).max(PAUSE).min(longest);
        Self { not_before: Some(at + pause), pause }
    }
}

/// The attempts by messages that failed lately, by topic.
#[derive(Debug, Default)]
pub(super) struct FailedAttempts(HashMap<Topic, (Instant, Start)>);

impl FailedAttempts {
    pub(super) fn add(&mut self, topic: &Topic, failed: Start, now: Instant) {
        if self.0.len() >= MOST_FAILURES {
            self.0.retain(|_, (at, _)| now.saturating_duration_since(*at) < MEMORY);
        }
        // Keeping none is better than keeping one for each made-up name.
        if self.0.len() >= MOST_FAILURES {
            self.0.clear();
        }
        self.0.insert(topic.clone(), (now, failed));
    }

    /// The beginning of the next attempt by a message. `failed` is one that has failed just now.
    pub(super) fn next(&self, topic: &Topic, failed: Option<Start>, longest: Duration) -> Start {
        let now = Instant::now();
        let known = self.0.get(topic).filter(|(at, _)| now.saturating_duration_since(*at) < MEMORY);
        match (failed, known) {
            (Some(failed), _) => Start::after(failed, now, longest),
            (None, Some((at, failed))) => Start::after(*failed, *at, longest),
            (None, None) => Start::default(),
        }
    }

    pub(super) fn remove(&mut self, topic: &Topic) {
        self.0.remove(topic);
    }
}

impl Topics {
    /// Begins to publish `topic` on the caller's runtime, unless that is under way, or done by now. At most
    /// `limit` topics are published so.
    ///
    /// # Errors
    /// When the producer is closed, there are as many already, or there is no runtime.
    #[cold]
    pub(crate) fn publish_by_message(
        &self,
        topic: &Topic,
        limit: usize,
    ) -> Result<Arc<TopicState>, SendError> {
        if deadline::runtime().is_none() {
            return Err(SendError::no_runtime(topic));
        }
        let held = panics::catch(|| {
            self.hold_with(topic, true, |counts| {
                let is_held = counts.get(topic).is_some_and(|counts| counts.auto);
                let may_be = is_held || counts.values().filter(|counts| counts.auto).count() < limit;
                if may_be {
                    counts.entry(topic.clone()).or_default().auto = true;
                }
                may_be
            })
        });
        let published = match held {
            Ok(Ok(published)) => published,
            Ok(Err(NotHeld::Closed)) => return Err(SendError::closed(topic)),
            Ok(Err(NotHeld::TooMany)) => return Err(SendError::too_many_topics(topic, limit)),
            Err(panic) => {
                let text =
                    format!("the partition selector panicked when it was asked for the topic: {panic}");
                return Err(SendError::new(SendErrorKind::NoPartition, topic, text));
            }
        };
        published.state.ensure_followed();
        Ok(Arc::clone(&published.state))
    }

    /// Lets go of a topic that could not be published. True if a message had begun to.
    pub(crate) fn let_go_of_failed(&self, failed: &Arc<TopicState>) -> bool {
        self.note_failure(&failed.topic, failed.followed().start());
        self.give_back(&failed.topic, |counts| {
            // Another message may have begun anew.
            let current = self.get(&failed.topic);
            let is_current = current.is_some_and(|published| Arc::ptr_eq(&published.state, failed));
            let was_auto = is_current && counts.auto;
            counts.auto &= !was_auto;
            was_auto
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_failures_in_a_row_and_are_forgotten() {
        let topic: Topic = "t".parse().unwrap();
        let mut failures = FailedAttempts::default();
        assert_eq!(failures.next(&topic, None, LONGEST).not_before, None);
        let mut start = Start::default();
        for pause in [100, 200, 400, 800, 1000, 1000] {
            failures.add(&topic, start, Instant::now());
            start = failures.next(&topic, None, LONGEST);
            assert_eq!(start.pause.as_millis(), pause);
            assert_eq!(start.not_before, Some(Instant::now() + start.pause));
        }
        tokio::time::advance(MEMORY).await;
        assert_eq!(failures.next(&topic, None, LONGEST).not_before, None);
        assert_eq!(failures.next(&topic, Some(start), LONGEST / 4).pause, LONGEST / 4);
    }

    #[test]
    fn names_that_are_made_up_take_no_memory_without_bound() {
        let mut failures = FailedAttempts::default();
        for n in 0..10_000 {
            failures.add(&format!("t{n}").parse().unwrap(), Start::default(), Instant::now());
            assert!(failures.0.len() <= MOST_FAILURES);
        }
    }
}
