//! A MetaQ broker inside the test's own process.

mod answers;
mod builder;
mod client;
mod compat;
mod data_folder;
mod decisions;
mod faults;
mod local_transactions;
mod log;
mod prepared;
mod put_monitor;
mod records;
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
mod registration;
mod requests;
mod segment;
mod serve;
mod stats;
mod stored;
mod talk;
mod topics;
mod transactions;
mod wait;

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic, XaTransactionId};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

pub use builder::BrokerBuilder;
pub use faults::{Fault, Faults, Plan};
pub use log::Flush;
pub use put_monitor::PutMonitor;
pub use records::{Record, SeenRequest};
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
pub use registration::Registry;
pub use requests::Requests;
pub use stored::Stored;
pub use transactions::Heuristic;

use builder::Settings;
use local_transactions::LocalMessages;
use records::Records;
use serve::Io;
use stats::Counters;
use topics::{TopicEntry, Topics};
use transactions::XaTransactions;

use crate::EmbeddedRegistry;

/// What a released Java broker says, since the file that should hold its version is missing in it (wire rule 3.5).
const VERSION: &str = "0.1";

/// How many bytes may be under way in each direction on a connection without a port.
const PIPE: usize = 64 * 1024;

/// A broker that speaks the whole protocol of MetaQ 1.4 on a TCP port of the loopback interface, or over any stream of
/// bytes. It keeps its messages in memory, or on disk as a Java broker does.
///
/// It answers and refuses as a real broker does, with the same texts, and the Java client takes it for one. Where it
/// differs on purpose, `docs/embedded-broker.md` says so; [`compat`](BrokerBuilder::compat) has it differ less. It does
/// wrong what its [`faults`](Self::faults) say.
///
/// It ends when it is dropped, and its connections with it, as if its process were killed. [`kill`](Self::kill) does the same
/// and waits until its port is free; [`shut_down`](Self::shut_down) is the orderly way.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use metaq_testkit::Broker;
///
/// let broker = Broker::builder().topic("orders", 4).start().await?;
/// println!("listening on {}", broker.addr());
/// assert!(broker.messages("orders").is_empty());
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    streams: mpsc::UnboundedSender<Box<dyn Io>>,
    accepting: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
    /// What starts it again on the same port.
    builder: BrokerBuilder,
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    registrations: Vec<registration::Registration>,
}

/// What the broker's connections share.
#[derive(Debug)]
struct Shared {
    id: BrokerId,
    addr: BrokerAddr,
    settings: Settings,
    topics: Topics,
    transactions: Mutex<XaTransactions>,
    local_messages: LocalMessages,
    /// How many ids were given out.
    ids: AtomicI64,
    counters: Counters,
    faults: Faults,
    put_monitor: OnceLock<PutMonitor>,
    records: Records,
    /// Notifies of requests, messages and connections.
    activity: Notify,
    random: Mutex<fastrand::Rng>,
    started: Instant,
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// Counts the changes of what a registry is told.
    offered: watch::Sender<u64>,
    registries: Vec<EmbeddedRegistry>,
    /// A registry for whoever asks the broker for one.
    own_registry: OnceLock<EmbeddedRegistry>,
}

impl Shared {
    fn registries(&self) -> impl Iterator<Item = &EmbeddedRegistry> {
        self.registries.iter().chain(self.own_registry.get())
    }

    /// A topic that only a pattern takes is registered with its first message (registry §12).
    fn offer(&self, topic: &TopicEntry) {
        if topic.becomes_known() {
            self.tell_registries();
        }
    }

    fn tell_registries(&self) {
        self.offered.send_modify(|changes| *changes += 1);
        self.enter_registries(None);
    }

