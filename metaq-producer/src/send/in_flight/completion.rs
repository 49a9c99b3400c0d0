//! How attempts end, and what follows from it.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use metaq_protocol::Partition;
use metaq_transport::{Answer, Completions, Reservation, TransportError};
use parking_lot::MutexGuard;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Cargo, Entry, Flights, More, SHARDS, State, flush::Flushed};
use crate::{
    CompletedSend, Outcome, SendError, SendReceipt, deadline,
    panics::{contain, contain_each},
    route::{topic_broker::Lane, topic_state::TopicState},
    selector::guarded::Observation,
    send::{
        classify::{Failure, Trouble, judge},
        order::{LATE_ANSWER, LateTurn},
        permits::Returned,
        slab::{Slab, Token},
        span::SendSpan,
        timers::Timer,
        wait_limits::WaitPermit,
    },
};

/// What is to be done when the lock is released again.
#[derive(Default)]
pub(super) struct Tally {
    returned: Returned,
    /// As a rule one task waits for many messages, so there are few.
    wakers: SmallVec<[Waker; 16]>,
    /// Of messages that are no more: the code of their owners may run when they are dropped.
    pub(super) payloads: SmallVec<[Bytes; 64]>,
    /// What nobody asks for any more, likewise.
    errors: Vec<SendError>,
    entries: Vec<Entry>,
    /// Likewise: the last of a topic's takes its selector with it.
    lanes: SmallVec<[Arc<Lane>; 2]>,
    flushed: Flushed,
    again: Vec<(Token, Duration)>,
    /// Messages that have to wait for their turn once more.
    again_in_turn: Vec<(Token, Instant, u32)>,
    /// Partitions whose turn is free.
    turns: Vec<(Arc<TopicState>, Partition)>,
    /// Messages whose turn is kept until their late answer.
    late: Vec<(Token, Instant)>,
    /// Of messages that wait no longer: somebody's task is woken when they are dropped.
    pub(super) permits: SmallVec<[WaitPermit; 1]>,
    /// What selectors want to know.
    observed: Vec<Observation>,
    /// Messages that have ended, where somebody wants to know.
    completed: Vec<(CompletedSend, Option<Box<SendSpan>>)>,
    /// Whether its messages were not accepted.
    is_refused: bool,
}

impl Flights {
    /// Does what could not be done under the lock. Whatever the code of others does, the rest is done.
    pub(super) fn settle(&self, tally: &mut Tally) {
        let returned = std::mem::take(&mut tally.returned);
        contain(|| self.permits.give_back(returned));
        contain(|| self.flushes.ended(&tally.flushed));
        tally.flushed.clear();
        for (token, pause) in tally.again.drain(..) {
            self.set_timer(token, deadline::after(pause), Timer::Attempt(token));
        }
        for (token, deadline, attempts) in tally.again_in_turn.drain(..) {
            self.set_timer(token, deadline, Timer::Deadline(token, attempts));
        }
        for (token, until) in tally.late.drain(..) {
            if !self.timers.set(until, Timer::LateAnswer(token), &self.weak_launcher()) {
                self.late_turn_ended(token, until);
            }
        }
        tally.turns.drain(..).for_each(|(topic, partition)| self.pass_turn(&topic, partition));
        contain_each(tally.permits.drain(..), drop);
        contain_each(tally.observed.drain(..), |observation| observation.tell());
        let is_refused = tally.is_refused;
        tally.completed.drain(..).for_each(|(send, span)| {
            if let Some(mut span) = span {
                span.end(&send);
            }
            if !is_refused {
                self.interceptors.after(&send);
            }
        });
        contain_each(tally.wakers.drain(..), Waker::wake);
        // One whose destructor panics leaves the rest for the next turn.
        while !tally.payloads.is_empty() {
            contain(|| tally.payloads.clear());
        }
        contain_each(tally.errors.drain(..), drop);
        contain_each(tally.entries.drain(..), drop);
        contain_each(tally.lanes.drain(..), drop);
    }

    /// Sets a timer for a message that waits, or ends it if nobody would see to it.
    fn set_timer(&self, token: Token, at: Instant, timer: Timer) {
        let is_set = !self.is_closed() && self.timers.set(at, timer, &self.weak_launcher());
        if !is_set && let Some((cargo, topic)) = self.take_parked(token) {
            let closed = self.is_closed() || self.launcher().is_none();
            let error = if closed { SendError::closed } else { SendError::runtime_ended };
            self.leave_queue(token, &topic);
            self.fail_parked(token, &topic, cargo, error(&topic.topic));
        }
    }

