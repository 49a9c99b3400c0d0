//! The ends of attempts: what becomes of the message, its outcome, successful or not, and the effects that
//! run when no lock is held.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use metaq_protocol::Partition;
use metaq_transport::{Completions, ReceivedResponse, Reservation, TransportError};
use parking_lot::MutexGuard;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Entry, PendingMessage, RareState, SHARDS, State, Unacknowledged, flush::Flushed};
use crate::{
    Outcome, SendError, SendReceipt, deadline,
    error::FailedAttempt,
    failure::Notice,
    interceptor::CompletedSend,
    panics::{contain, contain_each},
    route::{guarded_selector::Observation, topic_broker::TopicBroker, topic_state::TopicState},
    send::{
        classify::{Blame, Failure, classify_attempt},
        order::{LATE_ANSWER, LateTurn},
        permits::Returned,
        slab::Slab,
        span::SendSpan,
        timers::Timer,
        wait_limits::WaitPermit,
    },
    token::Token,
};

/// The effects of ends, which are run when the lock is released.
#[derive(Default)]
pub(super) struct Effects {
    returned: Returned,
    /// As a rule one task waits for many messages, so there are few.
    wakers: SmallVec<[Waker; 16]>,
    /// Of messages that are no more: the code of their owners may run when they are dropped.
    pub(super) payloads: SmallVec<[Bytes; 64]>,
    /// Errors that no handle asks for any more, likewise; those of offered messages go to the failure
    /// handler.
    errors: Vec<(SendError, Option<Notice>)>,
    entries: Vec<Entry>,
    /// Likewise: the last of a topic's takes its selector with it.
    topic_brokers: SmallVec<[Arc<TopicBroker>; 2]>,
    flushed: Flushed,
    again: Vec<(Token, Duration)>,
    /// Messages that have to wait for their turn once more.
    again_in_turn: Vec<(Token, Instant, u32)>,
    /// Partitions whose turn is free.
    turns: Vec<(Arc<TopicState>, Partition)>,
    /// Messages whose turn is kept until their late answer.
    late: Vec<(Token, Instant)>,
    /// Permits of messages that wait no longer: dropping them wakes tasks.
    pub(super) permits: SmallVec<[WaitPermit; 1]>,
    /// The observations that selectors asked for.
    observed: Vec<Observation>,
    /// Completed messages that interceptors watch.
    completed: Vec<(CompletedSend, Option<Box<SendSpan>>)>,
    /// Whether its messages were not accepted.
    is_refused: bool,
}

impl Unacknowledged {
    /// Runs what can't be done under the lock. A panic in the code of others keeps nothing else from being
    /// done.
    pub(super) fn run_effects(&self, effects: &mut Effects) {
        let returned = std::mem::take(&mut effects.returned);
        contain(|| self.permits.give_back(returned));
        contain(|| self.flushes.ended(&effects.flushed));
        effects.flushed.clear();
        for (token, pause) in effects.again.drain(..) {
            self.set_timer(token, deadline::after(pause), Timer::Attempt(token));
        }
        for (token, deadline, attempts) in effects.again_in_turn.drain(..) {
            self.set_timer(token, deadline, Timer::Deadline(token, attempts));
        }
        for (token, until) in effects.late.drain(..) {
            if !self.timers.set(until, Timer::LateAnswer(token), &self.weak_submitter()) {
                self.late_turn_ended(token, until);
            }
        }
        effects.turns.drain(..).for_each(|(topic, partition)| self.pass_turn(&topic, partition));
        contain_each(effects.permits.drain(..), drop);
        contain_each(effects.observed.drain(..), |observation| observation.deliver());
        let is_refused = effects.is_refused;
        effects.completed.drain(..).for_each(|(send, span)| {
            if let Some(mut span) = span {
                span.end(&send);
            }
            if !is_refused {
                self.interceptors.after(&send);
            }
        });
        contain_each(effects.wakers.drain(..), Waker::wake);
        // One whose destructor panics leaves the rest for the next turn.
        while !effects.payloads.is_empty() {
            contain(|| effects.payloads.clear());
        }
        contain_each(effects.errors.drain(..), |(error, notice)| match notice {
            Some(notice) => self.failures.deliver(error, notice),
            None => drop(error),
        });
        contain_each(effects.entries.drain(..), drop);
        contain_each(effects.topic_brokers.drain(..), drop);
    }

