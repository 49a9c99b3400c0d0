//! The connections to each broker address, shared by all topics that need them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use metaq_protocol::BrokerAddr;
use metaq_transport::{Connection, Transport, TransportError};
use parking_lot::Mutex;

use crate::lane::Broker;

/// Hands out the connections. Whoever needs one holds it; with the last holder it closes by itself, after its
/// outstanding requests have ended.
#[derive(Debug)]
pub(crate) struct Pool {
    transport: Arc<dyn Transport>,
    /// How many connections a broker has.
    size: usize,
    brokers: Mutex<BTreeMap<BrokerAddr, Pooled>>,
}

/// A broker that is in use.
#[derive(Debug)]
struct Pooled {
    broker: Arc<Broker>,
    connections: Vec<Weak<dyn Connection>>,
    /// One connects at a time, so that topics share what comes of it.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

impl Pooled {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.connecting) > 1 || self.connections.iter().any(|weak| weak.strong_count() > 0)
    }

    fn connections(&self) -> Vec<Arc<dyn Connection>> {
        self.connections.iter().filter_map(Weak::upgrade).collect()
    }
}

/// A broker and its connections, at least one.
pub(crate) type Connected = (Arc<Broker>, Vec<Arc<dyn Connection>>);

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>, size: usize) -> Self {
        Self { transport, size: size.max(1), brokers: Mutex::new(BTreeMap::new()) }
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
        all.retain(is_open);
        while all.len() < self.size {
            all.push(self.transport.connect(addr).await?);
        }
        let connections = all.iter().map(Arc::downgrade).collect();
        let pooled = Pooled { broker: Arc::clone(&broker), connections, connecting: Arc::clone(&connecting) };
        let old = self.brokers.lock().insert(addr.clone(), pooled);
        drop(old);
        Ok((broker, all))
    }

    /// One connection to the broker at `addr`, for requests that may go over any.
    pub(crate) async fn any(&self, addr: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let (_, mut all) = self.get(addr).await?;
        Ok(all.swap_remove(0))
    }

    /// All connections that are in use.
    pub(crate) fn in_use(&self) -> Vec<Arc<dyn Connection>> {
        let brokers = self.brokers.lock();
        brokers.values().flat_map(Pooled::connections).collect()
    }
}

fn is_open(connection: &Arc<dyn Connection>) -> bool {
    !connection.state().borrow().is_closed()
}
