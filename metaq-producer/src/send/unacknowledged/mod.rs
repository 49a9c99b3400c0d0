//! The messages that belong to the producer: from when they are accepted until their outcome was taken.
//!
//! Here are the store of all of them, the hand-over to a connection, and what handles ask for. A [`pending`]
//! message waits ([`waiting`]) or is in flight, where its attempt is completed ([`completion`]). [`flush`]
//! waits for outcomes, [`purge`] takes back what waits.

mod completion;
mod flush;
mod pending;
mod purge;
mod waiting;

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use metaq_protocol::Partition;
use metaq_transport::{
    CompletionToken, Completions, Connection, Reservation, TransportError, TransportErrorKind,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use completion::Effects;
use flush::Flushes;
pub(crate) use pending::{Millis, PendingMessage, RareState, Submission};
pub(crate) use waiting::CannotWait;

use crate::{
    Outcome, RetryPolicy, SendError, SendErrorKind, SendReceipt,
    failure::Failures,
    interceptor::Interceptors,
    panics,
    route::{topic_broker::TopicBroker, topic_state::TopicState},
    send::{
        close::Closing, deferred, order::Late, permits::Permits, slab::Slab, submit::Submitter,
        timers::Timers, wait_limits::WaitLimits,
    },
    token::Token,
};

/// The number of locks that messages are spread over, so that threads seldom meet.
const SHARDS: usize = 16;

/// All messages of a producer that have no outcome yet, or one that wasn't taken yet.
///
/// A message belongs to the producer, not to its handle: it has its outcome, gives its capacity back and is
/// counted, whether its handle is polled, dropped or forgotten.
pub(crate) struct Unacknowledged {
    shards: Vec<Mutex<Slab<Entry>>>,
    pub(crate) permits: Permits,
    pub(crate) wait_limits: Arc<WaitLimits>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) policy: RetryPolicy,
    pub(crate) interceptors: Interceptors,
    pub(crate) closing: Closing,
    flushes: Flushes,
    /// The submitter of messages that had to wait.
    submitter: OnceLock<Weak<Submitter>>,
    /// The partitions, sent to in order, in which the answer to the message that had the turn is late.
    pub(crate) late: Mutex<HashMap<Token, Late, foldhash::fast::FixedState>>,
    closed: AtomicBool,
    /// Who gets what was offered and is not acknowledged.
    pub(crate) failures: Failures,
}

struct Entry {
    state: State,
    waker: Option<Waker>,
}

enum State {
    /// It waits for a broker, for capacity, for its turn, or for the next attempt.
    Waiting {
        pending: PendingMessage,
        topic: Arc<TopicState>,
    },
    /// A thread examines it.
    Taken,
    InFlight {
        pending: PendingMessage,
        topic_broker: Arc<TopicBroker>,
        partition: Partition,
    },
    /// None once it was taken.
    Ended(Option<Result<SendReceipt, SendError>>),
}

/// The destination of a message.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) topic_broker: &'a Arc<TopicBroker>,
    pub(crate) connection: &'a dyn Connection,
    pub(crate) partition: Partition,
}

impl Unacknowledged {
    pub(crate) fn new(
        permits: Permits,
        policy: RetryPolicy,
        interceptors: Interceptors,
        failures: Failures,
    ) -> Self {
        let (max_messages, max_bytes) = permits.limits();
        let timers = Arc::default();
        Self {
            wait_limits: WaitLimits::new(max_messages, max_bytes, &timers),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            permits,
            timers,
            policy,
            interceptors,
            closing: Closing::default(),
            flushes: Flushes::default(),
            submitter: OnceLock::new(),
            late: Mutex::default(),
            closed: AtomicBool::new(false),
            failures,
        }
    }

    /// Sets the submitter that sends messages which had to wait.
    pub(crate) fn set_submitter(&self, submitter: Weak<Submitter>) {
        self.wait_limits.set_submitter(Weak::clone(&submitter));
        let _ = self.submitter.set(submitter);
    }

    /// The submitter of messages that had to wait; none when the producer is gone.
    pub(crate) fn submitter(&self) -> Option<Arc<Submitter>> {
        self.submitter.get()?.upgrade()
    }

    pub(crate) fn weak_submitter(&self) -> Weak<Submitter> {
        self.submitter.get().cloned().unwrap_or_default()
    }