    /// Sets a timer for a message that waits, or completes it if no task keeps timers.
    fn set_timer(&self, token: Token, at: Instant, timer: Timer) {
        let is_set = !self.is_closed() && self.timers.set(at, timer, &self.weak_submitter());
        if !is_set && let Some((pending, topic)) = self.take_waiting(token) {
            let closed = self.is_closed() || self.submitter().is_none();
            let error = if closed { SendError::closed } else { SendError::runtime_ended };
            self.leave_queue(token, &topic);
            self.fail_waiting_message(token, &topic, pending, error(&topic.topic));
        }
    }

    /// Handles a failed attempt: the message waits for another one, or has its outcome.
    fn attempt_failed(
        &self,
        mut failure: Failure,
        shard: &mut Slab<Entry>,
        token: Token,
        effects: &mut Effects,
    ) {
        if self.is_closed() {
            failure.error = failure.error.of_closed_producer();
        }
        let Some(entry) = shard.get_mut(token) else { return };
        let State::InFlight { mut pending, topic_broker, partition } =
            std::mem::replace(&mut entry.state, State::Taken)
        else {
            return;
        };
        let now = Instant::now();
        match failure.blame {
            Blame::None => {}
            Blame::Partition => {
                topic_broker.topic.refused(partition, now);
                if topic_broker.topic.is_ordered {
                    pending.rare().was_refused = true;
                }
            }
            Blame::Broker => topic_broker.broker.failed(now),
        }
        let attempts = pending.attempts_before + 1;
        let pause = self.policy.backoff(attempts);
        let again = failure.is_retried(&self.policy, attempts)
            && deadline::at(now, pause) < pending.deadline()
            && !topic_broker.topic.is_withdrawn()
            && !self.is_closed();
        let is_late = failure.is_late && pending.turn().is_some();
        if is_late {
            // The broker may still store it: the next message of the partition waits for that, and one that
            // can go elsewhere had better.
            topic_broker.topic.refused(partition, now);
            pending.rare().has_turn = false;
            shard.pin(token);
            let until = deadline::at(now, LATE_ANSWER);
            self.keep_turn(token, LateTurn { topic: Arc::clone(&topic_broker.topic), partition, until });
            effects.late.push((token, until));
        }
        if again {
            topic_broker.counts.retried.fetch_add(1, Ordering::Relaxed);
            pending.attempts_before = attempts;
            let after = now.saturating_duration_since(pending.started);
            let attempt = failure.error.into_attempt(after, partition, topic_broker.broker.addr.clone());
            pending.rare().failed.push(attempt);
            topic_broker.topic.counts.queued.fetch_add(1, Ordering::Relaxed);
            if is_late {
                topic_broker.topic.waits.join_first(token, partition);
                effects.again_in_turn.push((token, pending.deadline(), attempts));
            } else {
                effects.again.push((token, pause));
            }
            if let Some(entry) = shard.get_mut(token) {
                entry.state = State::Waiting { pending, topic: Arc::clone(&topic_broker.topic) };
            }
        } else {
            let error = self.settle_failure(
                failure.error,
                &topic_broker.topic,
                Some(&topic_broker),
                pending,
                effects,
            );
            self.fail(shard, token, error, effects);
        }
        effects.keep(topic_broker);
    }
}

impl Completions for Unacknowledged {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        let mut effects = Effects::default();
        let mut locked: Option<(usize, MutexGuard<'_, Slab<Entry>>)> = None;
        for (token, outcome) in completed.drain(..) {
            let token = Token::from(token);
            let place = token.shard() % SHARDS;
            let mut shard = match locked.take() {
                Some((locked, shard)) if locked == place => shard,
                // Released before the next one is taken.
                other => {
                    drop(other);
                    self.shards[place].lock()
                }
            };
            self.attempt_ended(&mut shard, token, outcome, &mut effects);
            locked = Some((place, shard));
        }
        drop(locked);
        self.run_effects(&mut effects);
    }

