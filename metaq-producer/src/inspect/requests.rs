//! Requests to brokers, over connections of an inspector's own.

use std::{collections::BTreeMap, sync::Arc};

use metaq_protocol::{BrokerAddr, Command, Response};
use metaq_transport::{
    Connection, ConnectionState, Transport, TransportError, TransportErrorKind as TransportKind,
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::error::InspectError;
use crate::deadline;

/// Connections to brokers, one each, which no message travels over: a broker answers in the order in which it
/// reads, so that a megabyte that is read would delay the acknowledgements behind it.
#[derive(Debug)]
pub(super) struct Requests {
    transport: Arc<dyn Transport>,
    open: Mutex<BTreeMap<BrokerAddr, Arc<dyn Connection>>>,
}

impl Requests {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, open: Mutex::default() }
    }

    /// Returns a connection that is ready. Fails as soon as the first attempt to connect has.
    pub(super) async fn connect(
        &self,
        broker: &BrokerAddr,
        deadline: Instant,
    ) -> Result<Arc<dyn Connection>, InspectError> {
        if deadline::runtime().is_none() {
            return Err(InspectError::no_runtime());
        }
        let action = format!("connecting to broker {broker}");
        // A transport of the program's may connect within the call.
        let connection = match timeout_at(deadline, self.connection(broker)).await {
            Ok(connection) => connection,
            Err(_) => Err(TransportError::new(TransportKind::TimedOut, broker.clone())),
        };
        let connection = connection.map_err(|error| InspectError::transport(&action, error))?;
        let mut state = connection.state();
        let settled = state.wait_for(|state| {
            !matches!(state, ConnectionState::Connecting { last_error: None, .. } | ConnectionState::Stalled)
        });
        let failure = match timeout_at(deadline, settled).await {
            Ok(Ok(state)) => match &*state {
                ConnectionState::Ready => None,
                ConnectionState::Connecting { last_error: Some(error), .. } => Some(error.clone()),
                _ => Some(TransportError::new(TransportKind::Closed, broker.clone())),
            },
            Ok(Err(_)) => Some(TransportError::new(TransportKind::Closed, broker.clone())),
            Err(_) => Some(TransportError::new(TransportKind::TimedOut, broker.clone())),
        };
        drop(state);
        match failure {
            None => Ok(connection),
            Some(error) => {
                // The next call dials again at once, in place of waiting for a backoff.
                self.forget(&connection);
                Err(InspectError::transport(&action, error))
            }
        }
    }

    async fn connection(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let known = self.open.lock().get(broker).cloned();
        if let Some(connection) = known.filter(|connection| !connection.state().borrow().is_closed()) {
            return Ok(connection);
        }
        let connection = self.transport.connect(broker).await?;
        let replaced = self.open.lock().insert(broker.clone(), Arc::clone(&connection));
        // The connection's own code runs when it is dropped, which needs the lock to be released.
        drop(replaced);
        Ok(connection)
    }

    fn forget(&self, connection: &Arc<dyn Connection>) {
        let forgotten = {
            let mut open = self.open.lock();
            let is_known = open.get(connection.broker()).is_some_and(|known| Arc::ptr_eq(known, connection));
            if is_known { open.remove(connection.broker()) } else { None }
        };
        drop(forgotten);
    }

    /// Sends one request. `action` begins the texts of errors.
    pub(super) async fn ask(
        &self,
        broker: &BrokerAddr,
        command: impl Into<Command>,
        action: &str,
        deadline: Instant,
    ) -> Result<Response, InspectError> {
        let connection = self.connect(broker, deadline).await?;
        let failed = |error| InspectError::transport(action, error);
        let pending = connection.submit_when_free(&mut command.into(), deadline).await.map_err(failed)?;
        let answer = pending.await.map_err(failed)?;
        answer
            .into_response()
            .ok_or_else(|| InspectError::invalid_response(action, broker, "is that to a put"))
    }
}