    fn shard(&self, token: Token) -> MutexGuard<'_, Slab<Entry>> {
        self.shards[token.shard() % SHARDS].lock()
    }

    /// Hands a message to a connection, which takes it out of the submission. `token` is that of a message
    /// that was accepted before. Returns `None` if the message was taken back meanwhile.
    ///
    /// The end of the attempt arrives in [`Completions::completed`], in `completion.rs`, usually on the
    /// connection's task.
    ///
    /// # Errors
    /// When the connection refuses the message, which stays in the submission.
    #[inline(always)]
    pub(crate) fn hand_over(
        &self,
        this: &Arc<dyn Completions>,
        way: Way<'_>,
        submission: &mut Submission,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
    ) -> Result<Option<Token>, TransportError> {
        let Some(message) = submission.pending.as_ref() else { return Ok(None) };
        let deadline = self.attempt_deadline(message);
        let shard_number = match token {
            Some(token) => token.shard(),
            None => own_shard(),
        };
        // Released after the lock: what a connection announces meanwhile is looked at then.
        let _hold = deferred::Hold::new();
        let mut shard = self.shards[shard_number % SHARDS].lock();
        let (token, is_new) = match token {
            Some(token) => (token, false),
            None => (shard.next(shard_number), true),
        };
        if !is_new && (shard.is_cancelled(token) || self.is_closed()) {
            return Ok(None);
        }
        let notify = CompletionToken { completions: this, token: token.into() };
        let (message, mut refusal) = (&message.message, None);
        // A completion can't be reported before the lock is released, so the entry is there by then.
        // A connection may be anybody's code, and must not take the message with it.
        let submitted = panics::catch(|| {
            // Made here, and the result taken apart here: each would be copied out of what was written in
            // pieces just before.
            let put = message.as_put(way.partition.index);
            let submitted = match reservation {
                None => way.connection.submit_put(put, deadline, notify),
                some => way.connection.submit_reserved_put(put, deadline, notify, some),
            };
            submitted.map_err(|error| refusal = Some(error)).ok()
        });
        submission.should_yield = match submitted {
            Ok(Some(should_yield)) => should_yield,
            Ok(None) | Err(_) => {
                let panicked = || {
                    let broker = way.topic_broker.broker.addr.clone();
                    TransportError::new(TransportErrorKind::NotConnected, broker)
                };
                return Err(refusal.unwrap_or_else(panicked));
            }
        };
        if let Some(pending) = &mut submission.pending
            && way.topic_broker.topic.selector.wants_outcomes()
        {
            pending.rare().submitted_at = Some(Instant::now());
        }
        if let Some(pending) = submission.pending.take() {
            let state = State::InFlight {
                pending,
                topic_broker: Arc::clone(way.topic_broker),
                partition: way.partition,
            };
            if is_new {
                shard.add(token, Entry { state, waker: None });
            } else if let Some(entry) = shard.get_mut(token) {
                entry.state = state;
            }
        }
        Ok(Some(token))
    }

    /// The time at which an attempt is given up: when the message's time is up, or earlier if another attempt
    /// may follow that has to have its share of the time.
    #[inline(always)]
    fn attempt_deadline(&self, pending: &PendingMessage) -> Instant {
        if self.policy.at_least_once && pending.attempts_before + 1 < self.policy.max_attempts {
            let now = Instant::now();
            return now + pending.deadline().saturating_duration_since(now) / 2;
        }
        pending.deadline()
    }

    /// Gives a message back that was not accepted.
    pub(crate) fn refuse(
        &self,
        topic: &Arc<TopicState>,
        pending: PendingMessage,
        error: SendError,
    ) -> SendError {
        let mut effects = Effects::of_refused();
        let error = self.settle_failure(error, topic, None, pending, &mut effects);
        self.run_effects(&mut effects);
        error
    }

    /// Takes the outcome of a message; or registers the waker of `cx`, which is `likely` to be necessary, and
    /// which `run_effects` wakes.
    pub(crate) fn poll(
        &self,
        token: Token,
        cx: &Context<'_>,
        likely: bool,
    ) -> Poll<Result<SendReceipt, SendError>> {
        // A waker may run anybody's code when it is cloned or dropped: not under the lock.
        let mut new = likely.then(|| cx.waker().clone());
        loop {
            let mut shard = self.shard(token);
            let Some(entry) = shard.get_mut(token) else { return Poll::Pending };
            if let State::Ended(outcome) = &mut entry.state {
                let Some(mut outcome) = outcome.take() else { return Poll::Pending };
                let waker = entry.waker.take();
                shard.discard(token);
                drop(shard);
                drop((waker, new));
                if let Err(error) = &mut outcome
                    && let Some(message) = error.take_uncertain()
                {
                    // Its owner can't get at it, and may keep the error for long.
                    panics::contain(|| drop(message));
                }
                return Poll::Ready(outcome);
            }
            if entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                drop(shard);
                return Poll::Pending;
            }
            let Some(waker) = new.take() else {
                drop(shard);
                new = Some(cx.waker().clone());
                continue;
            };
            let old = entry.waker.replace(waker);
            let is_waiting = matches!(entry.state, State::Waiting { .. });
            drop(shard);
            drop(old);
            if is_waiting {
                // The runtime on which it came to wait may not be driven any more.
                self.timers.ensure_kept(&self.weak_submitter());
            }
            return Poll::Pending;
        }
    }

    /// The handle of a message was dropped: its outcome is counted only.
    pub(crate) fn unwatch(&self, token: Token) {
        let mut shard = self.shard(token);
        let Some(entry) = shard.get_mut(token) else { return };
        let waker = entry.waker.take();
        let ended = if matches!(entry.state, State::Ended(_)) {
            shard.remove(token)
        } else {
            shard.let_go(token);
            None
        };
        drop(shard);
        drop((waker, ended));
    }

    /// No handle of a message is left, and the failure handler gets it if it fails.
    pub(crate) fn give_to_failure_handler(&self, token: Token) {
        let mut shard = self.shard(token);
        let Some(entry) = shard.get_mut(token) else { return };
        if !matches!(entry.state, State::Ended(_)) {
            shard.offer(token);
            return;
        }
        let ended = match shard.remove(token) {
            Some(Entry { state: State::Ended(ended), .. }) => ended,
            _ => None,
        };
        let notice = match &ended {
            // What was taken back is in other hands.
            Some(Err(error)) if !error.is_taken_back() => self.failures.announce(),
            _ => None,
        };
        drop(shard);
        match (ended, notice) {
            (Some(Err(error)), Some(notice)) => self.failures.deliver(error, notice),
            (ended, _) => panics::contain(|| drop(ended)),
        }
    }

    /// From now on nothing is accepted any more.
    pub(crate) fn accept_no_more(&self) {
        self.permits.close();
        self.wait_limits.close();
    }

    /// From now on nothing is sent that has to wait.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.timers.stop();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends all messages whose answer can't be waited for any longer.
    pub(crate) fn fail_in_flight(&self) {
        let mut effects = Effects::default();
        for token in self.tokens(|state| matches!(state, State::InFlight { .. })) {
            let mut shard = self.shard(token);
            let Some(entry) = shard.get_mut(token) else { continue };
            match std::mem::replace(&mut entry.state, State::Taken) {
                State::InFlight { pending, topic_broker, partition } => {
                    let text = "the producer was closed before the answer came";
                    let error = SendError::new(SendErrorKind::Closed, &topic_broker.topic.topic, text)
                        .with_outcome(Outcome::Unknown)
                        .at(partition, topic_broker.broker.addr.clone());
                    let error = self.settle_failure(
                        error,
                        &topic_broker.topic,
                        Some(&topic_broker),
                        pending,
                        &mut effects,
                    );
                    self.fail(&mut shard, token, error, &mut effects);
                    drop(shard);
                    drop(topic_broker);
                }
                other => entry.state = other,
            }
        }
        self.run_effects(&mut effects);
    }

    pub(crate) fn unpin(&self, token: Token) {
        self.shard(token).unpin(token);
    }

    /// The tokens of all messages in such a state.
    fn tokens(&self, wanted: impl Fn(&State) -> bool) -> Vec<Token> {
        let of_shard = |shard: &Mutex<Slab<Entry>>| {
            let shard = shard.lock();
            let wanted = shard.iter().filter(|(_, entry)| wanted(&entry.state));
            wanted.map(|(token, _)| token).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
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

impl fmt::Debug for Unacknowledged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unacknowledged").field("permits", &self.permits).finish_non_exhaustive()
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
