//! Follows the states of connections.

use std::sync::{Arc, Weak};

use metaq_protocol::BrokerAddr;
use metaq_transport::{Connection, ConnectionState, TransportError, TransportErrorKind};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Duration, Instant},
};

use super::{ConnectionHealth, ConnectionPhase, EventSender, ProducerEvent, reason};
use crate::{deadline, panics::contain};

/// The history of a connection: when it entered its phase, and its last error.
#[derive(Debug)]
pub(crate) struct ConnectionRecord {
    broker: BrokerAddr,
    state: watch::Receiver<ConnectionState>,
    events: EventSender,
    entered: Mutex<Entered>,
}

#[derive(Debug)]
struct Entered {
    phase: ConnectionPhase,
    since: Instant,
    last_error: Option<TransportError>,
    end: End,
}

/// Whether the end of a connection was reported.
#[derive(Debug, PartialEq, Eq)]
enum End {
    NotReported,
    /// Another event is being sent, after which the end can be reported.
    AfterEvent,
    BeingReported,
    Reported,
}

impl ConnectionRecord {
    /// The record of a connection that begins.
    pub(crate) fn new(connection: &Arc<dyn Connection>, events: &EventSender) -> Arc<Self> {
        let entered = Entered {
            phase: ConnectionPhase::Connecting,
            since: Instant::now(),
            last_error: None,
            end: End::NotReported,
        };
        Arc::new(Self {
            broker: connection.broker().clone(),
            state: connection.state(),
            events: events.clone(),
            entered: Mutex::new(entered),
        })
    }

    /// Follows `connection`, which the record is of, until it is gone, on the caller's runtime. Outside of
    /// one its state is known only when it is looked at.
    pub(crate) fn follow(self: Arc<Self>, connection: &Arc<dyn Connection>) {
        if let Some(runtime) = deadline::runtime() {
            runtime.spawn(follow(self, Arc::downgrade(connection)));
        }
    }

    /// The health of `connection`, which the record is of. `closing` is for how long the producer has been
    /// closing.
    pub(crate) fn health(&self, connection: &dyn Connection, closing: Option<Duration>) -> ConnectionHealth {
        // The task that follows it may not have seen the state yet.
        drop(self.look());
        let stats = connection.stats();
        let entered = self.entered.lock();
        let (phase, since) = match (entered.phase, closing) {
            (ConnectionPhase::Closed, _) | (_, None) => (entered.phase, entered.since.elapsed()),
            (_, Some(closing)) => (ConnectionPhase::Closing, closing),
        };
        ConnectionHealth {
            phase,
            since,
            last_error: entered.last_error.clone(),
            in_flight: stats.in_flight,
            in_flight_bytes: stats.in_flight_bytes,
            reconnects: stats.established.saturating_sub(1),
        }
    }

    /// Records the state that the connection has now. Returns it, and the error that was replaced, to be
    /// dropped without a lock.
    fn look(&self) -> (ConnectionPhase, Option<TransportError>, Option<TransportError>) {
        // Under the lock, so that no older state is recorded after a newer one.
        let mut entered = self.entered.lock();
        let (phase, error) = phase(&self.state.borrow());
        if entered.phase != phase {
            entered.phase = phase;
            entered.since = Instant::now();
        }
        let replaced = error.clone().and_then(|error| entered.last_error.replace(error));
        (phase, error, replaced)
    }

    /// Sends an event, unless the end was reported: nothing comes after that.
    fn send(&self, event: ProducerEvent) {
        {
            let mut entered = self.entered.lock();
            if entered.end != End::NotReported {
                return;
            }
            entered.end = End::AfterEvent;
        }
        if let ProducerEvent::Connected { broker } = &event {
            contain(|| tracing::info!(%broker, "broker connected"));
        }
        self.events.send(event);
        self.entered.lock().end = End::NotReported;
    }

    /// Reports that the connection is closed, unless that was done. False while another thread reports that
    /// or something else.
    fn report_end(&self) -> bool {
        {
            let mut entered = self.entered.lock();
            match entered.end {
                End::NotReported => entered.end = End::BeingReported,
                End::AfterEvent | End::BeingReported => return false,
                End::Reported => return true,
            }
        }
        // Without the lock: readers are woken, whose wakers are anybody's code.
        self.events.send(ProducerEvent::Closed { broker: self.broker.clone() });
        self.entered.lock().end = End::Reported;
        true
    }

