//! Sending: chooses a partition, and hands the message to the connection of its broker.

use std::{
    fmt,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use metaq_protocol::{BrokerId, Partition};
use metaq_transport::{Completions, Connection, Reservation, TransportErrorKind};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    Message, SendError, panics,
    route::{
        topic_broker::Broker,
        topic_state::{Absence, Route, RouteBroker, TopicState},
        wait_queue::WaitReason,
    },
    send::{
        choice::{decided, keep_choice},
        dispatcher::Requests,
        span::SendSpan,
        unacknowledged::{PendingMessage, Submission, Unacknowledged, Way},
    },
    token::Token,
};

/// The largest number of times that a selector is asked for a partition that messages can go to.
pub(crate) const MOST_ASKS: usize = 1024;

/// The number of times that a selector may name the same partition before it is taken to insist on it.
const MOST_REPEATS: usize = 8;

/// Submits messages to connections.
pub(crate) struct Submitter {
    pub(crate) unacknowledged: Arc<Unacknowledged>,
    /// The same, as connections know it.
    pub(crate) completions: Arc<dyn Completions>,
    /// The capacity that was asked for, by number.
    pub(crate) requests: Mutex<Requests>,
    pub(crate) next_request: AtomicU64,
    /// Set when callers should yield so that connections can write; the next `Inner::enqueue` does, of any
    /// task.
    pub(crate) should_yield: AtomicBool,
}

/// The reason why a message was not handed to a connection.
pub(crate) enum NotSubmitted {
    /// It has to wait.
    Wait(Box<Wait>),
    /// The partition that was chosen for it isn't there now.
    Away(Partition, Absence),
    /// It never can be.
    Never(SendError),
}

impl NotSubmitted {
    /// The reason to wait.
    ///
    /// # Errors
    /// Why it never can be sent.
    pub(crate) fn into_wait(self) -> Result<Box<Wait>, SendError> {
        match self {
            Self::Wait(wait) => Ok(wait),
            Self::Away(partition, absence) => {
                let reason = WaitReason::of_absence(partition, absence);
                Ok(Box::new(Wait { reason, full: Vec::new() }))
            }
            Self::Never(error) => Err(error),
        }
    }
}

/// The reason why a message was not accepted.
pub(crate) enum NotAccepted {
    /// It can't be sent; the error gives it back.
    Refused(SendError),
    /// Too much waits for the same broker: it has to wait without its share of the capacity, which was given
    /// back.
    HasToWaitOutside(Message, WaitReason, Option<Box<SendSpan>>),
}

/// The reason why a message waits.
pub(crate) struct Wait {
    pub(crate) reason: WaitReason,
    /// The connections that have no capacity for it.
    pub(crate) full: Vec<FullConnection>,
}

/// A connection that has no capacity.
pub(crate) struct FullConnection {
    pub(crate) broker: Arc<Broker>,
    pub(crate) connection: Arc<dyn Connection>,
    pub(crate) id: BrokerId,
    /// Its number among the broker's connections.
    pub(crate) number: usize,
}

/// The partitions and brokers that a submission has tried.
#[derive(Default)]
struct Seen<'r> {
    full: Vec<FullConnection>,
    /// The addresses of connections that turned out not to be ready, and their brokers.
    away: Vec<(usize, BrokerId)>,
    /// Those that could take it, but have failed lately: the first partition of each connection.
    cooling_down: Vec<(Partition, &'r RouteBroker)>,
    /// The partition that was chosen last, and can't take the message well.
    unfit: Option<Partition>,
}

impl<'r> Seen<'r> {
    /// After the first choice, which is cooling down, or was refused.
    #[cold]
    fn first(partition: Partition, broker: &'r RouteBroker, refused: Option<Option<FullConnection>>) -> Self {
        let mut seen = Self { unfit: Some(partition), ..Self::default() };
        match refused {
            Some(back) => seen.add(broker, partition, back),
            None => seen.cooling_down.push((partition, broker)),
        }
        seen
    }

    /// Whether the connection for the partition has refused the message.
    fn has(&self, broker: &RouteBroker, partition: Partition) -> bool {
        let Some(address) = address(broker, partition) else { return true };
        self.away.iter().any(|(away, _)| *away == address)
            || self.full.iter().any(|full| full.address() == address)
    }

    #[cold]
    fn add_cooling_down(&mut self, broker: &'r RouteBroker, partition: Partition) {
        let address = address(broker, partition);
        if !self.cooling_down.iter().any(|(partition, broker)| self::address(broker, *partition) == address) {
            self.cooling_down.push((partition, broker));
        }
    }

    #[cold]
    fn add(&mut self, broker: &RouteBroker, partition: Partition, back: Option<FullConnection>) {
        match back {
            Some(full) => self.full.push(full),
            None => self.away.extend(address(broker, partition).map(|address| (address, broker.id))),
        }
    }
}

/// The address of the connection for a partition, by which it is known.
fn address(broker: &RouteBroker, partition: Partition) -> Option<usize> {
    broker.connection(partition).map(|connection| Arc::as_ptr(connection).addr())
}