    fn capacity(&self, number: u64, granted: Result<Reservation, TransportError>) {
        if let Some(submitter) = self.submitter() {
            submitter.answered(number, granted);
        }
    }

    fn released(&self, tokens: &mut Vec<u64>) {
        tokens.drain(..).for_each(|token| self.late_attempt_ended(Token::from(token)));
    }
}

impl Unacknowledged {
    fn attempt_ended(
        &self,
        shard: &mut Slab<Entry>,
        token: Token,
        outcome: Result<ReceivedResponse, TransportError>,
        effects: &mut Effects,
    ) {
        let Some(entry) = shard.get_mut(token) else { return };
        let State::InFlight { pending, topic_broker, partition } = &mut entry.state else { return };
        let verdict = classify_attempt(topic_broker, pending.message.topic(), *partition, outcome);
        if let Some(submitted_at) = pending.rare.as_ref().and_then(|rare| rare.submitted_at) {
            let (ended, outcome) = match &verdict {
                Ok((_, received_at)) => (*received_at, Ok(())),
                Err(failure) => (Instant::now(), Err(failure.error.outcome())),
            };
            let latency = ended.saturating_duration_since(submitted_at);
            let topic = Arc::clone(&topic_broker.topic);
            effects.observed.push(Observation { topic, partition: *partition, latency, outcome });
        }
        let (place, received_at) = match verdict {
            Ok(stored) => stored,
            Err(failure) => return self.attempt_failed(*failure, shard, token, effects),
        };
        if self.has_observers(pending) {
            let stored_in = Partition { broker: partition.broker, index: place.partition };
            self.note_for_observers(pending, Some(stored_in), Ok(()), pending.attempts_before + 1, effects);
        }
        topic_broker.broker.worked();
        topic_broker.counts.acknowledged(received_at.saturating_duration_since(pending.started));
        self.closing.ended(Ok(()), &pending.message);
        effects.give_back(&topic_broker.topic, pending);
        effects.payloads.push(pending.message.take_payload());
        effects.keep_alive(topic_broker);
        let (broker_id, broker) = (partition.broker, topic_broker.broker.addr.clone());
        let attempts = pending.attempts_before + 1;
        let (flush, entry) = shard.ended(token);
        effects.flushed(flush);
        let Some(entry) = entry else {
            effects.entries.extend(shard.remove(token));
            return;
        };
        // First the message is dropped, then the receipt is made where it stays: a copy of it would wait
        // until the stores of its parts are in the cache.
        entry.state = State::Taken;
        entry.state = State::Ended(Some(Ok(SendReceipt {
            partition: Partition { broker: broker_id, index: place.partition },
            message_id: place.message_id,
            offset: place.offset,
            broker,
            attempts,
        })));
        effects.wakers.extend(entry.waker.take());
    }
}

impl Unacknowledged {
    /// Completes a message that failed: notes it for observers, counts it, gives its capacity, permit and
    /// turn back, and returns its error with the attempts before, and with the message if it isn't stored.
    pub(super) fn settle_failure(
        &self,
        error: SendError,
        topic: &Arc<TopicState>,
        topic_broker: Option<&TopicBroker>,
        mut pending: PendingMessage,
        effects: &mut Effects,
    ) -> SendError {
        if self.has_observers(&pending) {
            let attempts = pending.attempts_before + u32::from(topic_broker.is_some());
            // An earlier attempt may have stored it.
            let is_unknown = pending.rare.as_ref().is_some_and(|rare| rare.may_be_stored());
            let outcome = if is_unknown { Outcome::Unknown } else { error.outcome() };
            let last = pending.rare.as_ref().and_then(|rare| rare.failed.last());
            let partition = error.partition().or_else(|| Some(last?.partition));
            self.note_for_observers(&mut pending, partition, Err(outcome), attempts, effects);
        }
        let (attempts, permit) = match pending.rare.as_mut() {
            Some(rare) => (std::mem::take(&mut rare.failed), rare.permit.take()),
            None => (Vec::new(), None),
        };
        effects.permits.extend(permit);
        let unknown = attempts.iter().any(FailedAttempt::may_be_stored);
        let last_attempt = topic_broker.map(|_| error.outcome());
        let error = if unknown { error.with_outcome(Outcome::Unknown) } else { error };
        topic.counts.failed_after(
            error.outcome(),
            topic_broker.map(|topic_broker| &*topic_broker.counts),
            last_attempt,
            &attempts,
        );
        // What was taken back is returned by that call, and isn't in the account of closing as well.
        if !error.is_taken_back() {
            self.closing.ended(Err(error.outcome()), &pending.message);
        }
        effects.give_back(topic, &pending);
        let error = error.with_attempts(attempts);
        if error.outcome() == Outcome::Unknown {
            if self.failures.is_handled() {
                return error.with_any_message(pending.message);
            }
            effects.payloads.push(pending.message.take_payload());
            return error;
        }
        error.with_message(pending.message)
    }

