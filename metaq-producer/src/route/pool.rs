//! The connections to each broker address, shared by all topics that need them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use metaq_protocol::BrokerAddr;
use metaq_transport::{Connection, Transport, TransportError, TransportErrorKind};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    health::{BrokerHealth, ConnectionRecord, EventSender},
    route::topic_broker::Broker,
    stats::remote::{RemoteBrokerStats, ask},
};

/// Hands out the connections. Each user holds its connection; when the last holder drops it, it closes by
/// itself, after its outstanding requests have ended.
#[derive(Debug)]
pub(crate) struct Pool {
    transport: Arc<dyn Transport>,
    /// The number of connections to a broker.
    size: usize,
    /// The sender of the changes of connections.
    events: EventSender,
    brokers: Mutex<BTreeMap<BrokerAddr, Pooled>>,
    /// Set when the producer closes its connections; changed under the lock of `brokers`.
    refuses: AtomicBool,
}

/// A broker that is in use.
#[derive(Debug)]
struct Pooled {
    broker: Arc<Broker>,
    connections: Vec<PooledConnection>,
    /// One connects at a time, so that topics share what comes of it.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

/// A weak reference to a connection.
#[derive(Clone, Debug)]
struct PooledConnection {
    connection: Weak<dyn Connection>,
    record: Arc<ConnectionRecord>,
}

impl Pooled {
    fn is_used(&self) -> bool {
        let mut connections = self.connections.iter();
        Arc::strong_count(&self.connecting) > 1
            || connections.any(|pooled| pooled.connection.strong_count() > 0)
    }

    fn connections(&self) -> Vec<(Arc<dyn Connection>, Arc<ConnectionRecord>)> {
        let connections = self.connections.iter();
        connections
            .filter_map(|pooled| Some((pooled.connection.upgrade()?, Arc::clone(&pooled.record))))
            .collect()
    }
}

/// A broker and its connections, at least one.
pub(crate) type Connected = (Arc<Broker>, Vec<Arc<dyn Connection>>);

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>, size: usize, events: EventSender) -> Self {
        let (size, brokers) = (size.max(1), Mutex::default());
        Self { transport, size, events, brokers, refuses: AtomicBool::new(false) }
    }

    /// Refuses new connections from now on: what follows a topic may not have ended yet.
    pub(crate) fn refuse(&self) {
        let _brokers = self.brokers.lock();
        self.refuses.store(true, Ordering::Relaxed);
    }

    /// What makes the connections.
    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }

    /// The connections to the broker at `addr`: those that are in use, or new ones.
    pub(crate) async fn get(&self, addr: &BrokerAddr) -> Result<Connected, TransportError> {
        let connecting = {
            let mut brokers = self.brokers.lock();
            brokers.retain(|known, pooled| known == addr || pooled.is_used());
            let pooled = brokers.entry(addr.clone()).or_insert_with(|| Pooled {
                broker: Arc::new(Broker::new(addr.clone(), self.size)),
                connections: Vec::new(),
                connecting: Arc::default(),
            });
            Arc::clone(&pooled.connecting)
        };
        let _connecting = connecting.lock().await;
        let (broker, mut all) = {
            let brokers = self.brokers.lock();
            match brokers.get(addr) {
                Some(pooled) => (Arc::clone(&pooled.broker), pooled.connections()),
                None => (Arc::new(Broker::new(addr.clone(), self.size)), Vec::new()),
            }
        };
        all.retain(|(connection, _)| is_open(connection));
        let mut new = Vec::new();
        while all.len() + new.len() < self.size {
            let connection = self.transport.connect(addr).await?;
            let record = ConnectionRecord::new(&connection, &self.events);
            new.push((connection, record));
        }
        all.extend(new.iter().cloned());
        let pooled = |(connection, record): &(_, _)| PooledConnection {
            connection: Arc::downgrade(connection),
            record: Arc::clone(record),
        };
        let connections = all.iter().map(pooled).collect();
        let pooled = Pooled { broker: Arc::clone(&broker), connections, connecting: Arc::clone(&connecting) };
        let mut brokers = self.brokers.lock();
        if self.refuses.load(Ordering::Relaxed) && !new.is_empty() {
            drop(brokers);
            return Err(TransportError::new(TransportErrorKind::Closed, addr.clone()));
        }
        let old = brokers.insert(addr.clone(), pooled);
        drop(brokers);
        drop(old);
        new.into_iter().for_each(|(connection, record)| record.follow(&connection));
        Ok((broker, all.into_iter().map(|(connection, _)| connection).collect()))
    }

    /// One connection to the broker at `addr`, for requests that may go over any.
    pub(crate) async fn any(&self, addr: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let (_, mut all) = self.get(addr).await?;
        Ok(all.swap_remove(0))
    }

    /// Asks every broker that is connected for its statistics.
    pub(crate) async fn broker_stats(
        &self,
        item: Option<&str>,
        deadline: Instant,
    ) -> Vec<(BrokerAddr, Result<RemoteBrokerStats, String>)> {
        // One of the connections of each.
        let brokers: BTreeMap<_, _> =
            self.in_use().into_iter().map(|connection| (connection.broker().clone(), connection)).collect();
        let answers = brokers
            .into_iter()
            .map(|(broker, connection)| async move { (broker, ask(&*connection, item, deadline).await) });
        join_all(answers).await
    }

    /// All connections that are in use.
    pub(crate) fn in_use(&self) -> Vec<Arc<dyn Connection>> {
        let brokers = self.brokers.lock();
        brokers.values().flat_map(Pooled::connections).map(|(connection, _)| connection).collect()
    }

    /// Reports the end of those connections that are closed, unless that was done. False while other threads
    /// do.
    pub(crate) fn report_ends(&self) -> bool {
        let connections: Vec<_> = self.brokers.lock().values().flat_map(Pooled::connections).collect();
        connections.iter().fold(true, |all, (_, record)| record.report_end_if_closed() && all)
    }

    /// The health of each broker whose connections are in use, without the ids. `closing` is for how long the
    /// producer has been closing.
    pub(crate) fn health(&self, closing: Option<Duration>) -> Vec<BrokerHealth> {
        // Connections are anybody's code, and aren't asked under the lock.
        let brokers: Vec<_> = {
            let brokers = self.brokers.lock();
            brokers.values().map(|pooled| (Arc::clone(&pooled.broker), pooled.connections())).collect()
        };
        let now = Instant::now();
        let used = brokers.into_iter().filter(|(_, connections)| !connections.is_empty());
        used.map(|(broker, connections)| {
            let connections = connections.iter();
            let connections = connections.map(|(connection, record)| record.health(&**connection, closing));
            BrokerHealth {
                addr: broker.addr.clone(),
                ids: Vec::new(),
                cooling_down: broker.is_cooling_down(now),
                connections: connections.collect(),
            }
        })
        .collect()
    }
}

fn is_open(connection: &Arc<dyn Connection>) -> bool {
    !connection.state().borrow().is_closed()
}