    /// The same if it is closed.
    pub(crate) fn report_end_if_closed(&self) -> bool {
        self.look().0 != ConnectionPhase::Closed || self.report_end()
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

/// Reports the end when it is dropped: the connection is gone, or the runtime on which both lived has ended.
struct Following(Arc<ConnectionRecord>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.report_end();
    }
}

async fn follow(record: Arc<ConnectionRecord>, connection: Weak<dyn Connection>) {
    let following = Following(record);
    let record = &following.0;
    let mut state = record.state.clone();
    let mut changes = Changes::default();
    loop {
        state.mark_unchanged();
        let established = || connection.upgrade().map(|connection| connection.stats().established);
        let before = established();
        let (phase, error, _) = record.look();
        if phase == ConnectionPhase::Closed {
            return;
        }
        // It was established again meanwhile: whether before or after the look is not known.
        if before != established() {
            yield_now().await;
            continue;
        }
        for event in changes.to(&record.broker, phase, error, before) {
            record.send(event);
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// The changes of a connection that were reported so far.
struct Changes {
    phase: ConnectionPhase,
    /// The number of times that it was established.
    established: u64,
    /// The reason why it can't be established.
    reason: Option<String>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { phase: ConnectionPhase::Connecting, established: 0, reason: None }
    }
}

impl Changes {
    /// The events by which a connection gets to `phase`.
    fn to(
        &mut self,
        broker: &BrokerAddr,
        phase: ConnectionPhase,
        error: Option<TransportError>,
        established: Option<u64>,
    ) -> Vec<ProducerEvent> {
        use ConnectionPhase::{Connecting, Ready, Stalled};
        let broker = || broker.clone();
        let from = std::mem::replace(&mut self.phase, phase);
        let before = self.established;
        self.established = established.unwrap_or(before);
        match (from, phase, error) {
            (Connecting, Connecting, Some(error)) => {
                let reason = Some(reason(&error));
                if reason == self.reason {
                    return Vec::new();
                }
                self.reason = reason;
                vec![ProducerEvent::Unreachable { broker: broker(), error }]
            }
            (_, Connecting, Some(error)) => {
                self.reason = None;
                vec![ProducerEvent::ConnectionLost { broker: broker(), error }]
            }
            (Connecting, Ready, _) => vec![ProducerEvent::Connected { broker: broker() }],
            // It was lost and established again between two looks.
            (_, Ready, _) if self.established > before => {
                let error = TransportError::new(TransportErrorKind::Lost, broker());
                vec![
                    ProducerEvent::ConnectionLost { broker: broker(), error },
                    ProducerEvent::Connected { broker: broker() },
                ]
            }
            (Stalled, Ready, _) => vec![ProducerEvent::Recovered { broker: broker() }],
            (from, Stalled, _) if from != Stalled => vec![ProducerEvent::Stalled { broker: broker() }],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_between_two_looks_and_repeated_reasons_are_told_once() {
        use ConnectionPhase::{Connecting, Ready, Stalled};
        let broker: BrokerAddr = "meta://h:1".parse().unwrap();
        let error = |kind| Some(TransportError::new(kind, broker.clone()));
        let mut changes = Changes::default();
        let mut told = |phase, error, established| {
            let events = changes.to(&broker, phase, error, Some(established));
            events
                .iter()
                .map(|event| event.to_string().split_once(' ').unwrap().1.to_owned())
                .collect::<Vec<_>>()
        };
        let refused = || error(TransportErrorKind::NotConnected);
        assert_eq!(told(Connecting, None, 0), [""; 0]);
        let first = told(Connecting, refused(), 0);
        assert!(first.len() == 1 && first[0].starts_with("unreachable: "), "{first:?}");
        assert_eq!(told(Connecting, refused(), 0), [""; 0], "the same reason");
        assert_eq!(told(Connecting, error(TransportErrorKind::TimedOut), 0).len(), 1, "another one");
        assert_eq!(told(Ready, None, 1), ["connected"]);
        assert_eq!(told(Stalled, None, 1), ["stalled"]);
        assert_eq!(told(Ready, None, 1), ["recovered"]);
        assert_eq!(told(Stalled, None, 1), ["stalled"]);
        let replaced = told(Ready, None, 2);
        assert!(replaced.len() == 2 && replaced[0].starts_with("lost: "), "{replaced:?}");
        assert_eq!(replaced[1], "connected");
        assert_eq!(told(Connecting, error(TransportErrorKind::Lost), 2).len(), 1);
        assert_eq!(told(Connecting, refused(), 2).len(), 1, "the reason may be that of before");
    }
}
