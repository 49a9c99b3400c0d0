//! Starting a broker from its builder.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicUsize},
    },
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use super::broker::Broker;
use crate::broker::{
    builder::BrokerBuilder,
    connections::accept_connections,
    counters::Counters,
    faults::Faults,
    observe::Records,
    shared::BrokerShared,
    store::{StoreSettings, Topics},
    transactions::{LocalMessages, prepared_file},
};
use crate::{
    BrokerConnector, EmbeddedRegistry,
    port::{self, Port},
};

/// The first count of ids, in units of 4096. Ids of a Java broker are negative too: its clock counts from the
/// machine's start (B-35).
const FIRST_ID: i64 = (-5_468_927_679_426_199_552 >> 22) << 12;

/// The port, plus the id, in the address of a broker without a port.
const NOMINAL_PORT: u16 = 8123;

impl BrokerBuilder {
    /// Starts the broker on the current tokio runtime. When this returns, it is registered in all of its
    /// registries.
    ///
    /// # Errors
    /// Outside a tokio runtime, and when the port can't be listened on, the name of a topic is invalid, the
    /// data folder can't be used, or the broker can't be registered: `AlreadyExists` when another live broker
    /// there has its id.
    ///
    /// # Cancel safety
    /// Nothing keeps running when the future is dropped early.
    pub async fn start(mut self) -> io::Result<Broker> {
        ensure_runtime()?;
        let is_local = self.listen == IpAddr::from(Ipv4Addr::LOCALHOST);
        let listener = if self.port == 0 && is_local {
            let (port, listener) = port::listen()?;
            self.claim = Some(Arc::new(port));
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)?
        } else {
            let listener = TcpListener::bind((self.listen, self.port)).await;
            let listener = listener.map_err(|error| {
                let addr = SocketAddr::from((self.listen, self.port));
                let text = format!("broker {} can't listen on {addr}: {error}", self.id);
                io::Error::new(error.kind(), text)
            })?;
            if is_local {
                self.claim = self.claim.take().or_else(|| Port::claimed(self.port).map(Arc::new));
            }
            listener
        };
        let port = listener.local_addr()?.port();
        #[cfg(any(feature = "zookeeper", feature = "etcd"))]
        let registries = self.registries.clone();
        #[cfg_attr(
            not(any(feature = "zookeeper", feature = "etcd")),
            expect(unused_mut, reason = "only registration changes it")
        )]
        let mut broker = self.assemble(port, Some(listener))?;
        #[cfg(any(feature = "zookeeper", feature = "etcd"))]
        for registry in registries {
            broker.register(registry).await?;
        }
        Ok(broker)
    }

    /// Starts the broker on the current tokio runtime without a port: only [`Broker::transport`],
    /// [`Broker::connect`] and the like reach it, and only [`EmbeddedRegistry`]s can list it. Its address has
    /// the port of the builder, or else 8123 plus its id.
    ///
    /// # Errors
    /// Outside a tokio runtime, and when the name of a topic is invalid, the data folder can't be used, or a
    /// live broker has the same id (`AlreadyExists`) or the same address (`AddrInUse`) in an
    /// [`EmbeddedRegistry`].
    pub fn start_without_port(self) -> io::Result<Broker> {
        ensure_runtime()?;
        let nominal = NOMINAL_PORT.wrapping_add(self.id.0 as u16);
        let port = if self.port == 0 { nominal } else { self.port };
        self.assemble(port, None)
    }

    fn assemble(mut self, port: u16, listener: Option<TcpListener>) -> io::Result<Broker> {
        if listener.is_some() {
            // A restarted broker gets the same port.
            self.port = port;
        }
        let builder = self.clone();
        let addr = BrokerAddr::new(&self.host, port)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let settings = StoreSettings {
            folder: self.folder.clone(),
            log: self.log,
            default_partitions: self.default_partitions,
            capacity: self.capacity,
        };
        let owner = format!("broker {} at {addr} in process {}", self.id, std::process::id());
        let topics = Topics::open(settings, &owner)?;
        for (name, partitions) in &self.topics {
            let topic =
                Topic::new(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            topics.configure(&topic, *partitions);
        }
        let transactions = prepared_file::read(&topics)?;
        // Ids rise, also across a restart.
        let lowest = topics.highest_id.map_or(FIRST_ID, |id| ((id >> 22) + 1) << 12).max(FIRST_ID);
        let first_id = topics.first_id(lowest)?;
        let (streams, incoming) = mpsc::unbounded_channel();
        let connector = BrokerConnector::new(streams.clone());
        claim_in_all(self.embedded.iter().chain(&self.own_registry), self.id, &addr, &connector)?;
        let shared = Arc::new(BrokerShared {
            id: self.id,
            addr,
            settings: self.settings,
            ids: AtomicI64::new(first_id),
            topics,
            transactions: Mutex::new(transactions),
            local_messages: LocalMessages::default(),
            counters: Counters::default(),
            faults: Faults::new(self.seed),
            put_monitor: OnceLock::new(),
            records: Records::default(),
            activity: Notify::new(),
            random: Mutex::new(fastrand::Rng::with_seed(self.seed)),
            started: Instant::now(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            topic_changes: watch::Sender::default(),
            registries: self.embedded,
            own_registry: self.own_registry.map_or_else(OnceLock::new, OnceLock::from),
        });
        let (stop, stopped) = oneshot::channel();
        let accepting = tokio::spawn(accept_connections(listener, incoming, Arc::clone(&shared), stopped));
        shared.update_registries();
        Ok(Broker {
            shared,
            streams,
            accepting,
            stop: Some(stop),
            builder,
            #[cfg(any(feature = "zookeeper", feature = "etcd"))]
            registrations: Vec::new(),
        })
    }
}

fn ensure_runtime() -> io::Result<()> {
    let no_runtime =
        "an embedded broker runs on a tokio runtime; start it in one, as in a function with #[tokio::test]";
    Handle::try_current().map(drop).map_err(|_| io::Error::other(no_runtime))
}

/// Claims the id in all registries, or in none.
fn claim_in_all<'a>(
    registries: impl Iterator<Item = &'a EmbeddedRegistry>,
    id: BrokerId,
    addr: &BrokerAddr,
    connector: &BrokerConnector,
) -> io::Result<()> {
    let mut claimed: Vec<&EmbeddedRegistry> = Vec::new();
    for registry in registries {
        if let Err(error) = registry.claim(id, addr, connector.clone()) {
            claimed.iter().for_each(|registry| registry.remove(id, addr));
            return Err(error);
        }
        claimed.push(registry);
    }
    Ok(())
}
