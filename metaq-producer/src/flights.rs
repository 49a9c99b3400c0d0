//! The messages that belong to the producer: from when they are accepted until their outcome was taken.

mod cargo;
mod ended;

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use metaq_protocol::Partition;
use metaq_transport::{Completions, Connection, Ticket, TransportError};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

pub(crate) use cargo::{Cargo, Millis, More, Offer};
use ended::{Tally, fail};

use crate::{
    Outcome, SendError, SendReceipt,
    closing::Closing,
    dispatcher::Inbox,
    lane::Lane,
    permits::Permits,
    retry::RetryPolicy,
    route::TopicState,
    slab::{Slab, Token},
};

/// Messages are spread over so many locks, so that threads seldom meet.
const SHARDS: usize = 16;

/// All messages of a producer that have no outcome yet, or one that nobody has taken yet.
///
/// A message belongs to the producer, not to whoever waits for it: it has its outcome, gives its room back and is counted,
/// whether its handle is polled, dropped or forgotten.
pub(crate) struct Flights {
    shards: Vec<Mutex<Slab<Entry>>>,
    pub(crate) permits: Permits,
    pub(crate) inbox: Inbox,
    pub(crate) policy: RetryPolicy,
    pub(crate) closing: Closing,
    /// Whether nobody will dispatch what is parked.
    undispatched: AtomicBool,
}

struct Entry {
    state: State,
    waker: Option<Waker>,
}

enum State {
    /// It waits for a broker, for room, for its turn, or for the next attempt.
    Parked {
        cargo: Cargo,
        topic: Arc<TopicState>,
    },
    /// The dispatcher looks at it.
    Taken,
    Flying {
        cargo: Cargo,
        lane: Arc<Lane>,
        partition: Partition,
    },
    /// None once it was taken.
    Ended(Option<Result<SendReceipt, SendError>>),
}

/// Where a message is to be handed to.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) lane: &'a Arc<Lane>,
    pub(crate) connection: &'a dyn Connection,
    pub(crate) partition: Partition,
}

