//! Sending: chooses a partition, and hands the message to the connection of its broker.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use metaq_protocol::Partition;
use metaq_transport::{Completions, TransportErrorKind};
use tokio::time::Instant;

use crate::{
    PartitionSelector, SendError, SendErrorKind,
    dispatcher::Place,
    flights::{Cargo, Flights, Offer, Way},
    route::{Route, RouteBroker, TopicState},
    slab::Token,
};

/// How often a selector is asked at most for a partition that messages can go to.
const MOST_ASKS: usize = 1024;

/// What it takes to send a message.
pub(crate) struct Launcher {
    pub(crate) flights: Arc<Flights>,
    /// The same, as connections know it.
    completions: Arc<dyn Completions>,
    selector: Arc<dyn PartitionSelector>,
}

/// Why a message was not handed to a connection.
pub(crate) enum Obstacle {
    /// It has to wait there.
    Wait(Place),
    /// It never can be.
    Never(SendError),
}

impl Launcher {
    pub(crate) fn new(flights: Flights, selector: Arc<dyn PartitionSelector>) -> Self {
        let flights = Arc::new(flights);
        let completions = Arc::clone(&flights) as Arc<dyn Completions>;
        Self { flights, completions, selector }
    }

    /// The producer's selector.
    pub(crate) fn selector(&self) -> &Arc<dyn PartitionSelector> {
        &self.selector
    }

    /// Sends a message, or keeps it until it can be sent; it is taken out of the offer.
    ///
    /// # Errors
    /// When it never can be; the error gives it back.
    pub(crate) fn launch_or_park(
        &self,
        topic: &Arc<TopicState>,
        offer: &mut Offer,
    ) -> Result<Token, SendError> {
        let obstacle = match self.launch(topic, offer, None, false) {
            Ok(token) => return Ok(token),
            Err(obstacle) => obstacle,
        };
        match (obstacle, offer.cargo.take()) {
            (Obstacle::Wait(place), Some(cargo)) => Ok(self.park(topic, cargo, place)),
            (obstacle, cargo) => Err(self.refused(topic, cargo, obstacle)),
        }
    }

    /// Sends a message, or fails if it would have to wait.
    ///
    /// # Errors
    /// As said; the error gives it back.
    pub(crate) fn launch_now(&self, topic: &Arc<TopicState>, cargo: Cargo) -> Result<Token, SendError> {
        let mut offer = Offer { cargo: Some(cargo), much_waits: false };
        let launched = self.launch(topic, &mut offer, None, false);
        launched.map_err(|obstacle| self.refused(topic, offer.cargo, obstacle))
    }

    fn refused(&self, topic: &Arc<TopicState>, cargo: Option<Cargo>, obstacle: Obstacle) -> SendError {
        let error = match obstacle {
            Obstacle::Never(error) => error,
            Obstacle::Wait(place) => place.error(topic),
        };
        match cargo {
            Some(cargo) => self.flights.refuse(topic, cargo, error),
            None => error,
        }
    }

    fn park(&self, topic: &Arc<TopicState>, cargo: Cargo, place: Place) -> Token {
        let deadline = cargo.deadline();
        // Counted before it is there, so that nobody passes it.
        place.enter(topic);
        let token = self.flights.park(Arc::clone(topic), cargo, None);
        if !self.flights.inbox.parked(token, deadline, place, topic) {
            self.flights.fail_undispatched(token);
        }
        token
    }

    /// Chooses a partition and hands the message to its broker's connection, which takes it out of the offer. `token` is
    /// that of a message that was accepted before, `has_waited` whether it may pass those who wait.
    ///
    /// # Errors
    /// Says why the message stays in the offer.
    pub(crate) fn launch(
        &self,
        topic: &Arc<TopicState>,
        offer: &mut Offer,
        token: Option<Token>,
        has_waited: bool,
    ) -> Result<Token, Obstacle> {
        let route = topic.route();
        if route.partitions.is_empty() || (!has_waited && topic.parked.load(Ordering::Acquire) > 0) {
            return Err(if topic.is_withdrawn() {
                Obstacle::Never(SendError::not_published(&topic.topic))
            } else {
                Obstacle::Wait(Place::Route)
            });
        }
        let now = if has_waited {
            Instant::now()
        } else {
            offer.cargo.as_ref().map_or_else(Instant::now, |cargo| cargo.started)
        };
        let asks = if topic.order.is_some() { 1 } else { MOST_ASKS.min(2 * route.partitions.len()) };
        let (mut resting, mut full) = (None, None);
        // The partition that was chosen and can't take the message well.
        let mut unfit = None;
        // If all that have room rest, they are eligible: hence once more than asked.
        for ask in 0..=asks {
            let (partition, broker) = if ask == asks {
                match resting.take() {
                    Some(choice) => choice,
                    None => break,
                }
            } else {
                match self.choose(topic, &route, &mut offer.cargo, unfit)? {
                    Choice::Taken(partition, broker) if self.rests(topic, partition, broker, now) => {
                        resting.get_or_insert((partition, broker));
                        unfit = Some(partition);
                        continue;
                    }
                    Choice::Taken(partition, broker) => (partition, broker),
                    // Another one may be chosen.
                    Choice::NotConnected(partition) => {
                        unfit = Some(partition);
                        continue;
                    }
                    Choice::NoOther => match resting.take() {
                        Some(choice) => choice,
                        None => break,
                    },
                }
            };
            unfit = Some(partition);
            match self.hand_over(topic, partition, broker, offer, token, has_waited) {
                Ok(token) => return Ok(token),
                Err(Back::Full) => drop(full.get_or_insert(&broker.lane.broker)),
                Err(Back::NotConnected) => {}
                Err(Back::NoTurn) => return Err(Obstacle::Wait(Place::Turn(partition))),
            }
        }
        Err(Obstacle::Wait(full.map_or(Place::Route, |broker| Place::Room(Arc::clone(broker)))))
    }

