//! Sends what had to wait: for a broker, for room, for its turn, or for its next attempt.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use metaq_protocol::Partition;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    SendError, SendErrorKind,
    flights::{Flights, Offer},
    lane::Broker,
    launcher::{Launcher, Obstacle},
    route::TopicState,
    slab::Token,
};

/// What a message waits for.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A broker of its topic that is connected.
    Route,
    /// Room on the broker's connections.
    Room(Arc<Broker>),
    /// Its turn in the partition.
    Turn(Partition),
}

impl Place {
    /// One more message of `topic` waits here.
    pub(crate) fn enter(&self, topic: &TopicState) {
        match self {
            Self::Route => drop(topic.parked.fetch_add(1, Ordering::AcqRel)),
            Self::Room(broker) => drop(broker.parked.fetch_add(1, Ordering::AcqRel)),
            Self::Turn(partition) => topic.order.iter().for_each(|order| order.wait(*partition)),
        }
    }

    fn leave(&self, topic: &TopicState) {
        match self {
            Self::Route => drop(topic.parked.fetch_sub(1, Ordering::AcqRel)),
            Self::Room(broker) => drop(broker.parked.fetch_sub(1, Ordering::AcqRel)),
            Self::Turn(partition) => topic.order.iter().for_each(|order| order.end_wait(*partition)),
        }
    }

    /// What to say to a message that can't or won't wait here any longer.
    pub(crate) fn error(&self, topic: &TopicState) -> SendError {
        match self {
            Self::Route => {
                let (brokers, last) = topic.route().unreachable();
                let text = format!("no broker of the topic could be reached in time: {brokers}");
                SendError::new(SendErrorKind::NotConnected, &topic.topic, text).with_source(last)
            }
            Self::Room(broker) => {
                let text = format!(
                    "broker {} already owes as many answers as one broker may, which is half of what the producer may have \
                     unacknowledged; it is slow, or max_in_flight and max_in_flight_bytes are small",
                    broker.addr
                );
                SendError::new(SendErrorKind::Full, &topic.topic, text)
            }
            Self::Turn(partition) => {
                let text = format!("the messages before it in partition {partition} took too long");
                SendError::new(SendErrorKind::TimedOut, &topic.topic, text)
            }
        }
    }

    fn key(&self, topic: &Arc<TopicState>) -> Key {
        match self {
            Self::Route => Key::Route(Arc::as_ptr(topic).addr()),
            Self::Room(broker) => Key::Room(Arc::as_ptr(broker).addr()),
            Self::Turn(partition) => Key::Turn(Arc::as_ptr(topic).addr(), *partition),
        }
    }
}

/// A place by what it is about, which is held as long as anything waits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Route(usize),
    Room(usize),
    Turn(usize, Partition),
}

#[derive(Debug)]
pub(crate) enum Event {
    Parked(Token, Instant, Place, Arc<TopicState>),
    /// Taken back by its owner.
    Unparked(Token, Instant),
    /// To be sent again after the pause.
    Again(Token, Duration),
    RouteChanged(Arc<TopicState>),
    /// A message to the broker has ended.
    Room(Arc<Broker>),
    /// The message that had the turn has ended.
    Turn(Arc<TopicState>, Partition),
    /// Nothing more is sent: what waits fails.
    Stop,
}

/// The dispatcher's ear.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    sender: mpsc::UnboundedSender<Event>,
}

