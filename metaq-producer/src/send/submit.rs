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
    Message, PartitionSelector, SendError, SendErrorKind, panics,
    route::{
        topic_broker::Broker,
        topic_state::{Route, RouteBroker, TopicState},
    },
    send::{
        dispatcher::Requests,
        in_flight::{Cargo, Flights, Offer, Way},
        slab::Token,
        span::SendSpan,
        wait_queue::WaitReason,
    },
};

/// How often a selector is asked at most for a partition that messages can go to.
const MOST_ASKS: usize = 1024;

/// How often a selector may name the same partition again before it is taken to insist on it.
const MOST_REPEATS: usize = 8;

/// What it takes to send a message.
pub(crate) struct Launcher {
    pub(crate) flights: Arc<Flights>,
    /// The same, as connections know it.
    pub(crate) completions: Arc<dyn Completions>,
    selector: Arc<dyn PartitionSelector>,
    /// The capacity that was asked for, by number.
    pub(crate) requests: Mutex<Requests>,
    pub(crate) next_request: AtomicU64,
    /// Whether somebody who offers messages had better let their connections write.
    pub(crate) should_yield: AtomicBool,
}

/// Why a message was not handed to a connection.
pub(crate) enum Obstacle {
    /// It has to wait.
    Wait(Box<Wait>),
    /// The broker of the partition that the selector chose for it is away.
    Away(Partition),
    /// It never can be.
    Never(SendError),
}

impl Obstacle {
    /// What the message has to wait for.
    ///
    /// # Errors
    /// Why it never can be sent.
    pub(crate) fn into_wait(self) -> Result<Box<Wait>, SendError> {
        match self {
            Self::Wait(wait) => Ok(wait),
            Self::Away(partition) => {
                Ok(Box::new(Wait { reason: WaitReason::Away(partition.broker), full: Vec::new() }))
            }
            Self::Never(error) => Err(error),
        }
    }
}

/// Why a message was not accepted.
pub(crate) enum NotAccepted {
    /// It can't be sent; the error gives it back.
    Refused(SendError),
    /// So much waits for the same that it is to wait without its share of the room, which was given back.
    HasToWaitOutside(Message, WaitReason, Option<Box<SendSpan>>),
}

/// What a message has to wait for.
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
    /// Which one of the broker's it is.
    pub(crate) number: usize,
}

/// What a message has met on its way to a connection.
#[derive(Default)]
struct Seen<'r> {
    full: Vec<FullConnection>,
    /// The addresses of connections that turned out not to be ready, and their brokers.
    away: Vec<(usize, BrokerId)>,
    /// Those that could take it, but have failed lately: the first partition of each connection.
    resting: Vec<(Partition, &'r RouteBroker)>,
    /// The partition that was chosen last, and can't take the message well.
    unfit: Option<Partition>,
}

