//! Sends what had to wait: for a broker, for capacity, for its turn, or for its next attempt.
//!
//! The code that finds that a message may go sends it: the connection that has capacity again, the one who
//! ended the message before it, the follower that has found a broker. Only what is due at a certain time
//! takes a [task](crate::send::timers).

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use metaq_protocol::Partition;
use metaq_transport::{Capacity, CompletionToken, Reservation, TransportError, TransportErrorKind};
use tokio::time::Instant;

use crate::{
    SendError, deadline, panics,
    route::{
        RouteObserver,
        topic_broker::Gate,
        topic_state::TopicState,
        wait_queue::{CapacityRequest, WaitQueues, WaitReason},
    },
    send::{
        deferred::{self, Step},
        submit::{FullConnection, NotSubmitted, Submitter, Wait},
        timers::Timer,
        unacknowledged::{CannotWait, PendingMessage, Submission},
    },
    token::Token,
};

/// The queues that have asked for capacity, by the numbers of their requests.
pub(crate) type Requests = HashMap<u64, (Arc<WaitQueues>, WaitReason), foldhash::fast::FixedState>;

/// The interval at which a connection is polled that can't announce its capacity.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The number of immediate attempts of the head of a queue while its connections change.
const MOST_TRIES: u32 = 8;

/// About what the words of a put take on a connection besides its topic.
const HEADER: usize = 48;

/// The result of trying a message that has waited.
enum Tried {
    /// It doesn't wait any more.
    Gone,
    /// It waits for another reason from now on, and may be back for this one by the time that it is noted.
    Moved,
    /// It waits on; if for capacity, with its size in bytes and the connections.
    Waits(usize, Vec<FullConnection>),
}

impl RouteObserver for Submitter {
    /// Has every message that waits look again.
    fn route_changed(self: Arc<Self>, topic: &TopicState) {
        for reason in topic.waits.reasons() {
            self.serve(&topic.waits, reason, None);
        }
        if topic.is_withdrawn() {
            for token in topic.waits.waiting_for_turns() {
                self.fail_withdrawn(token);
            }
        }
    }
}

impl Submitter {
    /// Keeps a new message until it can be sent.
    ///
    /// # Errors
    /// When no task would send it; the error gives it back.
    pub(crate) fn wait_in_queue(
        self: &Arc<Self>,
        topic: &Arc<TopicState>,
        pending: PendingMessage,
        reason: WaitReason,
    ) -> Result<Token, SendError> {
        let unacknowledged = &self.unacknowledged;
        let deadline = pending.deadline();
        let token = unacknowledged.add_waiting(Arc::clone(topic), pending);
        let error = if unacknowledged.is_closed() {
            SendError::closed
        } else if unacknowledged.timers.set(
            deadline,
            Timer::Deadline(token, 0),
            &unacknowledged.weak_submitter(),
        ) {
            self.wait_for(token, topic, reason);
            return Ok(token);
        } else {
            SendError::no_runtime
        };
        match unacknowledged.take_waiting(token) {
            Some((pending, topic)) => {
                Err(unacknowledged.refuse_waiting(token, pending, &topic, error(&topic.topic)))
            }
            // It has its outcome.
            None => Ok(token),
        }
    }

    /// Adds a waiting message to its queue, and submits it if it is the first and can go.
    fn wait_for(self: &Arc<Self>, token: Token, topic: &Arc<TopicState>, reason: WaitReason) {
        let waits = &topic.waits;
        match reason {
            WaitReason::Turn(partition) => {
                if waits.change_to_turn(token, partition) && !self.give_turn(waits, token, partition) {
                    // It has ended before it came to wait.
                    self.unacknowledged.pass_turn(topic, partition);
                }
            }
            // What it waits for may have come since.
            reason => {
                if waits.join(token, reason) {
                    self.serve(waits, reason, None);
                }
            }
        }
    }

    /// Sends the messages that wait for this reason, as far as they can go, when no lock is held.
    pub(crate) fn serve(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        reservation: Option<Reservation>,
    ) {
        if !matches!(reason, WaitReason::Turn(_)) {
            deferred::run(self, waits, Step::Serve { reason, reservation, request: None });
        }
    }

