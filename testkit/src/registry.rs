//! A registry in the process of the test, in which embedded brokers register.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use metaq_discovery::{MockDiscovery, TopicView};
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use metaq_transport::{ConnectionConfig, Dialer, StreamTransport};
use parking_lot::Mutex;
use tokio::{io::DuplexStream, runtime::Handle, time::sleep};

use crate::connector::BrokerConnector;

/// A registry in the process of the test: embedded brokers [register in
/// it](crate::BrokerBuilder::register_with), producers find them by its [`discovery`](Self::discovery), and
/// [`connect`](Self::connect) reaches brokers without a port. [`add_fault`](Self::add_fault) makes it
/// misbehave. Clones are the same registry.
///
/// A broker is listed while it runs. After a kill it stays listed for the [session
/// timeout](Self::session_timeout); after an orderly shutdown it is removed immediately. An id belongs to one
/// broker at a time: starting another broker with the id of a live one fails with `AlreadyExists`. A broker
/// that was killed or dropped can be started again immediately.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use metaq_discovery::Discovery;
/// use metaq_testkit::{Broker, EmbeddedRegistry};
///
/// let registry = EmbeddedRegistry::new();
/// let broker = Broker::builder().topic("orders", 4).register_with(&registry).start_without_port()?;
/// let watch = registry.discovery().watch(&"orders".parse()?).await?;
/// assert_eq!(watch.current().partitions().len(), 4);
/// assert!(registry.connect(broker.addr()).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct EmbeddedRegistry {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    brokers: BTreeMap<BrokerId, Entry>,
    /// The connectors of brokers, registered or not.
    reachable: BTreeMap<BrokerAddr, BrokerConnector>,
    /// The discoveries that receive views, and the topics that they have received.
    discoveries: Vec<MockDiscovery>,
    announced: BTreeSet<Topic>,
    faults: Vec<RegistryFault>,
    session_timeout: Duration,
    registrations: u64,
}

/// The entry of a broker.
#[derive(Debug)]
struct Entry {
    /// The number of the registration.
    number: u64,
    addr: BrokerAddr,
    topics: BTreeMap<Topic, u32>,
    /// Set when the broker was killed or dropped: another one may take the id.
    has_ended: bool,
}

/// The faults of an [`EmbeddedRegistry`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryFault {
    /// Calls and notifications of changes are delayed by this duration.
    Slow(Duration),
    /// The registry lists no broker.
    Empty,
    /// The registry can't be reached: calls fail, changes are not seen, and the last view stays.
    Unreachable,
    /// The registry doesn't list this broker.
    Missing(BrokerId),
    /// The registry lists this broker with another address, at which connections are refused.
    WrongAddress(BrokerId),
    /// The registry lists this broker with this number of partitions for every topic.
    WrongPartitions(BrokerId, u32),
}

/// A port on which no process listens.
const CLOSED_PORT: u16 = 1;

