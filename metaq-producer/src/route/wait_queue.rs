//! The messages of a topic that wait, in one queue for each reason.

use std::collections::{BTreeMap, HashMap};

use metaq_protocol::Partition;
use metaq_transport::CapacityWait;
use parking_lot::Mutex;

pub(crate) use super::wait_reason::WaitReason;
use crate::{route::topic_broker::Gate, token::Token};

/// The queues of one topic, which outlive its being unpublished as long as anything of it is under way.
///
/// One thread at a time looks at the head of a queue ([`begin`](Self::begin)), until the head has to wait on.
/// Whatever could let it go meanwhile makes that thread look again, so that no wake-up is lost. Nothing here
/// calls anybody.
#[derive(Debug, Default)]
pub(crate) struct WaitQueues {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queues: BTreeMap<WaitReason, Queue>,
    /// The queue of each waiting message, and its number.
    places: HashMap<Token, (WaitReason, u64), foldhash::fast::FixedState>,
    /// The number of the message that came last.
    next: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// By their numbers, in the order in which they came.
    tokens: BTreeMap<u64, Token>,
    /// Whether a thread looks at the head.
    is_served: bool,
    /// Whether something has happened since it looked.
    look_again: bool,
    /// Of a partition: whether a message has the turn, whether it is here or in flight.
    is_taken: bool,
    /// The capacity that was asked for.
    requests: Vec<CapacityRequest>,
}

/// Capacity that a queue waits for.
#[derive(Debug)]
pub(crate) struct CapacityRequest {
    pub(crate) number: u64,
    /// Of the connection, to find it again.
    pub(crate) connection: usize,
    pub(crate) bytes: usize,
    /// Keeps senders that don't wait from taking the capacity first.
    pub(crate) _gate: Gate,
    /// None for a connection that can't announce capacity.
    pub(crate) wait: Option<CapacityWait>,
}

impl Queue {
    fn is_needless(&self) -> bool {
        self.tokens.is_empty() && self.requests.is_empty() && !self.is_taken && !self.is_served
    }
}

/// Between two numbers there are free ones, for messages that have to go before others.
const NUMBERS_APART: u64 = 1 << 16;

/// A message at the head of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) token: Token,
    /// Names this wait of the message: it may come to wait here again.
    number: u64,
}

impl Queue {
    fn head(&self) -> Option<Head> {
        self.tokens.first_key_value().map(|(number, token)| Head { token: *token, number: *number })
    }
}

impl Inner {
    fn insert(&mut self, token: Token, reason: WaitReason, number: u64) -> bool {
        self.places.insert(token, (reason, number));
        let queue = self.queues.entry(reason).or_default();
        queue.tokens.insert(number, token);
        queue.tokens.len() == 1
    }

    fn number(&mut self) -> u64 {
        self.next += NUMBERS_APART;
        self.next
    }

    fn take_out(&mut self, token: Token) -> Option<(WaitReason, u64)> {
        let (reason, number) = self.places.remove(&token)?;
        if let Some(queue) = self.queues.get_mut(&reason) {
            queue.tokens.remove(&number);
            if queue.is_needless() {
                self.queues.remove(&reason);
            }
        }
        Some((reason, number))
    }

    /// Removes a queue that isn't needed, and returns the capacity that it had requested.
    fn tidy(&mut self, reason: WaitReason) -> Vec<CapacityRequest> {
        match self.queues.get_mut(&reason) {
            Some(queue) if queue.tokens.is_empty() => {
                let requests = std::mem::take(&mut queue.requests);
                if queue.is_needless() {
                    self.queues.remove(&reason);
                }
                requests
            }
            _ => Vec::new(),
        }
    }
}

impl WaitQueues {
    /// Adds a message to the end of a queue. True if it is the head, which must be examined immediately.
    pub(crate) fn join(&self, token: Token, reason: WaitReason) -> bool {
        let mut inner = self.inner.lock();
        // Where it waited before its last attempt, if that is still being noted.
        inner.take_out(token);
        let number = inner.number();
        inner.insert(token, reason, number)
    }

