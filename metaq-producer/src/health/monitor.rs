//! Follows the states of connections.

use std::sync::Arc;

use metaq_protocol::BrokerAddr;
use metaq_transport::{Connection, ConnectionState, TransportError};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{ConnectionHealth, ConnectionPhase, EventSender, ProducerEvent};
use crate::{deadline, panics::contain};

/// The history of a connection: when it entered its phase, and its last error.
#[derive(Debug)]
pub(crate) struct ConnectionRecord {
    entered: Mutex<Entered>,
}

#[derive(Debug)]
struct Entered {
    phase: ConnectionPhase,
    since: Instant,
    last_error: Option<TransportError>,
}

impl ConnectionRecord {
    /// Follows `connection` until it is gone, on the caller's runtime. Outside of one its state is known only when it is
    /// looked at.
    pub(crate) fn follow(connection: &dyn Connection, events: &EventSender) -> Arc<Self> {
        let entered = Entered { phase: ConnectionPhase::Connecting, since: Instant::now(), last_error: None };
        let record = Arc::new(Self { entered: Mutex::new(entered) });
        if let Some(runtime) = deadline::runtime() {
            let (broker, state) = (connection.broker().clone(), connection.state());
            runtime.spawn(follow(broker, state, Arc::clone(&record), events.clone()));
        }
        record
    }

    /// The health of `connection`, which the record is of.
    pub(crate) fn health(&self, connection: &dyn Connection, is_closing: bool) -> ConnectionHealth {
        let state = connection.state().borrow().clone();
        // The task that follows it may not have seen the state yet.
        drop(self.enter(&state));
        let stats = connection.stats();
        let entered = self.entered.lock();
        let phase = match entered.phase {
            ConnectionPhase::Closed => ConnectionPhase::Closed,
            _ if is_closing => ConnectionPhase::Closing,
            phase => phase,
        };
        ConnectionHealth {
            phase,
            since: entered.since.elapsed(),
            last_error: entered.last_error.clone(),
            in_flight: stats.in_flight,
            in_flight_bytes: stats.in_flight_bytes,
            reconnects: stats.established.saturating_sub(1),
        }
    }

    /// Records a state. Returns the phase before, and the error that was replaced, to be dropped without a lock.
    fn enter(&self, state: &ConnectionState) -> (ConnectionPhase, Option<TransportError>) {
        let (phase, error) = phase(state);
        let mut entered = self.entered.lock();
        let before = entered.phase;
        if before != phase {
            entered.phase = phase;
            entered.since = Instant::now();
        }
        let replaced = error.and_then(|error| entered.last_error.replace(error));
        (before, replaced)
    }
}

fn phase(state: &ConnectionState) -> (ConnectionPhase, Option<TransportError>) {
    match state {
        ConnectionState::Connecting { last_error, .. } => (ConnectionPhase::Connecting, last_error.clone()),
        ConnectionState::Stalled => (ConnectionPhase::Stalled, None),
        ConnectionState::Closed => (ConnectionPhase::Closed, None),
        // `Ready`, and states that later versions may add.
        _ => (ConnectionPhase::Ready, None),
    }
}

async fn follow(
    broker: BrokerAddr,
    mut state: watch::Receiver<ConnectionState>,
    record: Arc<ConnectionRecord>,
    events: EventSender,
) {
    let mut last = ConnectionPhase::Connecting;
    loop {
        let now = state.borrow_and_update().clone();
        drop(record.enter(&now));
        let (phase, error) = phase(&now);
        report(&broker, last, phase, error, &events);
        last = phase;
        if phase == ConnectionPhase::Closed || state.changed().await.is_err() {
            return;
        }
    }
}

/// Reports the change from one phase to another.
fn report(
    broker: &BrokerAddr,
    from: ConnectionPhase,
    to: ConnectionPhase,
    error: Option<TransportError>,
    events: &EventSender,
) {
    let broker = broker.clone();
    let event = match (from, to, error) {
        (ConnectionPhase::Connecting, ConnectionPhase::Ready, _) => {
            contain(|| tracing::info!(%broker, "broker connected"));
            ProducerEvent::Connected { broker }
        }
        (ConnectionPhase::Stalled, ConnectionPhase::Ready, _) => ProducerEvent::Recovered { broker },
        (ConnectionPhase::Connecting, ConnectionPhase::Connecting, Some(error)) => {
            ProducerEvent::Unreachable { broker, error }
        }
        (_, ConnectionPhase::Connecting, Some(error)) => ProducerEvent::ConnectionLost { broker, error },
        (from, ConnectionPhase::Stalled, _) if from != ConnectionPhase::Stalled => {
            ProducerEvent::Stalled { broker }
        }
        (_, ConnectionPhase::Closed, _) => ProducerEvent::Closed { broker },
        _ => return,
    };
    events.send(event);
}
