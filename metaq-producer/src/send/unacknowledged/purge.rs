//! Taking messages back that wait.

use std::thread;

use metaq_protocol::Topic;
use tokio::time::Instant;

use super::{Effects, State, Unacknowledged};
use crate::{
    Message, Outcome, SendError,
    send::{deferred, timers::Timer},
    token::Token,
};

/// The number of further looks at messages that other threads have in hand, each time after the others had
/// the processor.
const MOST_LOOKS: usize = 64;

/// A message that was taken back, and where it stood in its topic's queues.
struct Purged {
    number: u64,
    started: Instant,
    message: Message,
}

impl Unacknowledged {
    /// Ends the messages to `topic` that wait, and returns those that are certainly not stored, in the order
    /// in which they came.
    pub(crate) fn purge(&self, topic: &Topic) -> Vec<Message> {
        let mut purged = Vec::new();
        let mut effects = Effects::default();
        {
            // What waits behind a message that is taken back may belong to those, too: nothing is sent before
            // all are out.
            let _hold = deferred::Hold::new();
            let is_left = |state: &State| matches!(state, State::Taken) || state.waits_for(topic);
            let mut left = self.tokens(is_left);
            for look in 0..=MOST_LOOKS {
                if look > 0 {
                    // Another thread tries to send them, and may have them wait again.
                    thread::yield_now();
                }
                left.retain(|token| {
                    self.purge_one(*token, topic, &mut purged, &mut effects);
                    self.shard(*token).get_mut(*token).is_some_and(|entry| is_left(&entry.state))
                });
                if left.is_empty() {
                    break;
                }
            }
        }
        self.run_effects(&mut effects);
        // A message that was tried again has a later number than those that came after it.
        purged.sort_by_key(|purged| (purged.started, purged.number));
        purged.into_iter().map(|purged| purged.message).collect()
    }

    /// Ends a message if it waits and is one to `topic`.
    fn purge_one(&self, token: Token, topic: &Topic, purged: &mut Vec<Purged>, effects: &mut Effects) {
        let taken = self.take_waiting_if(token, |pending, _| pending.message.topic() == topic);
        let Some((pending, state)) = taken else { return };
        self.timers.cancel(pending.deadline(), Timer::Deadline(token, pending.attempts_before));
        // Those that wait for their next attempt are in no queue, and came before those that have had none.
        let number = state.waits.number(token).unwrap_or(0);
        self.leave_queue(token, &state);
        let (message, started) = (pending.message.clone(), pending.started);
        let error = self.settle_failure(SendError::purged(topic), &state, None, pending, effects);
        if error.outcome() == Outcome::NotSent {
            purged.push(Purged { number, started, message });
        }
        self.fail(&mut self.shard(token), token, error, effects);
    }
}

impl State {
    fn waits_for(&self, topic: &Topic) -> bool {
        matches!(self, Self::Waiting { pending, .. } if pending.message.topic() == topic)
    }
}