impl<'r> Seen<'r> {
    /// After the first choice, which is resting, or was refused.
    #[cold]
    fn first(partition: Partition, broker: &'r RouteBroker, refused: Option<Option<FullConnection>>) -> Self {
        let mut seen = Self { unfit: Some(partition), ..Self::default() };
        match refused {
            Some(back) => seen.add(broker, partition, back),
            None => seen.resting.push((partition, broker)),
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
    fn add_resting(&mut self, broker: &'r RouteBroker, partition: Partition) {
        let address = address(broker, partition);
        if !self.resting.iter().any(|(partition, broker)| self::address(broker, *partition) == address) {
            self.resting.push((partition, broker));
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

impl From<WaitReason> for Obstacle {
    fn from(reason: WaitReason) -> Self {
        Self::Wait(Box::new(Wait { reason, full: Vec::new() }))
    }
}

impl From<Seen<'_>> for Obstacle {
    fn from(seen: Seen<'_>) -> Self {
        let Seen { full, away, .. } = seen;
        let reason = match full.as_slice() {
            [] => match away.as_slice() {
                // The message can go nowhere else.
                [(_, only), more @ ..] if more.iter().all(|(_, id)| id == only) => WaitReason::Away(*only),
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

impl Launcher {
    pub(crate) fn new(flights: Flights, selector: Arc<dyn PartitionSelector>) -> Arc<Self> {
        let flights = Arc::new(flights);
        let completions = Arc::clone(&flights) as Arc<dyn Completions>;
        let this = Arc::new(Self {
            flights,
            completions,
            selector,
            requests: Mutex::default(),
            next_request: AtomicU64::new(0),
            should_yield: AtomicBool::new(false),
        });
        this.flights.set_launcher(Arc::downgrade(&this));
        this
    }

    /// The producer's selector.
    pub(crate) fn selector(&self) -> &Arc<dyn PartitionSelector> {
        &self.selector
    }

    /// Sends a message, or keeps it until it can be sent; it is taken out of the offer.
    ///
    /// # Errors
    /// When it never can be, or isn't to be kept now.
    pub(crate) fn launch_or_park(
        self: &Arc<Self>,
        topic: &Arc<TopicState>,
        offer: &mut Offer,
    ) -> Result<Token, NotAccepted> {
        match self.launch(topic, offer, None, &mut None) {
            Ok(token) => Ok(token),
            Err(obstacle) => self.park_offer(topic, offer, obstacle),
        }
    }

    #[cold]
    #[inline(never)]
    fn park_offer(
        self: &Arc<Self>,
        topic: &Arc<TopicState>,
        offer: &mut Offer,
        obstacle: Obstacle,
    ) -> Result<Token, NotAccepted> {
        let (reason, mut cargo) = match (obstacle.into_wait(), offer.cargo.take()) {
            (Ok(wait), Some(cargo)) => (wait.reason, cargo),
            (obstacle, cargo) => {
                let error = obstacle.map_or_else(|error| error, |wait| wait.reason.error(topic));
                return Err(NotAccepted::Refused(self.refused(topic, cargo, error)));
            }
        };
        let permit = match offer.permit.take() {
            Some(permit) => permit.try_change(reason),
            None => self.flights.wait_limits.try_enter(&topic.waits, reason, cargo.share),
        };
        let Some(permit) = permit else {
            panics::contain(|| self.flights.permits.give_one_back(cargo.share));
            if let Some(turn) = cargo.turn() {
                self.flights.pass_turn(topic, turn);
            }
            let span = cargo.take_span();
            return Err(NotAccepted::HasToWaitOutside(cargo.message, reason, span));
        };
        cargo.more().permit = Some(permit);
        self.park(topic, cargo, reason).map_err(NotAccepted::Refused)
    }

    /// Sends a message, or fails if it would have to wait.
    ///
    /// # Errors
    /// As said; the error gives it back.
    pub(crate) fn launch_now(&self, topic: &Arc<TopicState>, cargo: Cargo) -> Result<Token, SendError> {
        let mut offer = Offer::new(cargo, None);
        let launched = self.launch(topic, &mut offer, None, &mut None);
        launched.map_err(|obstacle| {
            let error = obstacle.into_wait().map_or_else(|error| error, |wait| wait.reason.refusal(topic));
            self.refused(topic, offer.cargo, error)
        })
    }

    fn refused(&self, topic: &Arc<TopicState>, cargo: Option<Cargo>, error: SendError) -> SendError {
        match cargo {
            Some(cargo) => self.flights.refuse(topic, cargo, error),
            None => error,
        }
    }

    /// Chooses a partition and hands the message to its broker's connection, which takes it out of the offer. `token` is
    /// that of a message that has waited, which uses the reservation if it goes where that is.
    ///
    /// # Errors
    /// Says why the message stays in the offer.
    pub(crate) fn launch(
        &self,
        topic: &Arc<TopicState>,
        offer: &mut Offer,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
    ) -> Result<Token, Obstacle> {
        if topic.is_ordered {
            return self.launch_in_order(topic, offer, token, reservation);
        }
        let route = topic.route();
        if route.partitions.is_empty() {
            return Err(self.no_broker(topic));
        }
        let now = match &offer.cargo {
            Some(cargo) if token.is_none() => cargo.started,
            _ => Instant::now(),
        };
        // The way of nearly all messages.
        let Some((partition, broker)) = self.select(topic, &route, offer, None)? else {
            return Err(WaitReason::NoBroker.into());
        };
        let refused = if broker.lane.broker.rests(now) || topic.rests(partition, now) {
            None
        } else {
            match self.hand_over(partition, broker, offer, token, reservation) {
                Ok(token) => return Ok(token),
                Err(refused) => Some(refused),
            }
        };
        let seen = Seen::first(partition, broker, refused);
        self.launch_elsewhere(topic, &route, offer, token, reservation, now, seen)
    }

    /// Asks the selector for other partitions, until one takes the message or it has seen all of them.
    #[cold]
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "the second half of one function")]
    fn launch_elsewhere<'r>(
        &self,
        topic: &Arc<TopicState>,
        route: &'r Route,
        offer: &mut Offer,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
        now: Instant,
        mut seen: Seen<'r>,
    ) -> Result<Token, Obstacle> {
        let (mut asks, mut repeats) = (1, 0);
        let most_asks = MOST_ASKS.min(2 * route.partitions.len());
        loop {
            let count = seen.full.len() + seen.away.len();
            let limit = if count == 0 || !seen.resting.is_empty() { most_asks } else { 4 * most_asks };
            let is_over = count >= route.connections || repeats >= MOST_REPEATS || asks >= limit;
            let chosen = if is_over { None } else { self.select(topic, route, offer, seen.unfit)? };
            asks += 1;
            let Some((partition, broker)) = chosen else { break };
            repeats = if seen.unfit.replace(partition) == Some(partition) { repeats + 1 } else { 0 };
            if broker.lane.broker.rests(now) || topic.rests(partition, now) {
                seen.add_resting(broker, partition);
                continue;
            }
            if !seen.has(broker, partition) {
                match self.hand_over(partition, broker, offer, token, reservation) {
                    Ok(token) => return Ok(token),
                    Err(back) => seen.add(broker, partition, back),
                }
            }
        }
        // If all that have capacity are resting, the first of them is the probe.
        for (partition, broker) in std::mem::take(&mut seen.resting) {
            if seen.has(broker, partition) {
                continue;
            }
            match self.hand_over(partition, broker, offer, token, reservation) {
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
    pub(crate) fn no_broker(&self, topic: &Arc<TopicState>) -> Obstacle {
        if topic.is_withdrawn() {
            Obstacle::Never(self.withdrawn(topic))
        } else {
            topic.ensure_followed();
            WaitReason::NoBroker.into()
        }
    }

    /// The error of a message whose topic was unpublished.
    pub(crate) fn withdrawn(&self, topic: &TopicState) -> SendError {
        if self.flights.is_closed() {
            SendError::closed(&topic.topic)
        } else {
            SendError::not_published(&topic.topic)
        }
    }

    /// Asks the selector. `unfit` is what it chose before, if it is asked again; then it may choose nothing.
    #[inline(always)]
    pub(crate) fn select<'r>(
        &self,
        topic: &Arc<TopicState>,
        route: &'r Route,
        offer: &Offer,
        unfit: Option<Partition>,
    ) -> Result<Option<(Partition, &'r RouteBroker)>, Obstacle> {
        let Some(cargo) = &offer.cargo else { return Ok(None) };
        let wrong = |text| Obstacle::Never(SendError::new(SendErrorKind::NoPartition, &topic.topic, text));
        let answer = topic.selector.select(&topic.topic, &route.partitions, &cargo.message, unfit);
        let partition = match answer.map_err(wrong)? {
            Some(partition) => partition,
            None if unfit.is_some() => return Ok(None),
            None => return Err(wrong("the partition selector refused it".to_owned())),
        };
        match route.broker(partition.broker) {
            Some(broker) if route.has(partition) => Ok(Some((partition, broker))),
            None if route.knows(partition.broker) && unfit.is_some() => Ok(None),
            None if route.knows(partition.broker) => Err(Obstacle::Away(partition)),
            _ => {
                Err(wrong(format!("the partition selector chose {partition}, which the topic doesn't have")))
            }
        }
    }

    /// Hands the message to the connection for a partition.
    ///
    /// # Errors
    /// The connection if it has no capacity, or others wait for that; none if it isn't connected.
    // Inlined, so that the message goes from the offer to its entry at once.
    #[inline(always)]
    pub(crate) fn hand_over(
        &self,
        partition: Partition,
        broker: &RouteBroker,
        offer: &mut Offer,
        token: Option<Token>,
        reservation: &mut Option<Reservation>,
    ) -> Result<Token, Option<FullConnection>> {
        let Some((number, connection)) = broker.numbered_connection(partition) else { return Err(None) };
        let full = || {
            Some(FullConnection {
                broker: Arc::clone(&broker.lane.broker),
                connection: Arc::clone(connection),
                id: broker.id,
                number,
            })
        };
        if token.is_none() && broker.lane.broker.is_gated(number) {
            return Err(full());
        }
        let way = Way { lane: &broker.lane, connection: &**connection, partition };
        match self.flights.launch(&self.completions, way, offer, token, reservation) {
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

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").field("flights", &self.flights).finish_non_exhaustive()
    }
}