    /// Takes the turn in `partition` if it is free and has no waiters.
    pub(crate) fn try_turn(&self, partition: Partition) -> bool {
        let mut inner = self.inner.lock();
        let queue = inner.queues.entry(WaitReason::Turn(partition)).or_default();
        if queue.is_taken || !queue.tokens.is_empty() {
            return false;
        }
        queue.is_taken = true;
        true
    }

    /// The number of messages in `partition`, those that wait for their turn and the one that has it.
    pub(crate) fn line(&self, partition: Partition) -> usize {
        let inner = self.inner.lock();
        let queue = inner.queues.get(&WaitReason::Turn(partition));
        queue.map_or(0, |queue| usize::from(queue.is_taken) + queue.tokens.len())
    }

    /// Has a message wait for the turn in `partition` before all others: it had the turn, and its last
    /// attempt may still be at the broker.
    pub(crate) fn join_first(&self, token: Token, partition: Partition) {
        let reason = WaitReason::Turn(partition);
        let mut inner = self.inner.lock();
        let first = inner.queues.get(&reason).and_then(|queue| queue.tokens.keys().next().copied());
        let number = first.map_or_else(|| inner.number(), |first| first - 1);
        inner.insert(token, reason, number);
    }

    /// Gives the turn in `partition` to the first who waits for it, and returns that message.
    pub(crate) fn pass_turn(&self, partition: Partition) -> Option<Token> {
        let reason = WaitReason::Turn(partition);
        let mut inner = self.inner.lock();
        let queue = inner.queues.get_mut(&reason)?;
        match queue.tokens.pop_first() {
            Some((_, token)) => {
                queue.is_taken = true;
                inner.places.remove(&token);
                Some(token)
            }
            None => {
                inner.queues.remove(&reason);
                None
            }
        }
    }

    /// Whether messages wait for this reason.
    pub(crate) fn is_empty(&self, reason: WaitReason) -> bool {
        self.inner.lock().queues.get(&reason).is_none_or(|queue| queue.tokens.is_empty())
    }

    /// Begins to serve a queue, and returns its head. None when it is empty, or another thread serves it,
    /// which then looks again.
    pub(crate) fn begin(&self, reason: WaitReason) -> Option<Head> {
        let mut inner = self.inner.lock();
        let queue = inner.queues.get_mut(&reason)?;
        if std::mem::replace(&mut queue.is_served, true) {
            queue.look_again = true;
            return None;
        }
        queue.look_again = false;
        let head = queue.head();
        if head.is_none() {
            queue.is_served = false;
        }
        head
    }

    /// The head is `gone`: it was sent, or has ended; or it waits in another queue already, if there is none.
    /// Returns the next to look at, and what is to be dropped.
    pub(crate) fn next(
        &self,
        reason: WaitReason,
        gone: Option<Head>,
    ) -> (Option<Head>, Vec<CapacityRequest>) {
        let mut inner = self.inner.lock();
        if let Some(gone) = gone {
            // It may have been sent, have failed, and be back already.
            if inner.places.get(&gone.token) == Some(&(reason, gone.number)) {
                inner.places.remove(&gone.token);
            }
            if let Some(queue) = inner.queues.get_mut(&reason)
                && queue.tokens.get(&gone.number) == Some(&gone.token)
            {
                queue.tokens.remove(&gone.number);
            }
        }
        let Some(queue) = inner.queues.get_mut(&reason) else { return (None, Vec::new()) };
        queue.look_again = false;
        let head = queue.head();
        if head.is_some() {
            return (head, Vec::new());
        }
        queue.is_served = false;
        (None, inner.tidy(reason))
    }