    /// Whether partition or broker are better left alone for now.
    fn rests(&self, topic: &TopicState, partition: Partition, broker: &RouteBroker, now: Instant) -> bool {
        topic.order.is_none() && (broker.lane.broker.rests(now) || topic.rests(partition, now))
    }

    /// Asks the selector, unless it was decided before. `unfit` is what it chose before, if it is asked again.
    fn choose<'r>(
        &self,
        topic: &Arc<TopicState>,
        route: &'r Route,
        cargo: &mut Option<Cargo>,
        unfit: Option<Partition>,
    ) -> Result<Choice<'r>, Obstacle> {
        let Some(cargo) = cargo else { return Ok(Choice::NoOther) };
        if let Some(decided) = cargo.partition() {
            if route.has(decided) {
                let broker = route.broker(decided.broker);
                return Ok(
                    broker.map_or(Choice::NotConnected(decided), |broker| Choice::Taken(decided, broker))
                );
            }
            if route.knows(decided.broker) && route.broker(decided.broker).is_none() {
                return Ok(Choice::NotConnected(decided));
            }
            // The topic has it no more.
            self.flights.change_turn(topic, cargo);
        }
        let wrong = |text| Obstacle::Never(SendError::new(SendErrorKind::NoPartition, &topic.topic, text));
        let answer = topic.selector.select(&topic.topic, &route.partitions, &cargo.message, unfit);
        let partition = match answer.map_err(wrong)? {
            Some(partition) => partition,
            None if unfit.is_some() => return Ok(Choice::NoOther),
            None => return Err(wrong("the partition selector refused it".to_owned())),
        };
        if topic.order.is_some() {
            cargo.more().partition = Some(partition);
        }
        match route.broker(partition.broker) {
            Some(broker) if route.has(partition) => Ok(Choice::Taken(partition, broker)),
            None if route.knows(partition.broker) => Ok(Choice::NotConnected(partition)),
            _ => {
                Err(wrong(format!("the partition selector chose {partition}, which the topic doesn't have")))
            }
        }
    }

    fn hand_over(
        &self,
        topic: &TopicState,
        partition: Partition,
        broker: &RouteBroker,
        offer: &mut Offer,
        token: Option<Token>,
        has_waited: bool,
    ) -> Result<Token, Back> {
        if let (Some(order), Some(cargo)) = (&topic.order, &mut offer.cargo)
            && !cargo.has_turn()
        {
            if !order.take(partition, has_waited) {
                return Err(Back::NoTurn);
            }
            cargo.more().has_turn = true;
        }
        if !has_waited && broker.lane.broker.parked.load(Ordering::Acquire) > 0 {
            return Err(Back::Full);
        }
        let connection = broker.connection(partition).ok_or(Back::NotConnected)?;
        let way = Way { lane: &broker.lane, connection: &**connection, partition };
        match self.flights.launch(&self.completions, way, offer, token) {
            Ok(token) => token.ok_or(Back::NotConnected),
            Err(error) if error.kind() == TransportErrorKind::Full => Err(Back::Full),
            Err(_) => Err(Back::NotConnected),
        }
    }
}

/// Where a message goes.
enum Choice<'r> {
    Taken(Partition, &'r RouteBroker),
    /// The broker of the partition is not connected at the moment.
    NotConnected(Partition),
    /// Nowhere but where it was chosen to go before.
    NoOther,
}

/// Why a connection did not take a message.
enum Back {
    Full,
    NotConnected,
    NoTurn,
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").field("flights", &self.flights).finish_non_exhaustive()
    }
}