impl Inbox {
    /// An inbox and what comes in. There is at most one event for each message that is accepted, and for each that ends.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        (Self { sender }, events)
    }

    /// False when nobody will send it.
    #[must_use]
    pub(crate) fn parked(
        &self,
        token: Token,
        deadline: Instant,
        place: Place,
        topic: &Arc<TopicState>,
    ) -> bool {
        self.sender.send(Event::Parked(token, deadline, place, Arc::clone(topic))).is_ok()
    }

    pub(crate) fn unparked(&self, token: Token, deadline: Instant) {
        let _ = self.sender.send(Event::Unparked(token, deadline));
    }

    /// False when nobody will send it.
    #[must_use]
    pub(crate) fn again(&self, token: Token, pause: Duration) -> bool {
        self.sender.send(Event::Again(token, pause)).is_ok()
    }

    pub(crate) fn route_changed(&self, topic: &Arc<TopicState>) {
        let _ = self.sender.send(Event::RouteChanged(Arc::clone(topic)));
    }

    pub(crate) fn room(&self, broker: Arc<Broker>) {
        let _ = self.sender.send(Event::Room(broker));
    }

    pub(crate) fn turn(&self, topic: Arc<TopicState>, partition: Partition) {
        let _ = self.sender.send(Event::Turn(topic, partition));
    }

    pub(crate) fn stop(&self) {
        let _ = self.sender.send(Event::Stop);
    }
}

/// Why a timer was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Again,
    Deadline,
}

/// The messages that wait in one place, in the order in which they came.
#[derive(Debug)]
struct Queue {
    place: Place,
    /// The topic of the first one; where it matters, all are of the same.
    topic: Arc<TopicState>,
    tokens: VecDeque<Token>,
    /// How many queues there were before.
    number: u64,
}

pub(crate) struct Dispatcher {
    launcher: Arc<Launcher>,
    events: mpsc::UnboundedReceiver<Event>,
    queues: HashMap<Key, Queue>,
    next_queue: u64,
    /// Where each message waits.
    places: HashMap<Token, Key>,
    timers: BTreeSet<(Instant, Token, Timer)>,
}