    /// An attempt failed: parks the message for another one, or ends it.
    fn attempt_failed(&self, mut failure: Failure, shard: &mut Slab<Entry>, token: Token, tally: &mut Tally) {
        if self.is_closed() {
            failure.error = failure.error.of_closed_producer();
        }
        let Some(entry) = shard.get_mut(token) else { return };
        let State::Flying { mut cargo, lane, partition } = std::mem::replace(&mut entry.state, State::Taken)
        else {
            return;
        };
        let now = Instant::now();
        match failure.trouble {
            Trouble::None => {}
            Trouble::Partition => {
                lane.topic.refused(partition, now);
                if lane.topic.is_ordered {
                    cargo.more().was_refused = true;
                }
            }
            Trouble::Broker => lane.broker.failed(now),
        }
        let attempts = cargo.attempts_before + 1;
        let pause = self.policy.pause(attempts);
        let again = failure.is_retried(&self.policy, attempts)
            && deadline::at(now, pause) < cargo.deadline()
            && !lane.topic.is_withdrawn()
            && !self.is_closed();
        let is_late = failure.is_late && cargo.turn().is_some();
        if is_late {
            // The broker may still store it: whoever is next in the partition has to wait for that, and who can go
            // elsewhere had better.
            lane.topic.refused(partition, now);
            cargo.more().has_turn = false;
            shard.pin(token);
            let until = deadline::at(now, LATE_ANSWER);
            self.keep_turn(token, LateTurn { topic: Arc::clone(&lane.topic), partition, until });
            tally.late.push((token, until));
        }
        if again {
            lane.counts.retried.fetch_add(1, Ordering::Relaxed);
            cargo.attempts_before = attempts;
            let after = now.saturating_duration_since(cargo.started);
            let attempt = failure.error.into_attempt(after, partition, lane.broker.addr.clone());
            cargo.more().failed.push(attempt);
            lane.topic.counts.queued.fetch_add(1, Ordering::Relaxed);
            if is_late {
                lane.topic.waits.join_first(token, partition);
                tally.again_in_turn.push((token, cargo.deadline(), attempts));
            } else {
                tally.again.push((token, pause));
            }
            if let Some(entry) = shard.get_mut(token) {
                entry.state = State::Parked { cargo, topic: Arc::clone(&lane.topic) };
            }
        } else {
            let error = self.failed(failure.error, &lane.topic, Some(&lane), cargo, tally);
            fail(shard, token, error, tally);
        }
        tally.keep(lane);
    }
}

