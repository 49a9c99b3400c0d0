//! The messages that belong to the producer: from when they are accepted until their outcome was taken.

mod completion;
mod flush;
mod pending;
mod purge;

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

use metaq_protocol::{Partition, Topic};
use metaq_transport::{
    CompletionToken, Completions, Connection, Reservation, TransportError, TransportErrorKind,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use completion::{Effects, fail};
use flush::Flushes;
pub(crate) use pending::{Millis, PendingMessage, RareState, Submission};

use crate::{
    Outcome, RetryPolicy, SendError, SendErrorKind, SendReceipt,
    interceptor::Interceptors,
    panics,
    route::{topic_broker::TopicBroker, topic_state::TopicState, wait_queue::WaitReason},
    send::{
        close::Closing,
        deferred,
        order::Late,
        permits::Permits,
        slab::Slab,
        submit::Submitter,
        timers::{Timer, Timers},
        wait_limits::WaitLimits,
    },
    token::Token,
};

/// The number of locks that messages are spread over, so that threads seldom meet.
const SHARDS: usize = 16;

/// All messages of a producer that have no outcome yet, or one that wasn't taken yet.
///
/// A message belongs to the producer, not to its handle: it has its outcome, gives its capacity back and is
/// counted, whether its handle is polled, dropped or forgotten.
pub(crate) struct InFlight {
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

/// The reason why a message can't wait again.
pub(crate) enum CannotWait {
    /// The caller has taken it back, or the producer was closed.
    Cancelled(PendingMessage),
    /// Its time is up.
    Overdue(PendingMessage),
}

impl InFlight {
    pub(crate) fn new(permits: Permits, policy: RetryPolicy, interceptors: Interceptors) -> Self {
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
        fail(&mut self.shard(token), token, error, &mut effects);
        self.run_effects(&mut effects);
    }

    /// Takes the outcome of a message; or registers the waker of `cx`, which is `likely` to be necessary.
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
                let Some(outcome) = outcome.take() else { return Poll::Pending };
                let waker = entry.waker.take();
                shard.discard(token);
                drop(shard);
                drop((waker, new));
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
                    fail(&mut shard, token, error, &mut effects);
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

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("permits", &self.permits).finish_non_exhaustive()
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
