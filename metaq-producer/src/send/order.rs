//! Sending in order: one message at a time in each partition.
//!
//! A broker stores messages of one partition that are in flight at the same time in any order (protocol
//! §1.2), so the order in which messages were accepted is kept only by waiting for each answer (K-50). A
//! message is decided for a partition when it is accepted, and stays in line there until it was answered:
//! also while its broker is away, and while it waits for capacity or for its next attempt. Where the selector
//! leaves the choice, that is a partition whose turn is free, or else the one with the shortest line, so that
//! a broker that is silent isn't given the capacity of all.

use std::{collections::hash_map::Entry, sync::Arc, time::Duration};

use metaq_protocol::Partition;
use metaq_transport::Reservation;
use tokio::time::Instant;

use crate::{
    route::{
        topic_state::{Route, TopicState},
        wait_queue::WaitReason,
    },
    send::{
        deferred::{self, Step},
        submit::{NotSubmitted, Submitter, Wait},
        timers::Timer,
        unacknowledged::{Submission, Unacknowledged},
    },
    token::Token,
};

/// The largest number of partitions that a selector is asked for, to find one in which few messages wait.
const MOST_CHOICES: usize = 8;

impl Submitter {
    /// Sends a message if it has the turn in its partition, or can take it.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub(crate) fn try_send_in_order(
        &self,
        topic: &Arc<TopicState>,
        submission: &mut Submission,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
    ) -> Result<Token, NotSubmitted> {
        let route = topic.route();
        if topic.is_withdrawn() {
            return Err(NotSubmitted::Never(self.withdrawn(topic)));
        }
        let partition = self.decide(topic, &route, submission, token)?;
        let Some(pending) = &mut submission.pending else { return Err(WaitReason::NoBroker.into()) };
        if pending.turn().is_none() {
            if !topic.waits.try_turn(partition) {
                return Err(WaitReason::Turn(partition).into());
            }
            pending.rare().has_turn = true;
        }
        let Some(broker) = route.broker(partition.broker) else {
            topic.ensure_followed();
            return Err(WaitReason::Away(partition.broker).into());
        };
        if route.configured.is_some() && !route.has(partition) {
            topic.ensure_followed();
            return Err(WaitReason::Unnamed(partition).into());
        }
        match self.hand_over(partition, broker, submission, token, reservation) {
            Ok(token) => Ok(token),
            Err(Some(full)) => {
                let reason = WaitReason::Capacity(full.id, full.number);
                Err(NotSubmitted::Wait(Box::new(Wait { reason, full: vec![full] })))
            }
            Err(None) => Err(WaitReason::Away(partition.broker).into()),
        }
    }

    /// The partition that the message goes to: what was decided before, as long as the topic has it.
    fn decide(
        &self,
        topic: &Arc<TopicState>,
        route: &Route,
        submission: &mut Submission,
        token: Option<Token>,
    ) -> Result<Partition, NotSubmitted> {
        let Some(pending) = &mut submission.pending else { return Err(WaitReason::NoBroker.into()) };
        let decided = pending.partition();
        if let Some(decided) = decided {
            let is_absent = || route.absence(decided).is_some();
            if is_absent() || (route.partitions.is_empty() && route.brokers.is_empty()) {
                return Ok(decided);
            }
            if route.has(decided) {
                let now = Instant::now();
                let is_better_elsewhere = pending.turn().is_some()
                    && (pending.rare().was_refused || topic.is_cooling_down(decided, now));
                if !is_better_elsewhere {
                    return Ok(decided);
                }
                // The broker refuses messages for it. It counts as newly accepted where it goes instead.
                match self.select(topic, route, submission, Some(decided))? {
                    Some((other, _)) if other != decided && !topic.is_cooling_down(other, now) => {
                        self.change_partition(topic, submission, other);
                        return Ok(other);
                    }
                    _ => return Ok(decided),
                }
            }
        } else if route.choices().is_empty()
            || (token.is_none() && !topic.waits.is_empty(WaitReason::NoBroker))
        {
            // Those who wait for a broker come before it.
            return Err(self.no_broker(topic));
        }
        let partition = self.first_choice(topic, route, submission)?;
        self.change_partition(topic, submission, partition);
        Ok(partition)
    }

    /// The partition that the selector chooses, another one if that was refused lately or others are before
    /// the message there, and the selector agrees. It may be that of a broker that is away.
    fn first_choice(
        &self,
        topic: &Arc<TopicState>,
        route: &Route,
        submission: &Submission,
    ) -> Result<Partition, NotSubmitted> {
        let now = Instant::now();
        let mut unfit = None;
        // The first of those that are cooling down, and the one with the shortest line of the others.
        let (mut cooling_down, mut shortest): (_, Option<(usize, Partition)>) = (None, None);
        let all = route.choices().len();
        let most = if all == 1 { 1 } else { MOST_CHOICES.min(2 * all) };
        let mut choices = 0;
        while choices < 2 * all && !(shortest.is_some() && choices >= most) {
            choices += 1;
            let partition = match self.select(topic, route, submission, unfit) {
                Ok(Some((partition, broker))) => {
                    if broker.topic_broker.broker.is_cooling_down(now)
                        || topic.is_cooling_down(partition, now)
                    {
                        cooling_down.get_or_insert(partition);
                    } else {
                        let line = topic.waits.line(partition);
                        if line == 0 {
                            return Ok(partition);
                        }
                        if shortest.is_none_or(|(shortest, _)| line < shortest) {
                            shortest = Some((line, partition));
                        }
                    }
                    partition
                }
                Ok(None) => break,
                Err(NotSubmitted::Away(partition, _)) => return Ok(partition),
                Err(not_submitted) => return Err(not_submitted),
            };
            if unfit.replace(partition) == Some(partition) {
                break;
            }
        }
        let chosen = shortest.map(|(_, partition)| partition).or(cooling_down);
        chosen.ok_or_else(|| self.no_broker(topic))
    }

    /// The message goes to another partition from now on, and gives its turn in the old one to the next.
    fn change_partition(&self, topic: &TopicState, submission: &mut Submission, partition: Partition) {
        let Some(pending) = &mut submission.pending else { return };
        let turn = pending.turn();
        let rare = pending.rare();
        (rare.partition, rare.has_turn, rare.was_refused) = (Some(partition), false, false);
        if let Some(turn) = turn {
            self.unacknowledged.pass_turn(topic, turn);
        }
    }
}

