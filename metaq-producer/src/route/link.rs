//! The connections of a topic to one address.

use std::sync::Arc;

use metaq_transport::{Connection, ConnectionState};
use tokio::sync::watch;

use super::topic_broker::TopicBroker;

/// The connections of a topic to the address of one of its brokers, as its follower looks at them.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) topic_broker: Arc<TopicBroker>,
    pub(super) connections: Vec<(Arc<dyn Connection>, watch::Receiver<ConnectionState>)>,
    /// The number of times that its connections had been established at the last look.
    established: u64,
}

impl Link {
    pub(super) fn new(topic_broker: Arc<TopicBroker>, connections: Vec<Arc<dyn Connection>>) -> Self {
        let with_state = |connection: Arc<dyn Connection>| {
            let state = connection.state();
            (connection, state)
        };
        let connections = connections.into_iter().map(with_state).collect();
        Self { topic_broker, connections, established: 0 }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.connections.iter().any(|(_, state)| state.borrow().is_ready())
    }

    pub(super) fn has_closed(&self) -> bool {
        self.connections.iter().any(|(_, state)| state.borrow().is_closed())
    }

    /// Whether a connection was established since this was asked last.
    pub(super) fn is_anew(&mut self) -> bool {
        let established = self.connections.iter().map(|(connection, _)| connection.stats().established).sum();
        std::mem::replace(&mut self.established, established) != established
    }

    /// Whether a connection is ready, or it is known why none is.
    pub(super) fn is_settled(&self) -> bool {
        self.is_ready() || self.connections.iter().all(|(_, state)| is_settled(&state.borrow()))
    }

    pub(super) fn ready(&self) -> Vec<Arc<dyn Connection>> {
        let ready = self.connections.iter().filter(|(_, state)| state.borrow().is_ready());
        ready.map(|(connection, _)| Arc::clone(connection)).collect()
    }

    pub(super) fn first(&self) -> Option<Arc<dyn Connection>> {
        self.connections.first().map(|(connection, _)| Arc::clone(connection))
    }
}

/// Whether a connection is ready, or it is known why it isn't.
fn is_settled(state: &ConnectionState) -> bool {
    match state {
        ConnectionState::Connecting { last_error, .. } => last_error.is_some(),
        _ => true,
    }
}
