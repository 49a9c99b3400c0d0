//! One connection for each broker address, shared by all topics that need it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use metaq_protocol::BrokerAddr;
use metaq_transport::{Connection, Transport, TransportError};
use tokio::sync::Mutex;

/// Hands out the connections. Whoever needs one holds it; with the last holder it closes by itself, after its
/// outstanding requests have ended.
#[derive(Debug)]
pub(crate) struct Pool {
    transport: Arc<dyn Transport>,
    connections: Mutex<HashMap<BrokerAddr, Weak<dyn Connection>>>,
}

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, connections: Mutex::new(HashMap::new()) }
    }

    /// The connection to `broker`: the one that is in use, or a new one.
    pub(crate) async fn get(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        // Held while connecting, which by contract doesn't wait for the network.
        let mut connections = self.connections.lock().await;
        let known = connections.get(broker).and_then(Weak::upgrade);
        if let Some(connection) = known.filter(|connection| !connection.state().borrow().is_closed()) {
            return Ok(connection);
        }
        connections.retain(|_, connection| connection.strong_count() > 0);
        let connection = self.transport.connect(broker).await?;
        connections.insert(broker.clone(), Arc::downgrade(&connection));
        Ok(connection)
    }

    /// All connections that are in use.
    pub(crate) async fn in_use(&self) -> Vec<Arc<dyn Connection>> {
        self.connections.lock().await.values().filter_map(Weak::upgrade).collect()
    }
}