impl From<WaitReason> for NotSubmitted {
    fn from(reason: WaitReason) -> Self {
        Self::Wait(Box::new(Wait { reason, full: Vec::new() }))
    }
}

impl From<Seen<'_>> for NotSubmitted {
    fn from(seen: Seen<'_>) -> Self {
        let Seen { full, away, .. } = seen;
        let reason = match full.as_slice() {
            [] => match away.as_slice() {
                // The message can go nowhere else.
                [(_, only), rare @ ..] if rare.iter().all(|(_, id)| id == only) => WaitReason::Away(*only),
                _ => WaitReason::NoBroker,
            },
            [only] => WaitReason::Capacity(only.id, only.number),
            several => {
                WaitReason::AnyCapacity(several.iter().fold(0, |all, full| all.wrapping_add(full.mixed())))
            }
        };
        Self::Wait(Box::new(Wait { reason, full }))
    }
}

impl Submitter {
    pub(crate) fn new(unacknowledged: Unacknowledged) -> Arc<Self> {
        let unacknowledged = Arc::new(unacknowledged);
        let completions = Arc::clone(&unacknowledged) as Arc<dyn Completions>;
        let this = Arc::new(Self {
            unacknowledged,
            completions,
            requests: Mutex::default(),
            next_request: AtomicU64::new(0),
            should_yield: AtomicBool::new(false),
        });
        this.unacknowledged.set_submitter(Arc::downgrade(&this));
        this
    }

    /// Sends a message, or keeps it until it can be sent; it is taken out of the submission.
    ///
    /// # Errors
    /// When it never can be, or isn't to be kept now.
    pub(crate) fn send_or_wait(
        self: &Arc<Self>,
        topic: &Arc<TopicState>,
        submission: &mut Submission,
    ) -> Result<Token, NotAccepted> {
        match self.try_send(topic, submission, None, &mut None) {
            Ok(token) => Ok(token),
            Err(not_submitted) => self.have_wait(topic, submission, not_submitted),
        }
    }