    /// Ends a message that waits if its topic was unpublished.
    fn fail_withdrawn(&self, token: Token) {
        // One of the topic's next publishing stays where it is: out of its place, a turn that comes would
        // pass it by.
        let taken = self.unacknowledged.take_waiting_if(token, |_, topic| topic.is_withdrawn());
        let Some((pending, topic)) = taken else { return };
        self.unacknowledged.leave_queue(token, &topic);
        self.end(token, &topic, pending, self.withdrawn(&topic));
    }

    pub(crate) fn do_step(self: &Arc<Self>, waits: &Arc<WaitQueues>, step: Step) {
        match step {
            Step::Serve { reason, mut reservation, request } => {
                let served = Served { waits, reason };
                self.serve_now(&served, &mut reservation);
                // The next message for the capacity that is left has waited as well.
                drop((reservation, request));
                drop(served);
            }
            Step::PassTurn(partition) => {
                while let Some(token) = waits.pass_turn(partition) {
                    if self.give_turn(waits, token, partition) {
                        break;
                    }
                }
            }
        }
    }

    fn serve_now(self: &Arc<Self>, served: &Served<'_>, reservation: &mut Option<Reservation>) {
        let Served { waits, reason } = *served;
        let Some(mut head) = waits.begin(reason) else { return };
        let mut tries = 0;
        loop {
            let next = match self.try_waiting(waits, head.token, Some(reason), reservation) {
                // Removed only now, when it is in its next queue: those who come to wait behind it see it in
                // one of the two.
                gone @ (Tried::Gone | Tried::Moved) => {
                    let gone = matches!(gone, Tried::Gone).then_some(head);
                    let (next, requests) = waits.next(reason, gone);
                    self.forget(requests);
                    tries = 0;
                    next
                }
                Tried::Waits(bytes, full) => match self.ask(waits, reason, bytes, &full, tries) {
                    Asked::Changed => {
                        tries += 1;
                        Some(head)
                    }
                    Asked::Reserved(reserved) => {
                        // The one before, for somewhere else, is given back.
                        *reservation = Some(reserved);
                        tries += 1;
                        Some(head)
                    }
                    Asked::Waits => waits.wait_on(reason),
                },
            };
            match next {
                Some(next) => head = next,
                None => return,
            }
        }
    }

    /// Gives a message the turn in the partition, and sends it. False if it is gone.
    fn give_turn(self: &Arc<Self>, waits: &Arc<WaitQueues>, token: Token, partition: Partition) -> bool {
        let Some((mut pending, topic)) = self.unacknowledged.take_waiting(token) else { return false };
        let rare = pending.rare();
        (rare.partition, rare.has_turn) = (Some(partition), true);
        self.try_taken(waits, token, pending, topic, None, &mut None);
        true
    }

    fn try_waiting(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        token: Token,
        reason: Option<WaitReason>,
        reservation: &mut Option<Reservation>,
    ) -> Tried {
        match self.unacknowledged.take_waiting(token) {
            Some((pending, topic)) => self.try_taken(waits, token, pending, topic, reason, reservation),
            None => Tried::Gone,
        }
    }