impl Default for EmbeddedRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl EmbeddedRegistry {
    /// An empty registry without faults.
    #[must_use]
    pub fn new() -> Self {
        let state = State { session_timeout: Duration::from_secs(6), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Returns a discovery that reads this registry, for one producer, which may close it. A test may examine
    /// its calls and watches.
    #[must_use]
    pub fn discovery(&self) -> MockDiscovery {
        let mock = MockDiscovery::new();
        let mut state = self.state.lock();
        mock.set_delay(state.delay());
        for topic in state.topics() {
            mock.set(state.view(&topic));
        }
        mock.set_away(state.faults.contains(&RegistryFault::Unreachable));
        state.discoveries.push(mock.clone());
        mock
    }

    /// Sets the time for which a broker stays listed after it was killed or dropped. Default 6 s.
    pub fn session_timeout(&self, timeout: Duration) {
        self.state.lock().session_timeout = timeout.min(crate::MAX_DURATION);
    }

    /// Returns the client's end of a new connection to the broker with this address, whether it is registered
    /// now or not.
    ///
    /// # Errors
    /// `ConnectionRefused` when no such broker has registered, or it has ended.
    pub fn connect(&self, broker: &BrokerAddr) -> io::Result<DuplexStream> {
        let connector = self.state.lock().reachable.get(broker).cloned();
        let refused =
            || io::Error::new(io::ErrorKind::ConnectionRefused, format!("no broker is at {broker}"));
        connector.ok_or_else(refused)?.connect()
    }

    /// Adds a fault to those that the registry has already.
    pub fn add_fault(&self, fault: RegistryFault) {
        self.state.lock().faults.push(fault);
        self.publish_changes();
    }

    /// Removes all faults; changes that were made meanwhile become visible.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
        self.publish_changes();
    }

    /// Returns whether both are the same registry.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// Claims the id for a broker, which then sets its topics by [`update`](Self::update). Until then the
    /// topics of a former broker with this id stay.
    pub(crate) fn claim(
        &self,
        id: BrokerId,
        addr: &BrokerAddr,
        connector: BrokerConnector,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let topics = match state.brokers.get(&id) {
            Some(entry) if !entry.has_ended => {
                let text = format!(
                    "broker {id} could not be registered: a broker with this id, {}, lives in the same EmbeddedRegistry; \
                     shut it down, or give this one another id by BrokerBuilder::id",
                    entry.addr
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            former => former.map(|entry| entry.topics.clone()).unwrap_or_default(),
        };
        // Brokers without ports can have the same address.
        let at_same = |entry: &Entry| entry.addr == *addr && !entry.has_ended;
        if let Some((other, _)) = state.brokers.iter().find(|(other, entry)| **other != id && at_same(entry))
        {
            let text = format!(
                "broker {id} could not be registered: broker {other} lives at {addr} in the same EmbeddedRegistry; shut it \
                 down, or give this one another port by BrokerBuilder::port"
            );
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        state.reachable.insert(addr.clone(), connector);
        state.registrations += 1;
        let number = state.registrations;
        state.brokers.insert(id, Entry { number, addr: addr.clone(), topics, has_ended: false });
        Ok(())
    }

    /// Sets the topics of a broker, if it is still registered.
    pub(crate) fn update(&self, id: BrokerId, addr: &BrokerAddr, topics: BTreeMap<Topic, u32>) {
        if let Some(entry) = self.state.lock().brokers.get_mut(&id).filter(|entry| entry.addr == *addr) {
            entry.topics = topics;
        }
        self.publish_changes();
    }

    /// Removes a broker, unless another one has taken its id.
    pub(crate) fn remove(&self, id: BrokerId, addr: &BrokerAddr) {
        self.remove_if(id, |entry| entry.addr == *addr);
    }

    fn remove_if(&self, id: BrokerId, is_that: impl FnOnce(&Entry) -> bool) {
        let mut state = self.state.lock();
        if state.brokers.get(&id).is_some_and(is_that) {
            state.brokers.remove(&id);
        }
        drop(state);
        self.publish_changes();
    }

    /// Removes a broker once its session has expired, unless it has registered again.
    pub(crate) fn expire(&self, id: BrokerId, addr: &BrokerAddr) {
        let (timeout, number) = {
            let mut state = self.state.lock();
            let timeout = state.session_timeout;
            let entry = state.brokers.get_mut(&id).filter(|entry| entry.addr == *addr);
            let Some(entry) = entry else { return };
            entry.has_ended = true;
            (timeout, entry.number)
        };
        // Without a runtime no watch is left.
        let Ok(runtime) = Handle::try_current() else { return self.remove(id, addr) };
        let this = self.clone();
        runtime.spawn(async move {
            sleep(timeout).await;
            this.remove_if(id, |entry| entry.number == number);
        });
    }

    /// Publishes new views to watches, immediately or after the delay of [`RegistryFault::Slow`].
    fn publish_changes(&self) {
        let delay = self.state.lock().delay();
        if delay.is_zero() {
            return self.state.lock().publish_views();
        }
        if let Ok(runtime) = Handle::try_current() {
            let this = self.clone();
            runtime.spawn(async move {
                sleep(delay).await;
                this.state.lock().publish_views();
            });
        }
    }
}

impl EmbeddedRegistry {
    /// Returns a transport that reaches the brokers of this registry, with or without ports, with the default
    /// settings for connections. It uses no network. With [`discovery`](Self::discovery) it is all that a
    /// producer needs:
    ///
    /// ```
    /// # use metaq_producer::Producer;
    /// # use metaq_testkit::{Broker, EmbeddedRegistry};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let registry = EmbeddedRegistry::new();
    /// let builder = |id| Broker::builder().id(id).topic("orders", 4).register_with(&registry);
    /// let (_zero, _one) = (builder(0).start_without_port()?, builder(1).start_without_port()?);
    /// let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    /// let producer = producer.build()?;
    /// producer.publish_topic(&"orders".parse()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn transport(&self) -> StreamTransport<Self> {
        self.transport_with(ConnectionConfig::default())
    }

    /// Returns a [`transport`](Self::transport) with other settings.
    #[must_use]
    pub fn transport_with(&self, config: ConnectionConfig) -> StreamTransport<Self> {
        StreamTransport::new(self.clone(), config)
    }
}

/// Connects to the brokers that have registered.
#[async_trait]
impl Dialer for EmbeddedRegistry {
    type Stream = DuplexStream;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<DuplexStream> {
        self.connect(broker)
    }
}

impl State {
    fn publish_views(&mut self) {
        let (away, delay) = (self.faults.contains(&RegistryFault::Unreachable), self.delay());
        let topics = self.topics();
        for mock in &self.discoveries {
            mock.set_delay(delay);
            for topic in self.announced.union(&topics) {
                let view = self.view(topic);
                if view.is_empty() { mock.remove(topic) } else { mock.set(view) }
            }
            // Views that were set during the outage become visible with its end.
            mock.set_away(away);
        }
        self.announced = topics;
    }

    fn topics(&self) -> BTreeSet<Topic> {
        self.brokers.values().flat_map(|entry| entry.topics.keys().cloned()).collect()
    }

    fn delay(&self) -> Duration {
        let delays = self.faults.iter().map(|fault| match fault {
            RegistryFault::Slow(delay) => *delay,
            _ => Duration::ZERO,
        });
        delays.sum()
    }

    fn view(&self, topic: &Topic) -> TopicView {
        let mut view = TopicView::new(topic.clone());
        if self.faults.contains(&RegistryFault::Empty) {
            return view;
        }
        for (id, entry) in &self.brokers {
            let Some(partitions) = entry.topics.get(topic) else { continue };
            let (mut addr, mut partitions, mut missing) = (entry.addr.clone(), *partitions, false);
            for fault in &self.faults {
                match fault {
                    RegistryFault::Missing(of) if of == id => missing = true,
                    RegistryFault::WrongPartitions(of, wrong) if of == id => partitions = *wrong,
                    RegistryFault::WrongAddress(of) if of == id => {
                        addr = BrokerAddr::new("127.0.0.1", CLOSED_PORT).unwrap_or(addr);
                    }
                    _ => {}
                }
            }
            if !missing {
                view = view.with_broker(*id, addr, partitions);
            }
        }
        view
    }
}