impl Flights {
    pub(crate) fn new(permits: Permits, inbox: Inbox, policy: RetryPolicy) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            permits,
            inbox,
            policy,
            closing: Closing::default(),
            undispatched: AtomicBool::new(false),
        }
    }

    fn shard(&self, token: Token) -> MutexGuard<'_, Slab<Entry>> {
        self.shards[token.shard() % SHARDS].lock()
    }

    /// Hands a message to a connection, which takes it out of the offer. `token` is that of a message that was accepted
    /// before.
    ///
    /// # Errors
    /// Leaves it where it is if the connection refuses it.
    pub(crate) fn launch(
        &self,
        this: &Arc<dyn Completions>,
        way: Way<'_>,
        offer: &mut Offer,
        token: Option<Token>,
    ) -> Result<Option<Token>, TransportError> {
        let Some(message) = offer.cargo.as_ref() else { return Ok(None) };
        let deadline = self.attempt_deadline(message);
        let shard_number = token.map_or_else(own_shard, Token::shard);
        let mut shard = self.shards[shard_number % SHARDS].lock();
        let (token, is_new) = token.map_or_else(|| (shard.next(shard_number), true), |token| (token, false));
        let put = message.message.as_put(way.partition.index);
        let ticket = Ticket { completions: this, token: token.into() };
        // An answer can't be told before the lock is released, so the entry is there by then.
        offer.much_waits = way.connection.submit_put(put, deadline, ticket)?;
        if let Some(cargo) = &mut offer.cargo
            && way.lane.topic.selector.wants_outcomes()
        {
            cargo.more().launched = Some(Instant::now());
        }
        if let Some(cargo) = offer.cargo.take() {
            let state = State::Flying { cargo, lane: Arc::clone(way.lane), partition: way.partition };
            if is_new {
                shard.add(token, Entry { state, waker: None });
            } else if let Some(entry) = shard.get_mut(token) {
                entry.state = state;
            }
        }
        Ok(Some(token))
    }

    /// When an attempt is given up: when the message's time is up, or earlier if another attempt may follow that has to have
    /// its share of the time (W23).
    fn attempt_deadline(&self, cargo: &Cargo) -> Instant {
        if self.policy.at_least_once && cargo.attempts_before + 1 < self.policy.max_attempts {
            let now = Instant::now();
            return now + cargo.deadline().saturating_duration_since(now) / 2;
        }
        cargo.deadline()
    }

    /// Keeps a message until it can be handed to a connection; the dispatcher has to be told of it.
    pub(crate) fn park(&self, topic: Arc<TopicState>, cargo: Cargo, token: Option<Token>) -> Token {
        topic.counts.queued.fetch_add(1, Ordering::Relaxed);
        let shard_number = token.map_or_else(own_shard, Token::shard);
        let mut shard = self.shards[shard_number % SHARDS].lock();
        let state = State::Parked { cargo, topic };
        match token {
            Some(token) => {
                if let Some(entry) = shard.get_mut(token) {
                    entry.state = state;
                }
                token
            }
            None => {
                let token = shard.next(shard_number);
                shard.add(token, Entry { state, waker: None });
                token
            }
        }
    }

    /// Takes a parked message in hand, to send it, park it again, or end it. None if it has ended.
    pub(crate) fn take_parked(&self, token: Token) -> Option<(Cargo, Arc<TopicState>)> {
        let mut shard = self.shard(token);
        let entry = shard.get_mut(token)?;
        match std::mem::replace(&mut entry.state, State::Taken) {
            State::Parked { cargo, topic } => {
                topic.counts.queued.fetch_sub(1, Ordering::Relaxed);
                Some((cargo, topic))
            }
            other => {
                entry.state = other;
                None
            }
        }
    }

    pub(crate) fn is_parked(&self, token: Token) -> bool {
        self.deadline_of(token).is_some()
    }

    /// Until when a message that is parked has time.
    pub(crate) fn deadline_of(&self, token: Token) -> Option<Instant> {
        match &self.shard(token).get_mut(token)?.state {
            State::Parked { cargo, .. } => Some(cargo.deadline()),
            _ => None,
        }
    }

    /// Ends a parked message that nobody will send.
    pub(crate) fn fail_undispatched(&self, token: Token) {
        if let Some((cargo, topic)) = self.take_parked(token) {
            let error = SendError::closed(&topic.topic);
            self.fail_parked(token, &topic, cargo, error);
        }
    }

    /// Gives a message back that was not accepted.
    pub(crate) fn refuse(&self, topic: &Arc<TopicState>, cargo: Cargo, error: SendError) -> SendError {
        let mut tally = Tally::default();
        let error = self.failed(error, topic, None, cargo, &mut tally);
        self.settle(&mut tally);
        error
    }

    /// The partition that was decided for a message is no more: another one is to be chosen.
    pub(crate) fn change_turn(&self, topic: &Arc<TopicState>, cargo: &mut Cargo) {
        let more = cargo.more();
        if let (Some(partition), true, Some(order)) = (more.partition, more.has_turn, &topic.order)
            && order.give_back(partition)
        {
            self.inbox.turn(Arc::clone(topic), partition);
        }
        (more.partition, more.has_turn) = (None, false);
    }

    /// Ends a message that was taken in hand: it could not be sent.
    pub(crate) fn fail_parked(&self, token: Token, topic: &Arc<TopicState>, cargo: Cargo, error: SendError) {
        let mut tally = Tally::default();
        let error = self.failed(error, topic, None, cargo, &mut tally);
        fail(&mut self.shard(token), token, error, &mut tally);
        self.settle(&mut tally);
    }

    /// The error as the message's last word: with the attempts before, and with the message if it isn't stored.
    fn failed(
        &self,
        error: SendError,
        topic: &Arc<TopicState>,
        lane: Option<&Lane>,
        mut cargo: Cargo,
        tally: &mut Tally,
    ) -> SendError {
        let attempts = cargo.more.as_mut().map(|more| std::mem::take(&mut more.failed)).unwrap_or_default();
        let unknown = attempts.iter().any(|attempt| attempt.outcome == Outcome::Unknown);
        let error = if unknown { error.with_outcome(Outcome::Unknown) } else { error };
        topic.counts.failed(error.outcome(), lane.map(|lane| &*lane.counts));
        self.closing.ended(Err(error.outcome()), &cargo.message);
        tally.give_back(topic, &cargo);
        error.with_attempts(attempts).with_message(cargo.message)
    }

    /// The outcome of a message, which is taken; or tells `cx` when it is there.
    pub(crate) fn poll(&self, token: Token, cx: &Context<'_>) -> Poll<Result<SendReceipt, SendError>> {
        let mut shard = self.shard(token);
        let Some(entry) = shard.get_mut(token) else { return Poll::Pending };
        let State::Ended(outcome) = &mut entry.state else {
            match &mut entry.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        let Some(outcome) = outcome.take() else { return Poll::Pending };
        shard.remove(token);
        Poll::Ready(outcome)
    }

    /// The handle of a message is gone: its outcome is counted, and told to nobody.
    pub(crate) fn unwatch(&self, token: Token) {
        let mut shard = self.shard(token);
        let Some(entry) = shard.get_mut(token) else { return };
        entry.waker = None;
        if matches!(entry.state, State::Ended(_)) {
            shard.remove(token);
        } else {
            shard.let_go(token);
        }
    }

    /// Takes a message back that was not handed to a connection yet. Else it goes on unwatched.
    pub(crate) fn cancel(&self, token: Token) {
        if let Some((cargo, topic)) = self.take_parked(token) {
            self.inbox.unparked(token, cargo.deadline());
            let error = SendError::closed(&topic.topic);
            self.fail_parked(token, &topic, cargo, error);
        }
        self.unwatch(token);
    }

    /// From now on nobody dispatches: what can't be sent at once is failed.
    pub(crate) fn stop_dispatching(&self) {
        self.undispatched.store(true, Ordering::Release);
    }

    pub(crate) fn is_dispatched(&self) -> bool {
        !self.undispatched.load(Ordering::Acquire)
    }

    /// The tokens of all messages that are parked.
    pub(crate) fn parked(&self) -> Vec<Token> {
        let parked = |shard: &Mutex<Slab<Entry>>| {
            let shard = shard.lock();
            let parked = shard.iter().filter(|(_, entry)| matches!(entry.state, State::Parked { .. }));
            parked.map(|(token, _)| token).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(parked).collect()
    }
}

/// The shard of this thread.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    OWN.get() % SHARDS
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("permits", &self.permits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_flight_takes_little() {
        // Beside this there are its slot on the connection, which is 64 bytes, and its handle.
        assert!(size_of::<Entry>() <= 152, "{}", size_of::<Entry>());
        assert_eq!(size_of::<crate::SendHandle>(), 16);
    }
}
