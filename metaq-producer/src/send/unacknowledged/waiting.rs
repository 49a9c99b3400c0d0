//! The messages that wait for a broker, for capacity, for their turn, or for the next attempt.

use std::sync::{Arc, atomic::Ordering};

use metaq_protocol::Topic;
use tokio::time::Instant;

use super::{Entry, SHARDS, State, Unacknowledged, completion::Effects, own_shard, pending::PendingMessage};
use crate::{
    SendError,
    route::{topic_state::TopicState, wait_queue::WaitReason},
    send::timers::Timer,
    token::Token,
};

/// The reason why a message can't wait again.
pub(crate) enum CannotWait {
    /// The caller has taken it back, or the producer was closed.
    Cancelled(PendingMessage),
    /// Its time is up.
    Overdue(PendingMessage),
}

impl Unacknowledged {
    /// Keeps a new message until it can be handed to a connection.
    pub(crate) fn add_waiting(&self, topic: Arc<TopicState>, pending: PendingMessage) -> Token {
        topic.counts.queued.fetch_add(1, Ordering::Relaxed);
        let shard_number = own_shard();
        let mut shard = self.shards[shard_number % SHARDS].lock();
        let token = shard.next(shard_number);
        shard.add(token, Entry { state: State::Waiting { pending, topic }, waker: None });
        token
    }

    /// Keeps a message on that was taken in hand.
    ///
    /// # Errors
    /// Gives it back if it was cancelled meanwhile.
    pub(crate) fn wait_again(
        &self,
        token: Token,
        topic: Arc<TopicState>,
        pending: PendingMessage,
    ) -> Result<(), CannotWait> {
        let is_overdue = Instant::now() >= pending.deadline();
        let mut shard = self.shard(token);
        if shard.is_cancelled(token) || self.is_closed() {
            return Err(CannotWait::Cancelled(pending));
        }
        if is_overdue {
            return Err(CannotWait::Overdue(pending));
        }
        if let Some(entry) = shard.get_mut(token) {
            topic.counts.queued.fetch_add(1, Ordering::Relaxed);
            entry.state = State::Waiting { pending, topic };
        }
        Ok(())
    }

    /// Takes a waiting message, to send it, have it wait again, or complete it. None if it is complete, or
    /// another thread has taken it.
    pub(crate) fn take_waiting(&self, token: Token) -> Option<(PendingMessage, Arc<TopicState>)> {
        self.take_waiting_if(token, |_, _| true)
    }

    /// The same if it is a `wanted` one.
    pub(crate) fn take_waiting_if(
        &self,
        token: Token,
        wanted: impl FnOnce(&PendingMessage, &TopicState) -> bool,
    ) -> Option<(PendingMessage, Arc<TopicState>)> {
        let mut shard = self.shard(token);
        let entry = shard.get_mut(token)?;
        match std::mem::replace(&mut entry.state, State::Taken) {
            State::Waiting { pending, topic } if wanted(&pending, &topic) => {
                topic.counts.queued.fetch_sub(1, Ordering::Relaxed);
                Some((pending, topic))
            }
            other => {
                entry.state = other;
                None
            }
        }
    }

    /// Returns a waiting message that was not accepted.
    pub(crate) fn refuse_waiting(
        &self,
        token: Token,
        pending: PendingMessage,
        topic: &Arc<TopicState>,
        error: SendError,
    ) -> SendError {
        let (entry, mark) = {
            let mut shard = self.shard(token);
            let (mark, _) = shard.ended(token);
            (shard.remove(token), mark)
        };
        drop(entry);
        let mut effects = Effects::of_refused();
        effects.flushed(mark);
        let error = self.settle_failure(error, topic, None, pending, &mut effects);
        self.run_effects(&mut effects);
        error
    }

    /// Ends a message that was taken in hand: it could not be sent.
    pub(crate) fn fail_waiting_message(
        &self,
        token: Token,
        topic: &Arc<TopicState>,
        pending: PendingMessage,
        error: SendError,
    ) {
        let mut effects = Effects::default();
        let error = self.settle_failure(error, topic, None, pending, &mut effects);
        self.fail(&mut self.shard(token), token, error, &mut effects);
        self.run_effects(&mut effects);
    }

    /// Takes a message back that was not handed to a connection yet. Else it goes on unwatched.
    pub(crate) fn cancel(&self, token: Token) {
        self.shard(token).cancel(token);
        if let Some((pending, topic)) = self.take_waiting(token) {
            self.timers.cancel(pending.deadline(), Timer::Deadline(token, pending.attempts_before));
            let error = SendError::closed(&topic.topic);
            self.leave_queue(token, &topic);
            self.fail_waiting_message(token, &topic, pending, error);
        }
        self.unwatch(token);
    }

    /// Takes a message out of the queue that it waits in, and has those behind it looked at.
    pub(crate) fn leave_queue(&self, token: Token, topic: &TopicState) -> Option<WaitReason> {
        let (reason, requests) = topic.waits.leave(token)?;
        if let Some(submitter) = self.submitter() {
            submitter.forget(requests);
            submitter.serve(&topic.waits, reason, None);
        }
        Some(reason)
    }

    /// Fails a message that waits.
    pub(crate) fn fail_one_waiting(&self, token: Token, error: impl Fn(&Topic) -> SendError) {
        let Some((pending, topic)) = self.take_waiting(token) else { return };
        let error = error(&topic.topic);
        self.leave_queue(token, &topic);
        self.fail_waiting_message(token, &topic, pending, error);
    }

    /// Fails all messages that wait.
    pub(crate) fn fail_waiting(&self, error: impl Fn(&Topic) -> SendError) {
        for token in self.tokens(|state| matches!(state, State::Waiting { .. })) {
            let Some((pending, topic)) = self.take_waiting(token) else { continue };
            let error = error(&topic.topic);
            if let (Some((_, requests)), Some(submitter)) = (topic.waits.leave(token), self.submitter()) {
                submitter.forget(requests);
            }
            self.fail_waiting_message(token, &topic, pending, error);
        }
    }
}