impl Dispatcher {
    pub(crate) fn new(launcher: Arc<Launcher>, events: mpsc::UnboundedReceiver<Event>) -> Self {
        Self {
            launcher,
            events,
            queues: HashMap::new(),
            next_queue: 0,
            places: HashMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) {
        let mut events = Vec::new();
        loop {
            let timer = self.timers.first().map(|(at, ..)| *at);
            let sleep = async {
                match timer {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = sleep => self.keep_time(Instant::now()),
                _ = self.events.recv_many(&mut events, 256) => {}
            }
            for event in events.drain(..) {
                if matches!(event, Event::Stop) {
                    return;
                }
                self.handle(event);
            }
        }
    }

    fn flights(&self) -> &Flights {
        &self.launcher.flights
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Parked(token, deadline, place, topic) => {
                // It is counted there already.
                if !self.flights().is_parked(token) {
                    return place.leave(&topic);
                }
                self.timers.insert((deadline, token, Timer::Deadline));
                let key = self.queue(place, &topic, token);
                // What it waits for may have come since.
                if self.queues.get(&key).is_some_and(|queue| queue.tokens.len() == 1) {
                    self.drain(key);
                }
            }
            Event::Unparked(token, deadline) => {
                self.timers.remove(&(deadline, token, Timer::Deadline));
                self.unqueue(token);
            }
            Event::Again(token, pause) => {
                self.timers.insert((Instant::now() + pause, token, Timer::Again));
            }
            Event::RouteChanged(topic) => {
                // A broker that is no longer there has messages waiting for room on it.
                let changed = Key::Route(Arc::as_ptr(&topic).addr());
                let rooms = self.queues.iter().filter(|(key, _)| matches!(key, Key::Room(_)));
                let mut rooms: Vec<_> = rooms.map(|(key, queue)| (queue.number, *key)).collect();
                // The same order each time, so that a simulation can be repeated.
                rooms.sort_unstable_by_key(|(number, _)| *number);
                rooms.into_iter().for_each(|(_, key)| self.drain(key));
                self.drain(changed);
            }
            Event::Room(broker) => self.drain(Key::Room(Arc::as_ptr(&broker).addr())),
            Event::Turn(topic, partition) => {
                self.drain(Key::Turn(Arc::as_ptr(&topic).addr(), partition));
            }
            Event::Stop => {}
        }
    }

    /// Puts a message at the end of its queue.
    fn queue(&mut self, place: Place, topic: &Arc<TopicState>, token: Token) -> Key {
        let key = place.key(topic);
        let number = self.next_queue;
        self.next_queue += 1;
        let new = || Queue { place, topic: Arc::clone(topic), tokens: VecDeque::new(), number };
        self.queues.entry(key).or_insert_with(new).tokens.push_back(token);
        self.places.insert(token, key);
        key
    }

    /// Takes a message out of its queue.
    fn unqueue(&mut self, token: Token) {
        let Some(key) = self.places.remove(&token) else { return };
        let Some(queue) = self.queues.get_mut(&key) else { return };
        // As a rule those in front go first.
        match queue.tokens.front() {
            Some(front) if *front == token => drop(queue.tokens.pop_front()),
            _ => queue.tokens.retain(|other| *other != token),
        }
        queue.place.leave(&queue.topic);
        if queue.tokens.is_empty() {
            self.queues.remove(&key);
        }
    }

    /// Sends the messages of a queue in order, until one has to wait on.
    fn drain(&mut self, key: Key) {
        loop {
            let Some(queue) = self.queues.get(&key) else { return };
            let Some(token) = queue.tokens.front().copied() else { return };
            match self.send(token) {
                // It waits on where it was.
                Some((place, topic)) if place.key(&topic) == key => return,
                moved => {
                    self.unqueue(token);
                    if let Some((place, topic)) = moved {
                        place.enter(&topic);
                        self.queue(place, &topic, token);
                    }
                }
            }
        }
    }

    /// Sends a message; says where it has to wait if it can't be sent now.
    fn send(&mut self, token: Token) -> Option<(Place, Arc<TopicState>)> {
        let (cargo, topic) = self.flights().take_parked(token)?;
        let deadline = cargo.deadline();
        let mut offer = Offer { cargo: Some(cargo), much_waits: false };
        let launched = self.launcher.launch(&topic, &mut offer, Some(token), true);
        match (launched, offer.cargo) {
            (Err(Obstacle::Wait(place)), Some(cargo)) => {
                self.flights().park(Arc::clone(&topic), cargo, Some(token));
                return Some((place, topic));
            }
            (Err(Obstacle::Never(error)), Some(cargo)) => {
                self.flights().fail_parked(token, &topic, cargo, error);
            }
            _ => {}
        }
        self.timers.remove(&(deadline, token, Timer::Deadline));
        None
    }

    fn keep_time(&mut self, now: Instant) {
        while let Some(&(at, token, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Again => {
                    let deadline = self.flights().deadline_of(token);
                    if let (Some((place, topic)), Some(deadline)) = (self.send(token), deadline) {
                        place.enter(&topic);
                        self.queue(place, &topic, token);
                        self.timers.insert((deadline, token, Timer::Deadline));
                    }
                }
                Timer::Deadline => {
                    let place = self.places.get(&token).and_then(|key| self.queues.get(key));
                    let place = place.map_or(Place::Route, |queue| queue.place.clone());
                    self.unqueue(token);
                    if let Some((cargo, topic)) = self.flights().take_parked(token) {
                        let error = place.error(&topic);
                        self.flights().fail_parked(token, &topic, cargo, error);
                    }
                }
            }
        }
    }
}

impl Drop for Dispatcher {
    /// However it ends, also when its runtime is shut down under it: nothing that waits is forgotten.
    fn drop(&mut self) {
        self.flights().stop_dispatching();
        for queue in self.queues.values() {
            queue.tokens.iter().for_each(|_| queue.place.leave(&queue.topic));
        }
        self.events.close();
        while self.events.try_recv().is_ok() {}
        self.flights().parked().into_iter().for_each(|token| self.flights().fail_undispatched(token));
    }
}