    /// Tells the registries of this process what the broker offers; for the first time with a way to reach it.
    fn enter_registries(&self, connector: Option<&BrokerConnector>) {
        for registry in self.registries() {
            let known = self.topics.all().into_iter().filter(|topic| topic.is_known());
            let published = known.filter(|topic| topic.publishes.load(Ordering::Acquire));
            let named = published.filter_map(|topic| {
                let partitions = self.topics.partitions(Some(&topic));
                // A client may have put to a name that can't be one.
                Topic::new(&topic.name).ok().map(|name| (name, partitions))
            });
            match connector {
                Some(connector) => registry.enter(self.id, &self.addr, named.collect(), connector.clone()),
                None => registry.update(self.id, &self.addr, named.collect()),
            }
        }
    }
}

impl Broker {
    /// A broker with the id 0, any free port and no topic, unless told otherwise.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    /// Where the broker listens.
    #[must_use]
    pub fn addr(&self) -> &BrokerAddr {
        &self.shared.addr
    }

    /// The broker's id.
    #[must_use]
    pub fn id(&self) -> BrokerId {
        self.shared.id
    }

    /// What it does wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Connects to the broker without a port. The stream is the client's end of the connection.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(PIPE);
        self.serve_stream(server);
        client
    }

    /// What connects to the broker without a port, and doesn't keep it alive: for a transport that is to reach it as long
    /// as it is there.
    #[must_use]
    pub fn connector(&self) -> BrokerConnector {
        BrokerConnector { streams: self.streams.clone() }
    }

    /// Serves one more connection, whose broker's end this stream is.
    pub fn serve_stream(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        // Once the broker was shut down, the connection is closed by being dropped.
        let _ = self.streams.send(Box::new(stream));
    }

    /// Adds a topic, or changes its number of partitions. What partitions hold is kept, but those beyond the number take
    /// nothing more.
    ///
    /// # Panics
    /// When the name can't be that of a topic.
    pub fn set_topic(&self, topic: impl AsRef<str>, partitions: u32) {
        let name = topic.as_ref();
        assert!(Topic::new(name).is_ok(), "{name:?} is no name of a topic");
        self.shared.topics.configure(name, partitions);
        self.shared.tell_registries();
    }

    /// Whether a topic is registered for producers and for consumers, both true at first. It takes messages and hands them
    /// out all the same, as a Java broker does (registry §9). Without effect on a topic that there is not.
    pub fn set_accepts(&self, topic: impl AsRef<str>, publish: bool, subscribe: bool) {
        if let Some(topic) = self.shared.topics.get(topic.as_ref()) {
            topic.publishes.store(publish, Ordering::Release);
            topic.subscribes.store(subscribe, Ordering::Release);
            self.shared.tell_registries();
        }
    }

    /// Closes a partition, as an operator does: it neither takes nor hands out messages (status 403), except in
    /// transactions and when the choice is left to the broker. It stays registered. Without effect when there is no such
    /// topic.
    pub fn close_partition(&self, topic: impl AsRef<str>, index: i32) {
        if let Some(topic) = self.shared.topics.get(topic.as_ref()) {
            topic.set_closed(index, true);
        }
    }

    /// Opens a partition that was [closed](Self::close_partition).
    pub fn open_partition(&self, topic: impl AsRef<str>, index: i32) {
        if let Some(topic) = self.shared.topics.get(topic.as_ref()) {
            topic.set_closed(index, false);
        }
    }

    /// Makes all messages readable, and has them written through to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> io::Result<()> {
        let flushed = self.shared.topics.flush();
        self.shared.activity.notify_waiters();
        flushed
    }

    /// Drops the oldest segment of a partition, as a Java broker does with old ones. False when there is only the one that
    /// is written to.
    ///
    /// # Errors
    /// When its file can't be removed.
    pub fn drop_oldest_segment(&self, topic: impl AsRef<str>, index: i32) -> io::Result<bool> {
        let log = self.shared.topics.get(topic.as_ref()).and_then(|topic| topic.existing_log(index));
        log.map_or(Ok(false), |log| self.shared.topics.drop_oldest_segment(&log))
    }

    /// Ends a prepared XA transaction behind its owner's back, as an operator of a Java broker can; the owner is told so
    /// until it forgets it. False when no such transaction is prepared.
    ///
    /// # Errors
    /// When it was to be committed, and its messages can't be stored.
    pub fn decide(&self, id: &XaTransactionId, heuristic: Heuristic) -> io::Result<bool> {
        let decided = self.shared.decide(id, heuristic);
        self.shared.activity.notify_waiters();
        decided
    }

    /// How many connections were made to the broker since it started.
    #[must_use]
    pub fn accepted_connections(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Waits until the broker is stopped by being dropped elsewhere, which is never: for programs that only serve.
    pub async fn serve(&mut self) {
        // The task ends by being aborted, which only the drop of this broker does.
        let _ = (&mut self.accepting).await;
    }

    /// Ends the broker in the order of a planned shutdown: it leaves the registries first, closes its port and its
    /// connections, then has its messages written to the disk. When this returns, the port is free, nothing is written any
    /// more, and the data folder can be another broker's.
    ///
    /// # Errors
    /// When a registry could not be told, or did not answer within 10 s, or the disk failed. It is ended all the same.
    ///
    /// # Cancel safety
    /// Dropping the future ends the broker at once, as dropping the broker does.
    pub async fn shut_down(mut self) -> io::Result<()> {
        #[cfg(any(feature = "zookeeper", feature = "etcd"))]
        let withdrawn = registration::withdraw_all(&self.registrations).await;
        #[cfg(not(any(feature = "zookeeper", feature = "etcd")))]
        let withdrawn = Ok(());
        for registry in self.shared.registries() {
            registry.leave(self.shared.id, &self.shared.addr);
        }
        self.stop_serving().await;
        let flushed = self.flush();
        withdrawn.and(flushed)
    }

    /// Ends the broker as if its process were killed: its connections break, registries keep it until its session expires,
    /// and what was prepared or committed outlives it only in a [`data_dir`](BrokerBuilder::data_dir). When this returns, the
    /// port is free, and the data folder can be another broker's.
    ///
    /// Returns a builder that starts the broker again: as it was built, and on the same port, which nothing else of this
    /// crate takes as long as the builder lives.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use metaq_testkit::Broker;
    ///
    /// let broker = Broker::builder().topic("orders", 4).start().await?;
    /// let addr = broker.addr().clone();
    /// let killed = broker.kill().await;
    /// // … what the service does meanwhile …
    /// let broker = killed.start().await?;
    /// assert_eq!(*broker.addr(), addr);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future ends the broker at once, as dropping the broker does.
    pub async fn kill(mut self) -> BrokerBuilder {
        let builder = self.builder.clone();
        self.stop_serving().await;
        builder
    }

    /// Ends the port and the connections, and waits until they have ended.
    async fn stop_serving(&mut self) {
        if let Some(stop) = self.stop.take() {
            // If it fails, the task has ended with its runtime.
            let _ = stop.send(());
        }
        // It may have ended by a panic, or with its runtime.
        let _ = (&mut self.accepting).await;
    }

    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    async fn register(&mut self, registry: Registry) -> io::Result<()> {
        self.registrations.push(registration::Registration::new(registry, Arc::clone(&self.shared)).await?);
        Ok(())
    }
}

/// Connects to a [`Broker`] without a port; got by [`Broker::connector`].
#[derive(Clone, Debug)]
pub struct BrokerConnector {
    streams: mpsc::UnboundedSender<Box<dyn Io>>,
}

impl BrokerConnector {
    /// The client's end of a new connection.
    ///
    /// # Errors
    /// `ConnectionRefused` when the broker has ended.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (client, server) = tokio::io::duplex(PIPE);
        match self.streams.send(Box::new(server)) {
            Ok(()) => Ok(client),
            Err(_) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the embedded broker has ended")),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.accepting.abort();
        // Connections that run on other threads may not be aborted yet.
        self.shared.close();
        for registry in self.shared.registries() {
            registry.expire(self.shared.id, &self.shared.addr);
        }
    }
}