    /// Keeps the error for the handle, if there still is one.
    pub(super) fn fail(
        &self,
        shard: &mut Slab<Entry>,
        token: Token,
        error: SendError,
        effects: &mut Effects,
    ) {
        let (flush, entry) = shard.ended(token);
        effects.flushed(flush);
        let Some(entry) = entry else {
            // What was taken back is in other hands.
            let is_handled = shard.is_offered(token) && !error.is_taken_back();
            let notice = if is_handled { self.failures.announce() } else { None };
            effects.entries.extend(shard.remove(token));
            effects.errors.push((error, notice));
            return;
        };
        entry.state = State::Ended(Some(Err(error)));
        effects.wakers.extend(entry.waker.take());
    }

    /// Whether an interceptor or a span receives the outcome, beside the handle.
    #[inline]
    pub(super) fn has_observers(&self, pending: &PendingMessage) -> bool {
        !self.interceptors.is_empty() || pending.rare.as_ref().is_some_and(|rare| rare.span.is_some())
    }

    /// Notes the outcome of a message for interceptors and its span.
    #[cold]
    pub(super) fn note_for_observers(
        &self,
        pending: &mut PendingMessage,
        partition: Option<Partition>,
        outcome: Result<(), Outcome>,
        attempts: u32,
        effects: &mut Effects,
    ) {
        let topic = pending.message.topic().clone();
        let elapsed = pending.started.elapsed();
        let send = CompletedSend { topic, partition, outcome, attempts, elapsed };
        effects.completed.push((send, pending.take_span()));
    }
}

impl Effects {
    /// For messages that were not accepted.
    pub(super) fn of_refused() -> Self {
        Self { is_refused: true, ..Self::default() }
    }

    /// The message has its outcome: what it held is free again.
    pub(super) fn give_back(&mut self, topic: &Arc<TopicState>, pending: &PendingMessage) {
        self.returned.add(pending.share);
        if let Some(RareState { partition: Some(partition), has_turn: true, .. }) = pending.rare.as_deref() {
            self.turns.push((Arc::clone(topic), *partition));
        }
    }

    /// Keeps a topic's broker from being dropped under the lock.
    #[inline]
    fn keep_alive(&mut self, topic_broker: &Arc<TopicBroker>) {
        if !self.topic_brokers.last().is_some_and(|last| Arc::ptr_eq(last, topic_broker)) {
            self.keep_another_alive(topic_broker);
        }
    }

    fn keep_another_alive(&mut self, topic_broker: &Arc<TopicBroker>) {
        // Few topic brokers alternate.
        match self.topic_brokers.iter().rev().take(8).position(|known| Arc::ptr_eq(known, topic_broker)) {
            Some(place) => {
                let last = self.topic_brokers.len() - 1;
                self.topic_brokers.swap(last - place, last);
            }
            None => self.topic_brokers.push(Arc::clone(topic_broker)),
        }
    }

    pub(super) fn keep(&mut self, topic_broker: Arc<TopicBroker>) {
        self.topic_brokers.push(topic_broker);
    }

    /// Counts a completed message for the flush that marked it.
    #[inline]
    pub(super) fn flushed(&mut self, mark: u16) {
        if mark == 0 {
            return;
        }
        match self.flushed.iter_mut().find(|(known, _)| *known == mark) {
            Some((_, messages)) => *messages += 1,
            None => self.flushed.push((mark, 1)),
        }
    }
}