    /// The message waits for another reason from now on, where it keeps its place by when it came. True if it
    /// is the head there.
    pub(crate) fn change(&self, token: Token, to: WaitReason) -> bool {
        let mut inner = self.inner.lock();
        let number = match inner.take_out(token) {
            Some((_, number)) => number,
            None => inner.number(),
        };
        inner.insert(token, to, number)
    }

    /// The message takes the turn in `partition`, or waits for that from now on. True if it has the turn.
    pub(crate) fn change_to_turn(&self, token: Token, partition: Partition) -> bool {
        let reason = WaitReason::Turn(partition);
        let mut inner = self.inner.lock();
        inner.take_out(token);
        let queue = inner.queues.entry(reason).or_default();
        if !queue.is_taken && queue.tokens.is_empty() {
            queue.is_taken = true;
            return true;
        }
        let number = inner.number();
        inner.insert(token, reason, number);
        false
    }

    /// The head has to wait on. Returns it once more if something has happened since it was looked at, else
    /// ends serving.
    pub(crate) fn wait_on(&self, reason: WaitReason) -> Option<Head> {
        let mut inner = self.inner.lock();
        let queue = inner.queues.get_mut(&reason)?;
        if std::mem::take(&mut queue.look_again)
            && let Some(head) = queue.head()
        {
            return Some(head);
        }
        queue.is_served = false;
        None
    }

    /// The thread that serves the queue has panicked.
    pub(crate) fn abort(&self, reason: WaitReason) {
        if let Some(queue) = self.inner.lock().queues.get_mut(&reason) {
            queue.is_served = false;
        }
    }

    /// The message waits no longer. Returns why it waited, and requests for capacity to drop without a lock.
    pub(crate) fn leave(&self, token: Token) -> Option<(WaitReason, Vec<CapacityRequest>)> {
        let mut inner = self.inner.lock();
        let (reason, _) = inner.take_out(token)?;
        let requests = inner.tidy(reason);
        Some((reason, requests))
    }

    /// A number that orders the messages by when they came, for one that is in a queue.
    pub(crate) fn number(&self, token: Token) -> Option<u64> {
        self.inner.lock().places.get(&token).map(|(_, number)| *number)
    }

    /// The reasons for which messages wait, except for their turn.
    pub(crate) fn reasons(&self) -> Vec<WaitReason> {
        let inner = self.inner.lock();
        let is_no_turn = |reason: &&WaitReason| !matches!(reason, WaitReason::Turn(_));
        inner.queues.keys().filter(is_no_turn).copied().collect()
    }

    /// The messages that wait for their turn.
    pub(crate) fn waiting_for_turns(&self) -> Vec<Token> {
        let inner = self.inner.lock();
        let turns = inner.queues.iter().filter(|(reason, _)| matches!(reason, WaitReason::Turn(_)));
        turns.flat_map(|(_, queue)| queue.tokens.values()).copied().collect()
    }

    /// The number of the request for capacity that the queue has made of the connection with this address,
    /// and for how many bytes it is.
    pub(crate) fn request_to(&self, reason: WaitReason, connection: usize) -> Option<(u64, usize)> {
        let inner = self.inner.lock();
        let requests = &inner.queues.get(&reason)?.requests;
        let request = requests.iter().find(|request| request.connection == connection)?;
        Some((request.number, request.bytes))
    }

    /// Remembers what the queue has asked for. Gives it back if the queue is gone.
    pub(crate) fn asked(&self, reason: WaitReason, request: CapacityRequest) -> Option<CapacityRequest> {
        match self.inner.lock().queues.get_mut(&reason) {
            Some(queue) => {
                queue.requests.push(request);
                None
            }
            None => Some(request),
        }
    }

    /// The connection has queued the request. Gives the place there back if it has answered already.
    pub(crate) fn set_wait(
        &self,
        reason: WaitReason,
        number: u64,
        wait: CapacityWait,
    ) -> Option<CapacityWait> {
        let mut inner = self.inner.lock();
        let request = inner
            .queues
            .get_mut(&reason)
            .and_then(|queue| queue.requests.iter_mut().find(|request| request.number == number));
        match request {
            Some(request) => {
                request.wait = Some(wait);
                None
            }
            None => Some(wait),
        }
    }

