//! How attempts end, and what follows from it.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use metaq_protocol::Partition;
use metaq_transport::{Answer, Completions, TransportError};
use parking_lot::MutexGuard;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Cargo, Entry, Flights, More, SHARDS, State};
use crate::{
    SendError, SendReceipt,
    guarded_selector::Observation,
    lane::Broker,
    permits::Returned,
    route::TopicState,
    slab::{Slab, Token},
    verdict::{Failure, Trouble, judge},
};

/// What is to be done when the lock is released again.
#[derive(Default)]
pub(super) struct Tally {
    returned: Returned,
    /// As a rule one task waits for many messages, so there are few.
    wakers: SmallVec<[Waker; 16]>,
    again: Vec<(Token, Duration)>,
    /// Where room or a turn was freed that somebody waits for.
    roomy: Vec<Arc<Broker>>,
    turns: Vec<(Arc<TopicState>, Partition)>,
    /// What selectors want to know.
    observed: Vec<Observation>,
}

impl Flights {
    pub(super) fn settle(&self, tally: &mut Tally) {
        self.permits.give_back(std::mem::take(&mut tally.returned));
        for (token, pause) in tally.again.drain(..) {
            if !self.inbox.again(token, pause) {
                self.fail_undispatched(token);
            }
        }
        tally.roomy.drain(..).for_each(|broker| self.inbox.room(broker));
        tally.turns.drain(..).for_each(|(topic, partition)| self.inbox.turn(topic, partition));
        tally.observed.drain(..).for_each(Observation::tell);
        tally.wakers.drain(..).for_each(Waker::wake);
    }

    /// An attempt failed: parks the message for another one, or ends it.
    fn attempt_failed(&self, failure: Failure, shard: &mut Slab<Entry>, token: Token, tally: &mut Tally) {
        let Some(entry) = shard.get_mut(token) else { return };
        let State::Flying { mut cargo, lane, partition } = std::mem::replace(&mut entry.state, State::Taken)
        else {
            return;
        };
        let now = Instant::now();
        match failure.trouble {
            Trouble::None => {}
            Trouble::Partition => lane.topic.refused(partition, now),
            Trouble::Broker => lane.broker.failed(now),
        }
        let attempts = cargo.attempts_before + 1;
        let pause = self.policy.pause(attempts);
        let again = failure.is_retried(&self.policy, attempts)
            && now + pause < cargo.deadline()
            && !lane.topic.is_withdrawn()
            && self.is_dispatched();
        if !again {
            let error = self.failed(failure.error, &lane.topic, Some(&lane), cargo, tally);
            return fail(shard, token, error, tally);
        }
        lane.counts.retried.fetch_add(1, Ordering::Relaxed);
        cargo.attempts_before = attempts;
        let after = now - cargo.started;
        let attempt = failure.error.into_attempt(after, partition, lane.broker.addr.clone());
        cargo.more().failed.push(attempt);
        tally.again.push((token, pause));
        lane.topic.counts.queued.fetch_add(1, Ordering::Relaxed);
        entry.state = State::Parked { cargo, topic: Arc::clone(&lane.topic) };
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
        let State::Flying { cargo, lane, partition } = &entry.state else { return };
        let broker = &lane.broker;
        if broker.parked.load(Ordering::Acquire) > 0
            && !tally.roomy.iter().any(|roomy| Arc::ptr_eq(roomy, broker))
        {
            tally.roomy.push(Arc::clone(broker));
        }
        let verdict = judge(lane, *partition, outcome);
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
        lane.broker.worked();
        lane.counts.latencies.record(received_at.saturating_duration_since(cargo.started));
        self.closing.ended(Ok(()), &cargo.message);
        tally.give_back(&lane.topic, cargo);
        let (broker_id, broker) = (partition.broker, lane.broker.addr.clone());
        let attempts = cargo.attempts_before + 1;
        if !shard.is_held(token) {
            return shard.remove(token);
        }
        let Some(entry) = shard.get_mut(token) else { return };
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

/// Keeps the error for the handle, if there still is one.
pub(super) fn fail(shard: &mut Slab<Entry>, token: Token, error: SendError, tally: &mut Tally) {
    if !shard.is_held(token) {
        return shard.remove(token);
    }
    let Some(entry) = shard.get_mut(token) else { return };
    entry.state = State::Ended(Some(Err(error)));
    tally.wakers.extend(entry.waker.take());
}

impl Tally {
    /// The message has its outcome: what it held is free again.
    pub(super) fn give_back(&mut self, topic: &Arc<TopicState>, cargo: &Cargo) {
        self.returned.add(cargo.share);
        if let Some(More { partition: Some(partition), has_turn: true, .. }) = cargo.more.as_deref()
            && let Some(order) = &topic.order
            && order.give_back(*partition)
        {
            self.turns.push((Arc::clone(topic), *partition));
        }
    }
}