    #[cold]
    #[inline(never)]
    fn have_wait(
        self: &Arc<Self>,
        topic: &Arc<TopicState>,
        submission: &mut Submission,
        not_submitted: NotSubmitted,
    ) -> Result<Token, NotAccepted> {
        let (reason, mut pending) = match (not_submitted.into_wait(), submission.pending.take()) {
            (Ok(wait), Some(pending)) => (wait.reason, pending),
            (not_submitted, pending) => {
                let error = not_submitted.map_or_else(|error| error, |wait| wait.reason.error(topic));
                return Err(NotAccepted::Refused(self.refused(topic, pending, error)));
            }
        };
        let permit = match submission.permit.take() {
            Some(permit) => permit.try_change(reason),
            None => self.unacknowledged.wait_limits.try_enter(&topic.waits, reason, pending.share),
        };
        let Some(permit) = permit else {
            panics::contain(|| self.unacknowledged.permits.give_one_back(pending.share));
            if let Some(turn) = pending.turn() {
                self.unacknowledged.pass_turn(topic, turn);
            }
            let span = pending.take_span();
            return Err(NotAccepted::HasToWaitOutside(pending.message, reason, span));
        };
        pending.rare().permit = Some(permit);
        self.wait_in_queue(topic, pending, reason).map_err(NotAccepted::Refused)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the message would have to wait; the error gives it back.
    pub(crate) fn send_now(
        &self,
        topic: &Arc<TopicState>,
        pending: PendingMessage,
    ) -> Result<Token, SendError> {
        let mut submission = Submission::new(pending, None);
        let sent = self.try_send(topic, &mut submission, None, &mut None);
        sent.map_err(|not_submitted| {
            let error =
                not_submitted.into_wait().map_or_else(|error| error, |wait| wait.reason.refusal(topic));
            self.refused(topic, submission.pending, error)
        })
    }

    fn refused(
        &self,
        topic: &Arc<TopicState>,
        pending: Option<PendingMessage>,
        error: SendError,
    ) -> SendError {
        match pending {
            Some(pending) => self.unacknowledged.refuse(topic, pending, error),
            None => error,
        }
    }

    /// Chooses a partition and hands the message to its broker's connection, which takes it out of the
    /// submission. `token` is that of a message that has waited, which uses the reservation if it goes where
    /// that is.
    ///
    /// # Errors
    /// Says why the message stays in the submission.
    pub(crate) fn try_send(
        &self,
        topic: &Arc<TopicState>,
        submission: &mut Submission,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
    ) -> Result<Token, NotSubmitted> {
        if topic.is_ordered {
            return self.try_send_in_order(topic, submission, token, reservation);
        }
        let route = topic.route();
        if route.partitions.is_empty() {
            return Err(self.no_broker(topic));
        }
        let now = match &submission.pending {
            Some(pending) if token.is_none() => pending.started,
            _ => Instant::now(),
        };
        let decided = if token.is_some() { decided(&route, submission)? } else { None };
        // The way of nearly all messages.
        let selected = match decided {
            None => self.select(topic, &route, submission, None),
            decided => Ok(decided),
        };
        let (partition, broker) = match selected {
            Ok(Some(selected)) => selected,
            Ok(None) => return Err(WaitReason::NoBroker.into()),
            Err(not_submitted) => return Err(keep_choice(submission, not_submitted)),
        };
        let refused =
            if broker.topic_broker.broker.is_cooling_down(now) || topic.is_cooling_down(partition, now) {
                None
            } else {
                match self.hand_over(partition, broker, submission, token, reservation) {
                    Ok(token) => return Ok(token),
                    Err(refused) => Some(refused),
                }
            };
        let seen = Seen::first(partition, broker, refused);
        self.try_elsewhere(topic, &route, submission, token, reservation, now, seen)
    }

    /// Asks the selector for other partitions, until one takes the message or it has seen all of them.
    #[cold]
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "the second half of one function")]
    fn try_elsewhere<'r>(
        &self,
        topic: &Arc<TopicState>,
        route: &'r Route,
        submission: &mut Submission,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
        now: Instant,
        mut seen: Seen<'r>,
    ) -> Result<Token, NotSubmitted> {
        let (mut asks, mut repeats) = (1, 0);
        let most_asks = MOST_ASKS.min(2 * route.choices().len());
        loop {
            let count = seen.full.len() + seen.away.len();
            let limit = if count == 0 || !seen.cooling_down.is_empty() { most_asks } else { 4 * most_asks };
            let is_over = count >= route.connections || repeats >= MOST_REPEATS || asks >= limit;
            let chosen = if is_over { None } else { self.select(topic, route, submission, seen.unfit)? };
            asks += 1;
            let Some((partition, broker)) = chosen else { break };
            repeats = if seen.unfit.replace(partition) == Some(partition) { repeats + 1 } else { 0 };
            if broker.topic_broker.broker.is_cooling_down(now) || topic.is_cooling_down(partition, now) {
                seen.add_cooling_down(broker, partition);
                continue;
            }
            if !seen.has(broker, partition) {
                match self.hand_over(partition, broker, submission, token, reservation) {
                    Ok(token) => return Ok(token),
                    Err(back) => seen.add(broker, partition, back),
                }
            }
        }
        // If all that have capacity are cooling down, the first of them is the probe.
        for (partition, broker) in std::mem::take(&mut seen.cooling_down) {
            if seen.has(broker, partition) {
                continue;
            }
            match self.hand_over(partition, broker, submission, token, reservation) {
                Ok(token) => return Ok(token),
                Err(back) => seen.add(broker, partition, back),
            }
        }
        if seen.full.is_empty() {
            topic.ensure_followed();
        }
        Err(seen.into())
    }

    /// No broker of the topic is connected.
    #[cold]
    pub(crate) fn no_broker(&self, topic: &Arc<TopicState>) -> NotSubmitted {
        if topic.is_withdrawn() {
            NotSubmitted::Never(self.withdrawn(topic))
        } else {
            topic.ensure_followed();
            WaitReason::NoBroker.into()
        }
    }

    /// The error of a message whose topic was unpublished.
    pub(crate) fn withdrawn(&self, topic: &TopicState) -> SendError {
        if self.unacknowledged.is_closed() {
            SendError::closed(&topic.topic)
        } else if let Some(error) = topic.followed().failure() {
            SendError::publishing(&topic.topic, &error)
        } else {
            SendError::not_published(&topic.topic)
        }
    }

    /// Hands the message to the connection for a partition.
    ///
    /// # Errors
    /// The connection if it has no capacity, or others wait for that; none if it isn't connected.
    // Inlined, so that the message goes from the submission to its entry at once.
    #[inline(always)]
    pub(crate) fn hand_over(
        &self,
        partition: Partition,
        broker: &RouteBroker,
        submission: &mut Submission,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
    ) -> Result<Token, Option<FullConnection>> {
        let Some((number, connection)) = broker.numbered_connection(partition) else { return Err(None) };
        let full = || {
            Some(FullConnection {
                broker: Arc::clone(&broker.topic_broker.broker),
                connection: Arc::clone(connection),
                id: broker.id,
                number,
            })
        };
        if token.is_none() && broker.topic_broker.broker.is_gated(number) {
            return Err(full());
        }
        let way = Way { topic_broker: &broker.topic_broker, connection: &**connection, partition };
        match self.unacknowledged.hand_over(&self.completions, way, submission, token, reservation) {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(None),
            Err(error) if error.kind() == TransportErrorKind::Full => Err(full()),
            Err(_) => Err(None),
        }
    }
}

impl FullConnection {
    /// The connection's address, by which it is found again.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.connection).addr()
    }

    /// A number that stands for the connection, also in a sum with those of others.
    fn mixed(&self) -> u64 {
        foldhash::fast::FixedState::default().hash_one((self.id, self.number))
    }
}

impl fmt::Debug for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter").field("unacknowledged", &self.unacknowledged).finish_non_exhaustive()
    }
}