impl Unacknowledged {
    /// Gives the turn in a partition to the next message.
    pub(crate) fn pass_turn(&self, topic: &TopicState, partition: Partition) {
        match self.submitter() {
            Some(submitter) => deferred::run(&submitter, &topic.waits, Step::PassTurn(partition)),
            // Nothing is sent any more.
            None => while topic.waits.pass_turn(partition).is_some() {},
        }
    }

    /// Keeps the turn of a message whose answer is late.
    pub(crate) fn keep_turn(&self, token: Token, turn: LateTurn) {
        let mut late = self.late.lock();
        let late = late.entry(token).or_default();
        late.owed += 1;
        late.turn = Some(turn);
    }

    /// The broker is done with an attempt to send a message whose answer was late. Another one may be late by
    /// now, too.
    pub(crate) fn late_attempt_ended(&self, token: Token) {
        let turn = {
            let mut late = self.late.lock();
            let Entry::Occupied(mut entry) = late.entry(token) else { return };
            entry.get_mut().owed -= 1;
            if entry.get().owed > 0 {
                return;
            }
            entry.remove().turn
        };
        if let Some(turn) = turn {
            self.timers.cancel(turn.until, Timer::LateAnswer(token));
            self.release_turn(token, &turn);
        }
    }

    /// Passes on the turn of a message whose answer is late, if it was kept until `now`.
    pub(crate) fn late_turn_ended(&self, token: Token, now: Instant) {
        let turn =
            self.late.lock().get_mut(&token).and_then(|late| late.turn.take_if(|turn| turn.until <= now));
        if let Some(turn) = turn {
            self.release_turn(token, &turn);
        }
    }

    fn release_turn(&self, token: Token, turn: &LateTurn) {
        self.unpin(token);
        turn.topic.forget_refusal(turn.partition);
        self.pass_turn(&turn.topic, turn.partition);
    }
}

/// A message whose answers are late.
#[derive(Default)]
pub(crate) struct Late {
    /// The number of its attempts that the broker isn't done with.
    owed: usize,
    turn: Option<LateTurn>,
}

/// A turn that is kept until the late answer to the message that had it: the broker may still store it, and
/// must not get the next one before.
pub(crate) struct LateTurn {
    pub(crate) topic: Arc<TopicState>,
    pub(crate) partition: Partition,
    /// The time at which it is passed on all the same.
    pub(crate) until: Instant,
}

/// The longest time for which the turn is kept after the message timed out. The connection sends a heartbeat
/// at the timeout: with its default settings it is given up by then if that isn't answered, and a broker that
/// answers that and not the message has lost it.
pub(crate) const LATE_ANSWER: Duration = Duration::from_secs(5);
