//! Taking messages back that wait.

use std::thread;

use metaq_protocol::Topic;
use tokio::time::Instant;

use super::{Flights, State, Tally, fail};
use crate::{Message, Outcome, SendError, deferred, slab::Token, timekeeper::Timer};

/// How often messages are looked at again that other threads have in hand, each time after the others had the processor.
const MOST_LOOKS: usize = 64;

/// A message that was taken back, and where it stood in its topic's queues.
struct Purged {
    number: u64,
    started: Instant,
    message: Message,
}

impl Flights {
    /// Ends the messages to `topic` that wait, and returns those that are certainly not stored, in the order in which they
    /// came.
    pub(crate) fn purge(&self, topic: &Topic) -> Vec<Message> {
        let mut purged = Vec::new();
        let mut tally = Tally::default();
        {
            // What waits behind a message that is taken back may belong to those, too: nothing is sent before all are out.
            let _hold = deferred::Hold::new();
            self.tokens(|state| state.waits_for(topic))
                .into_iter()
                .for_each(|token| self.purge_one(token, topic, &mut purged, &mut tally));
            let mut in_hand = self.tokens(|state| matches!(state, State::Taken));
            // Another thread tries to send them, and may have them wait again.
            for _ in 0..MOST_LOOKS {
                if in_hand.is_empty() {
                    break;
                }
                thread::yield_now();
                in_hand.retain(|token| {
                    self.purge_one(*token, topic, &mut purged, &mut tally);
                    self.shard(*token)
                        .get_mut(*token)
                        .is_some_and(|entry| matches!(entry.state, State::Taken))
                });
            }
        }
        self.settle(&mut tally);
        purged.sort_by_key(|purged| (purged.number, purged.started));
        purged.into_iter().map(|purged| purged.message).collect()
    }

    /// Ends a message if it waits and is one to `topic`.
    fn purge_one(&self, token: Token, topic: &Topic, purged: &mut Vec<Purged>, tally: &mut Tally) {
        let taken = self.take_parked_if(token, |cargo, _| cargo.message.topic() == topic);
        let Some((cargo, state)) = taken else { return };
        self.timers.cancel(cargo.deadline(), Timer::Deadline(token, cargo.attempts_before));
        // Those that wait for their next attempt are in no queue, and came before those that have had none.
        let number = state.waits.number(token).unwrap_or(0);
        self.leave_queue(token, &state);
        let (message, started) = (cargo.message.clone(), cargo.started);
        let error = self.failed(SendError::purged(topic), &state, None, cargo, tally);
        if error.outcome() == Outcome::NotSent {
            purged.push(Purged { number, started, message });
        }
        fail(&mut self.shard(token), token, error, tally);
    }
}

impl State {
    fn waits_for(&self, topic: &Topic) -> bool {
        matches!(self, Self::Parked { cargo, .. } if cargo.message.topic() == topic)
    }
}
