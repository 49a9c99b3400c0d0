//! The connections to each broker address, shared by all topics that need them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use metaq_protocol::BrokerAddr;
use metaq_transport::{Connection, Transport, TransportError};
use tokio::sync::Mutex;

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
}

/// A broker and its connections, at least one.
pub(crate) type Connected = (Arc<Broker>, Vec<Arc<dyn Connection>>);

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>, size: usize) -> Self {
        Self { transport, size: size.max(1), brokers: Mutex::new(BTreeMap::new()) }
    }

    /// The connections to the broker at `addr`: those that are in use, or new ones.
    pub(crate) async fn get(&self, addr: &BrokerAddr) -> Result<Connected, TransportError> {
        // Held while connecting, which by contract doesn't wait for the network.
        let mut brokers = self.brokers.lock().await;
        brokers.retain(|_, known| known.connections.iter().any(|weak| weak.strong_count() > 0));
        let (broker, mut all) = match brokers.get(addr) {
            Some(Pooled { broker, connections }) => {
                let open = connections.iter().filter_map(Weak::upgrade).filter(is_open);
                (Arc::clone(broker), open.collect())
            }
            None => (Arc::new(Broker::new(addr.clone())), Vec::new()),
        };
        while all.len() < self.size {
            all.push(self.transport.connect(addr).await?);
        }
        let connections = all.iter().map(Arc::downgrade).collect();
        brokers.insert(addr.clone(), Pooled { broker: Arc::clone(&broker), connections });
        Ok((broker, all))
    }

    /// One connection to the broker at `addr`, for requests that may go over any.
    pub(crate) async fn any(&self, addr: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let (_, mut all) = self.get(addr).await?;
        Ok(all.swap_remove(0))
    }

    /// All connections that are in use.
    pub(crate) async fn in_use(&self) -> Vec<Arc<dyn Connection>> {
        let brokers = self.brokers.lock().await;
        brokers.values().flat_map(|known| &known.connections).filter_map(Weak::upgrade).collect()
    }
}

fn is_open(connection: &Arc<dyn Connection>) -> bool {
    !connection.state().borrow().is_closed()
}
