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
    flights::{Cargo, Flights, Way},
    lane::Broker,
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
    selector: Box<dyn PartitionSelector>,
}

/// Why a message was not handed to a connection.
pub(crate) enum Obstacle {
    /// It has to wait there.
    Wait(Place),
    /// It never can be.
    Never(SendError),
}

/// A message that comes back.
pub(crate) type Held = Box<(Cargo, Obstacle)>;

fn held<T>(cargo: Cargo, obstacle: Obstacle) -> Result<T, Held> {
    Err(Box::new((cargo, obstacle)))
}

impl Launcher {
    pub(crate) fn new(flights: Flights, selector: Box<dyn PartitionSelector>) -> Self {
        let flights = Arc::new(flights);
        let completions = Arc::clone(&flights) as Arc<dyn Completions>;
        Self { flights, completions, selector }
    }

    /// The producer's selector.
    pub(crate) fn selector(&self) -> &dyn PartitionSelector {
        &*self.selector
    }

    /// Sends a message, or keeps it until it can be sent.
    ///
    /// # Errors
    /// When it never can be; the error gives it back.
    pub(crate) fn launch_or_park(&self, topic: &Arc<TopicState>, cargo: Cargo) -> Result<Token, SendError> {
        match self.launch(topic, cargo, None, false) {
            Ok(token) => Ok(token),
            Err(held) => match *held {
                (cargo, Obstacle::Wait(place)) => Ok(self.park(topic, cargo, place)),
                (cargo, Obstacle::Never(error)) => Err(self.flights.refuse(topic, cargo, error)),
            },
        }
    }

    /// Sends a message, or fails if it would have to wait.
    ///
    /// # Errors
    /// As said; the error gives it back.
    pub(crate) fn launch_now(&self, topic: &Arc<TopicState>, cargo: Cargo) -> Result<Token, SendError> {
        match self.launch(topic, cargo, None, false) {
            Ok(token) => Ok(token),
            Err(held) => {
                let (cargo, obstacle) = *held;
                let error = match obstacle {
                    Obstacle::Never(error) => error,
                    Obstacle::Wait(place) => place.error(topic),
                };
                Err(self.flights.refuse(topic, cargo, error))
            }
        }
    }

    fn park(&self, topic: &Arc<TopicState>, cargo: Cargo, place: Place) -> Token {
        let deadline = cargo.deadline;
        // Counted before it is there, so that nobody passes it.
        place.enter(topic);
        let token = self.flights.park(Arc::clone(topic), cargo, None);
        if !self.flights.inbox.parked(token, deadline, place, topic) {
            self.flights.fail_undispatched(token);
        }
        token
    }

    /// Chooses a partition and hands the message to its broker's connection. `token` is that of a message that was
    /// accepted before, `has_waited` whether it may pass those who wait.
    ///
    /// # Errors
    /// The message comes back with the reason.
    pub(crate) fn launch(
        &self,
        topic: &Arc<TopicState>,
        mut cargo: Cargo,
        token: Option<Token>,
        has_waited: bool,
    ) -> Result<Token, Held> {
        let route = topic.route();
        if route.partitions.is_empty() || (!has_waited && topic.parked.load(Ordering::Acquire) > 0) {
            let obstacle = if topic.is_withdrawn() {
                Obstacle::Never(SendError::not_published(&topic.topic))
            } else {
                Obstacle::Wait(Place::Route)
            };
            return held(cargo, obstacle);
        }
        let now = if has_waited { Instant::now() } else { cargo.started };
        let mut asks = if topic.order.is_some() { 1 } else { MOST_ASKS.min(2 * route.partitions.len()) };
        let (mut resting, mut full) = (None, None);
        while asks > 0 {
            asks -= 1;
            let (partition, broker) = match self.choose(topic, &route, &mut cargo) {
                Ok(Some(choice)) => choice,
                // Its broker is not connected at the moment; another one may be asked for.
                Ok(None) => continue,
                Err(error) => return held(cargo, Obstacle::Never(error)),
            };
            if topic.order.is_none() && (broker.lane.broker.rests(now) || topic.rests(partition, now)) {
                resting.get_or_insert((partition, broker));
                continue;
            }
            match self.hand_over(topic, partition, broker, cargo, token, has_waited) {
                Ok(token) => return Ok(token),
                Err(back) => match *back {
                    (back, Back::Full) => {
                        full.get_or_insert(&broker.lane.broker);
                        cargo = back;
                    }
                    (back, Back::NotConnected) => cargo = back,
                    (back, Back::NoTurn) => return held(back, Obstacle::Wait(Place::Turn(partition))),
                },
            }
        }
        // If all that have room rest, they are eligible.
        if let Some((partition, broker)) = resting {
            match self.hand_over(topic, partition, broker, cargo, token, has_waited) {
                Ok(token) => return Ok(token),
                Err(back) => match *back {
                    (back, Back::Full) => {
                        full.get_or_insert(&broker.lane.broker);
                        cargo = back;
                    }
                    (back, _) => cargo = back,
                },
            }
        }
        let place = full.map_or(Place::Route, |broker: &Arc<Broker>| Place::Room(Arc::clone(broker)));
        held(cargo, Obstacle::Wait(place))
    }

    /// Asks the selector, unless it was decided before. None when the chosen broker isn't connected.
    fn choose<'r>(
        &self,
        topic: &Arc<TopicState>,
        route: &'r Route,
        cargo: &mut Cargo,
    ) -> Result<Option<(Partition, &'r RouteBroker)>, SendError> {
        if let Some(decided) = cargo.partition() {
            if route.has(decided) {
                return Ok(route.broker(decided.broker).map(|broker| (decided, broker)));
            }
            if route.knows(decided.broker) && route.broker(decided.broker).is_none() {
                return Ok(None);
            }
            // The topic has it no more.
            self.flights.change_turn(topic, cargo);
        }
        let selector = topic.selector.as_deref().unwrap_or(&*self.selector);
        let wrong = |text: String| SendError::new(SendErrorKind::NoPartition, &topic.topic, text);
        let Some(partition) = selector.select(&topic.topic, &route.partitions, &cargo.message) else {
            return Err(wrong("the partition selector refused it".to_owned()));
        };
        if topic.order.is_some() {
            cargo.more().partition = Some(partition);
        }
        match route.broker(partition.broker) {
            Some(broker) if route.has(partition) => Ok(Some((partition, broker))),
            None if route.knows(partition.broker) => Ok(None),
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
        mut cargo: Cargo,
        token: Option<Token>,
        has_waited: bool,
    ) -> Result<Token, Box<(Cargo, Back)>> {
        if let Some(order) = &topic.order
            && !cargo.has_turn()
        {
            if !order.take(partition, has_waited) {
                return Err(Box::new((cargo, Back::NoTurn)));
            }
            cargo.more().has_turn = true;
        }
        if !has_waited && broker.lane.broker.parked.load(Ordering::Acquire) > 0 {
            return Err(Box::new((cargo, Back::Full)));
        }
        let Some(connection) = broker.connection(partition) else {
            return Err(Box::new((cargo, Back::NotConnected)));
        };
        let way = Way { lane: &broker.lane, connection: &**connection, partition };
        self.flights.launch(&self.completions, way, cargo, token).map_err(|refused| {
            let (cargo, error) = *refused;
            let back = match error.kind() {
                TransportErrorKind::Full => Back::Full,
                _ => Back::NotConnected,
            };
            Box::new((cargo, back))
        })
    }
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