    /// Sends a message that was taken in hand, or has it wait on; `reason` is why it waited.
    fn try_taken(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        token: Token,
        mut pending: PendingMessage,
        topic: Arc<TopicState>,
        reason: Option<WaitReason>,
        reservation: &mut Option<Reservation>,
    ) -> Tried {
        if let Some(reason) = reason
            && Instant::now() >= pending.deadline()
        {
            // It goes nowhere any more: what it has waited for is why.
            self.end(token, &topic, pending, reason.error(&topic));
            return Tried::Gone;
        }
        loop {
            let end = Timer::Deadline(token, pending.attempts_before);
            let (deadline, bytes) =
                (pending.deadline(), pending.message.encoded_len() + topic.topic.len() + HEADER);
            let share = pending.share;
            let permit = pending.rare.as_mut().and_then(|rare| rare.permit.take());
            let mut submission = Submission::new(pending, permit);
            let sent = self.try_send(&topic, &mut submission, Some(token), reservation);
            let Submission { pending: left, permit, .. } = submission;
            let wait = match (sent.map_err(NotSubmitted::into_wait), left) {
                (Err(Ok(wait)), Some(taken)) => {
                    pending = taken;
                    *wait
                }
                (Err(Err(error)), Some(pending)) => {
                    self.end(token, &topic, pending, error);
                    return Tried::Gone;
                }
                _ => {
                    self.unacknowledged.timers.cancel(deadline, end);
                    return Tried::Gone;
                }
            };
            let Wait { reason: new, full } = wait;
            let permit = match permit {
                Some(mut permit) => {
                    permit.change(new);
                    permit
                }
                // It was accepted before, so the limit doesn't keep it from waiting.
                None => self.unacknowledged.wait_limits.enter(waits, new, share),
            };
            pending.rare().permit = Some(permit);
            if let Err(why) = self.unacknowledged.wait_again(token, Arc::clone(&topic), pending) {
                self.cannot_wait(token, &topic, why, new);
                return Tried::Gone;
            }
            // Also if it was set before: it may have been lost with its runtime while the message was in
            // hand.
            let timers = &self.unacknowledged.timers;
            if !timers.set(deadline, end, &self.unacknowledged.weak_submitter()) {
                if let Some((pending, topic)) = self.unacknowledged.take_waiting(token) {
                    self.end(token, &topic, pending, SendError::runtime_ended(&topic.topic));
                }
                return Tried::Gone;
            }
            if reason == Some(new) {
                return Tried::Waits(bytes, full);
            }
            match new {
                WaitReason::Turn(partition) => {
                    if !waits.change_to_turn(token, partition) {
                        return Tried::Moved;
                    }
                    // No message had the turn.
                    let Some((taken, _)) = self.unacknowledged.take_waiting(token) else {
                        self.unacknowledged.pass_turn(&topic, partition);
                        return Tried::Gone;
                    };
                    pending = taken;
                    let rare = pending.rare();
                    (rare.partition, rare.has_turn) = (Some(partition), true);
                }
                new => {
                    // After another attempt it comes last.
                    let is_head = match reason {
                        Some(_) => waits.change(token, new),
                        None => waits.join(token, new),
                    };
                    if is_head {
                        self.serve(waits, new, None);
                    }
                    return Tried::Moved;
                }
            }
        }
    }

    /// Ends a message that can't wait any longer.
    fn cannot_wait(&self, token: Token, topic: &Arc<TopicState>, why: CannotWait, reason: WaitReason) {
        match why {
            CannotWait::Cancelled(pending) => {
                self.end(token, topic, pending, SendError::closed(&topic.topic))
            }
            CannotWait::Overdue(pending) => self.end(token, topic, pending, reason.error(topic)),
        }
    }

    /// Ends a message that was taken in hand.
    fn end(&self, token: Token, topic: &Arc<TopicState>, pending: PendingMessage, error: SendError) {
        let timer = Timer::Deadline(token, pending.attempts_before);
        self.unacknowledged.timers.cancel(pending.deadline(), timer);
        self.unacknowledged.fail_waiting_message(token, topic, pending, error);
    }

    /// Does what is due.
    pub(crate) fn due(self: &Arc<Self>, timer: Timer) {
        match timer {
            Timer::Attempt(token) => {
                if let Some((pending, topic)) = self.unacknowledged.take_waiting(token) {
                    let waits = Arc::clone(&topic.waits);
                    let _hold = deferred::Hold::new();
                    self.try_taken(&waits, token, pending, topic, None, &mut None);
                }
            }
            Timer::Deadline(token, _) => {
                // A thread that examines it at this moment sees that its time is up.
                let Some((pending, topic)) = self.unacknowledged.take_waiting(token) else { return };
                let reason = self.unacknowledged.leave_queue(token, &topic).unwrap_or(WaitReason::NoBroker);
                self.unacknowledged.fail_waiting_message(token, &topic, pending, reason.error(&topic));
            }
            Timer::Capacity(number) => self.capacity(number, None),
            Timer::LateAnswer(token) => self.unacknowledged.late_turn_ended(token, Instant::now()),
            Timer::Absent => self.unacknowledged.wait_limits.pass_over_absent(),
        }
    }
}