    /// The connection that was asked has the capacity.
    pub(crate) fn answered(&self, reason: WaitReason, number: u64) -> Option<CapacityRequest> {
        let mut inner = self.inner.lock();
        let requests = &mut inner.queues.get_mut(&reason)?.requests;
        let place = requests.iter().position(|request| request.number == number)?;
        Some(requests.swap_remove(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> Token {
        Token::from(number)
    }

    #[test]
    fn a_turn_goes_to_the_first_who_waits_and_to_nobody_else() {
        let queues = WaitQueues::default();
        let (one, two) = (Partition::new(0, 1), Partition::new(0, 2));
        assert!(queues.try_turn(one) && queues.change_to_turn(token(9), two));
        assert!(!queues.try_turn(one));
        assert!(!queues.change_to_turn(token(1), one) && !queues.change_to_turn(token(2), one));
        assert_eq!(queues.pass_turn(one), Some(token(1)));
        assert!(!queues.try_turn(one), "it was handed over");
        queues.join_first(token(1), one);
        assert_eq!(queues.pass_turn(one), Some(token(1)), "before the one who came later");
        assert_eq!(queues.pass_turn(one), Some(token(2)));
        assert_eq!((queues.pass_turn(one), queues.pass_turn(two)), (None, None));
        assert!(queues.inner.lock().queues.is_empty(), "nothing is kept of partitions that nobody sends to");
    }

    #[test]
    fn message_returned_before_its_departure_is_noted_waits_on() {
        let (queues, reason) = (WaitQueues::default(), WaitReason::NoBroker);
        queues.join(token(1), reason);
        let head = queues.begin(reason).unwrap();
        // It is sent, fails, and waits again, all on another thread.
        queues.join(token(1), reason);
        let again = queues.next(reason, Some(head)).0.unwrap();
        assert_eq!(again.token, token(1));
        // It goes to another queue, and is back.
        queues.change(token(1), WaitReason::AnyCapacity(1));
        queues.change(token(1), reason);
        let again = queues.next(reason, None).0.unwrap();
        assert_eq!(queues.next(reason, Some(again)).0, None);
        assert!(queues.leave(token(1)).is_none());
    }

    #[test]
    fn one_thread_serves_a_queue_and_rechecks_after_changes() {
        let (queues, reason) = (WaitQueues::default(), WaitReason::NoBroker);
        assert_eq!(queues.begin(reason), None);
        assert!(queues.join(token(1), reason) && !queues.join(token(2), reason));
        let head = queues.begin(reason).unwrap();
        assert_eq!(head.token, token(1));
        assert_eq!(queues.begin(reason), None, "another thread serves it");
        assert_eq!(queues.wait_on(reason), Some(head), "so it looks again");
        assert_eq!(queues.wait_on(reason), None);
        assert_eq!(queues.begin(reason), Some(head));
        let second = queues.next(reason, Some(head)).0.unwrap();
        assert_eq!(second.token, token(2));
        assert!(queues.change(token(2), WaitReason::AnyCapacity(1)));
        assert!(!queues.join(token(3), WaitReason::AnyCapacity(1)));
        assert_eq!(queues.next(reason, None).0, None, "the queue is empty");
        assert!(queues.is_empty(reason) && !queues.is_empty(WaitReason::AnyCapacity(1)));
        assert!(queues.change(token(3), reason));
        assert!(!queues.change(token(3), WaitReason::AnyCapacity(1)), "it keeps its place behind the other");
        for left in [2, 3] {
            assert!(queues.leave(token(left)).is_some());
        }
        assert_eq!(queues.leave(token(2)).map(|(reason, _)| reason), None);
        let inner = queues.inner.lock();
        assert!(inner.queues.is_empty() && inner.places.is_empty(), "{inner:?}");
    }
}
