//! Publishing a topic by the first message to it.
//!
//! The topic is held once, by no caller: messages find it while it is being published and wait for its
//! first broker as for any other. When that fails, it is let go of, and the next message begins anew. So
//! it does when the runtime of an attempt isn't driven until the attempt's time is up.

use std::sync::Arc;

use metaq_protocol::Topic;

use crate::{
    SendError, SendErrorKind, deadline, panics,
    route::{
        topic_state::TopicState,
        topics::{NotHeld, Topics},
    },
};

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
            self.hold_with(topic, |counts| {
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