impl Completions for Flights {
    fn ended(&self, ended: &mut Vec<(u64, Result<Answer, TransportError>)>) {
        let mut tally = Tally::default();
        let mut locked: Option<(usize, MutexGuard<'_, Slab<Entry>>)> = None;
        for (token, outcome) in ended.drain(..) {
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
            self.attempt_ended(&mut shard, token, outcome, &mut tally);
            locked = Some((place, shard));
        }
        drop(locked);
        self.settle(&mut tally);
    }

    fn capacity(&self, number: u64, granted: Result<Reservation, TransportError>) {
        if let Some(launcher) = self.launcher() {
            launcher.answered(number, granted);
        }
    }

    fn released(&self, tokens: &mut Vec<u64>) {
        tokens.drain(..).for_each(|token| self.late_attempt_ended(Token::from(token)));
    }
}

impl Flights {
    fn attempt_ended(
        &self,
        shard: &mut Slab<Entry>,
        token: Token,
        outcome: Result<Answer, TransportError>,
        tally: &mut Tally,
    ) {
        let Some(entry) = shard.get_mut(token) else { return };
        let State::Flying { cargo, lane, partition } = &mut entry.state else { return };
        let verdict = judge(lane, cargo.message.topic(), *partition, outcome);
        if let Some(launched) = cargo.more.as_ref().and_then(|more| more.launched) {
            let (ended, outcome) = match &verdict {
                Ok((_, received_at)) => (*received_at, Ok(())),
                Err(failure) => (Instant::now(), Err(failure.error.outcome())),
            };
            let latency = ended.saturating_duration_since(launched);
            let topic = Arc::clone(&lane.topic);
            tally.observed.push(Observation { topic, partition: *partition, latency, outcome });
        }
        let (place, received_at) = match verdict {
            Ok(stored) => stored,
            Err(failure) => return self.attempt_failed(*failure, shard, token, tally),
        };
        if self.is_watched(cargo) {
            let stored_in = Partition { broker: partition.broker, index: place.partition };
            self.complete(cargo, Some(stored_in), Ok(()), cargo.attempts_before + 1, tally);
        }
        lane.broker.worked();
        lane.counts.latencies.record(received_at.saturating_duration_since(cargo.started));
        self.closing.ended(Ok(()), &cargo.message);
        tally.give_back(&lane.topic, cargo);
        tally.payloads.push(cargo.message.take_payload());
        tally.keep_alive(lane);
        let (broker_id, broker) = (partition.broker, lane.broker.addr.clone());
        let attempts = cargo.attempts_before + 1;
        let (flush, entry) = shard.ended(token);
        tally.flushed(flush);
        let Some(entry) = entry else {
            tally.entries.extend(shard.remove(token));
            return;
        };
        // First the message goes, then the receipt is made where it stays: a move would have to wait for what it is made of.
        entry.state = State::Taken;
        entry.state = State::Ended(Some(Ok(SendReceipt {
            partition: Partition { broker: broker_id, index: place.partition },
            message_id: place.message_id,
            offset: place.offset,
            broker,
            attempts,
        })));
        tally.wakers.extend(entry.waker.take());
    }
}

impl Flights {
    /// Whether anybody wants to know how the message ends, beside its handle.
    #[inline]
    pub(super) fn is_watched(&self, cargo: &Cargo) -> bool {
        !self.interceptors.is_empty() || cargo.more.as_ref().is_some_and(|more| more.span.is_some())
    }

    /// Notes how a message has ended for those who want to know.
    #[cold]
    pub(super) fn complete(
        &self,
        cargo: &mut Cargo,
        partition: Option<Partition>,
        outcome: Result<(), Outcome>,
        attempts: u32,
        tally: &mut Tally,
    ) {
        let topic = cargo.message.topic().clone();
        let elapsed = cargo.started.elapsed();
        let send = CompletedSend { topic, partition, outcome, attempts, elapsed };
        tally.completed.push((send, cargo.take_span()));
    }
}

/// Keeps the error for the handle, if there still is one.
pub(super) fn fail(shard: &mut Slab<Entry>, token: Token, error: SendError, tally: &mut Tally) {
    let (flush, entry) = shard.ended(token);
    tally.flushed(flush);
    let Some(entry) = entry else {
        tally.entries.extend(shard.remove(token));
        tally.errors.push(error);
        return;
    };
    entry.state = State::Ended(Some(Err(error)));
    tally.wakers.extend(entry.waker.take());
}

impl Tally {
    /// For messages that were not accepted.
    pub(super) fn of_refused() -> Self {
        Self { is_refused: true, ..Self::default() }
    }

    /// The message has its outcome: what it held is free again.
    pub(super) fn give_back(&mut self, topic: &Arc<TopicState>, cargo: &Cargo) {
        self.returned.add(cargo.share);
        if let Some(More { partition: Some(partition), has_turn: true, .. }) = cargo.more.as_deref() {
            self.turns.push((Arc::clone(topic), *partition));
        }
    }

    /// Sees to it that a lane isn't dropped under the lock.
    #[inline]
    fn keep_alive(&mut self, lane: &Arc<Lane>) {
        if !self.lanes.last().is_some_and(|last| Arc::ptr_eq(last, lane)) {
            self.keep_another_alive(lane);
        }
    }

    fn keep_another_alive(&mut self, lane: &Arc<Lane>) {
        // Those that take turns are few.
        match self.lanes.iter().rev().take(8).position(|known| Arc::ptr_eq(known, lane)) {
            Some(place) => {
                let last = self.lanes.len() - 1;
                self.lanes.swap(last - place, last);
            }
            None => self.lanes.push(Arc::clone(lane)),
        }
    }

    pub(super) fn keep(&mut self, lane: Arc<Lane>) {
        self.lanes.push(lane);
    }

    /// A message has its outcome that a flush has marked so.
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