/// The result of asking for capacity.
enum Asked {
    Reserved(Reservation),
    /// It will be announced, or looked for again.
    Waits,
    /// A connection is in another state than before: the message can be tried again at once.
    Changed,
}

impl Submitter {
    /// Asks the connections for capacity for the head of a queue.
    fn ask(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        bytes: usize,
        full: &[FullConnection],
        tries: u32,
    ) -> Asked {
        for full in full {
            match waits.request_to(reason, full.address()) {
                Some((_, asked)) if asked <= bytes => continue,
                // For a larger message, which isn't the head any more.
                Some((number, _)) => self.withdraw_request(waits, reason, number),
                None => {}
            }
            let number = self.next_request.fetch_add(1, Ordering::Relaxed);
            let gate = Gate::new(Arc::clone(&full.broker), full.number);
            self.requests.lock().insert(number, (Arc::clone(waits), reason));
            // Before it can be answered.
            let connection = full.address();
            let request = CapacityRequest { number, connection, bytes, _gate: gate, wait: None };
            drop(waits.asked(reason, request));
            if tries >= MOST_TRIES {
                self.look_again(waits, reason, number);
                continue;
            }
            let notify = CompletionToken { completions: &self.completions, token: number };
            // A connection may be anybody's code.
            let asked = panics::catch(|| full.connection.reserve(bytes, notify));
            let asked = asked.unwrap_or_else(|_| {
                Err(TransportError::new(TransportErrorKind::Full, full.broker.addr.clone()))
            });
            match asked {
                Ok(Capacity::Waiting(wait)) => drop(waits.set_wait(reason, number, wait)),
                Ok(Capacity::Reserved(reservation)) => {
                    self.withdraw_request(waits, reason, number);
                    return Asked::Reserved(reservation);
                }
                Err(error) if error.kind() != TransportErrorKind::Full => {
                    self.withdraw_request(waits, reason, number);
                    return Asked::Changed;
                }
                Err(_) => self.look_again(waits, reason, number),
            }
        }
        Asked::Waits
    }

    /// Looks for capacity again in a moment: the connection can't announce it.
    fn look_again(&self, waits: &WaitQueues, reason: WaitReason, number: u64) {
        let at = deadline::after(LOOK_AGAIN);
        if !self.unacknowledged.timers.set(at, Timer::Capacity(number), &self.unacknowledged.weak_submitter())
        {
            self.withdraw_request(waits, reason, number);
        }
    }

    fn withdraw_request(&self, waits: &WaitQueues, reason: WaitReason, number: u64) {
        self.requests.lock().remove(&number);
        drop(waits.answered(reason, number));
    }

    /// Gives up requests for capacity without waiters.
    pub(crate) fn forget(&self, requests: Vec<CapacityRequest>) {
        for request in requests {
            self.requests.lock().remove(&request.number);
            drop(request);
        }
    }

    /// The requested capacity is there, or must be requested again.
    pub(crate) fn capacity(self: &Arc<Self>, number: u64, reservation: Option<Reservation>) {
        let known = self.requests.lock().remove(&number);
        let Some((waits, reason)) = known else { return };
        let request = waits.answered(reason, number);
        deferred::run(self, &waits, Step::Serve { reason, reservation, request });
    }

    /// The answer of a connection to a request for capacity.
    pub(crate) fn answered(self: &Arc<Self>, number: u64, granted: Result<Reservation, TransportError>) {
        self.capacity(number, granted.ok());
    }
}

/// A queue that is being served.
struct Served<'a> {
    waits: &'a Arc<WaitQueues>,
    reason: WaitReason,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.waits.abort(self.reason);
        }
    }
}
