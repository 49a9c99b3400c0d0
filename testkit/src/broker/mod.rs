//! A MetaQ broker inside the test's own process.

mod serve;
mod store;

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinHandle};

use store::Store;
pub use store::Stored;

/// A broker that keeps its messages in memory and speaks the wire protocol on a TCP port of the loopback interface.
///
/// It knows `put`, `get`, `offset`, `version` and `stats`, and answers and refuses as a real broker does, with the
/// same texts. Transactions are refused. Every message can be read as soon as it is acknowledged. It ends
/// when it is dropped, and its connections with it.
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
    accepting: JoinHandle<()>,
}

/// What the broker's connections share.
#[derive(Debug)]
struct Shared {
    addr: BrokerAddr,
    store: Mutex<Store>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// How a [`Broker`] is to be; made by [`Broker::builder`].
#[derive(Clone, Debug)]
pub struct BrokerBuilder {
    id: BrokerId,
    port: u16,
    topics: Vec<(String, u32)>,
}

impl Broker {
    /// A broker with the id 0, any free port and no topic, unless told otherwise.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder { id: BrokerId(0), port: 0, topics: Vec::new() }
    }

    /// Where the broker listens.
    #[must_use]
    pub fn addr(&self) -> &BrokerAddr {
        &self.shared.addr
    }

    /// The broker's id.
    #[must_use]
    pub fn id(&self) -> BrokerId {
        self.shared.store.lock().broker
    }

    /// Adds a topic, or changes its number of partitions; those that exist keep their messages.
    pub fn set_topic(&self, topic: &Topic, partitions: u32) {
        self.shared.store.lock().set_topic(topic.as_str(), partitions);
    }

    /// All messages of a topic: partition by partition, in the order in which they were stored.
    #[must_use]
    pub fn messages(&self, topic: &str) -> Vec<Stored> {
        self.shared.store.lock().messages(topic)
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
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl BrokerBuilder {
    /// The broker's id. Default 0.
    #[must_use]
    pub fn id(mut self, id: i32) -> Self {
        self.id = BrokerId(id);
        self
    }

    /// The TCP port. Default 0, which takes any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Adds a topic with so many partitions.
    #[must_use]
    pub fn topic(mut self, name: &str, partitions: u32) -> Self {
        self.topics.push((name.to_owned(), partitions));
        self
    }

    /// Starts the broker on the current tokio runtime.
    ///
    /// # Errors
    /// When the port can't be listened on, or the name of a topic can't be one.
    pub async fn start(self) -> io::Result<Broker> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
        let port = listener.local_addr()?.port();
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let addr = BrokerAddr::new("127.0.0.1", port).map_err(io::Error::other)?;
        let mut store = Store::new(self.id, addr.to_string());
        for (name, partitions) in &self.topics {
            store.set_topic(Topic::new(name).map_err(invalid)?.as_str(), *partitions);
        }
        let shared = Arc::new(Shared {
            addr,
            store: Mutex::new(store),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(serve::accept(listener, Arc::clone(&shared)));
        Ok(Broker { shared, accepting })
    }
}
