//! The beginning of a transaction: its first message chooses the broker.

use std::{pin::pin, sync::Arc, time::Duration};

use metaq_protocol::TransactionAction;
use metaq_transport::{Progress, TransportErrorKind};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use super::{
    CountedTransaction, Open, Place, PlacementError, State, Transaction, TransactionError,
    TransactionErrorKind, TransactionOutcome, choose, whole_seconds,
};
use crate::branch::{Branch, HeldTransaction, StepError, ends_connection, in_runtime, read};
use crate::{Message, deadline, panics::with_contained_waker, route::topic_state::TopicState};

/// Brokers at which a transaction could not begin are tried again after this time.
const LOOK: Duration = Duration::from_millis(50);

/// The transaction did not begin.
pub(super) struct NotBegun {
    pub(super) error: TransactionError,
    /// Whether it can begin at another broker: this one certainly has not begun it, or has ended it.
    pub(super) elsewhere: bool,
}

impl Transaction {
    /// Chooses a partition for the first message and begins at its broker, at another where that can't be
    /// reached and the message may go elsewhere. Waits for a broker while there is none.
    pub(super) async fn begin_for(
        &mut self,
        topic: &Arc<TopicState>,
        message: &Message,
        deadline: Instant,
    ) -> Result<Place, TransactionError> {
        let producer = self.producer.clone();
        let (mut avoided, mut last) = (Vec::new(), None);
        loop {
            let mut changed = pin!(topic.route_changed());
            // From here on no change is missed.
            changed.as_mut().enable();
            let place = choose(topic, message, |broker| !avoided.contains(&broker.topic_broker.broker.addr));
            match place {
                Ok(place) => {
                    let named = producer.inner.transaction_names.next();
                    let (id, session) = named.map_err(|error| {
                        let kind = TransactionErrorKind::NoEntropy;
                        TransactionError::new(kind, TransactionOutcome::Open, error.to_string())
                    })?;
                    let broker = place.connection.broker().clone();
                    let connection = Arc::clone(&place.connection);
                    let branch = Branch { id, session, qualifier: None, connection };
                    match self.begin_at(branch, deadline).await {
                        Ok(()) => return Ok(place),
                        Err(NotBegun { error, elsewhere: true }) => {
                            avoided.push(broker);
                            last = Some(error);
                        }
                        Err(NotBegun { error, elsewhere: false }) => return Err(error),
                    }
                }
                Err(PlacementError::NoBroker) => {
                    topic.ensure_followed();
                    in_runtime().map_err(|step| self.not_sent(step))?;
                    // One that was avoided may have been lost and be back before this was polled.
                    let look =
                        if avoided.is_empty() { deadline } else { deadline.min(deadline::after(LOOK)) };
                    if with_contained_waker(timeout_at(look, changed)).await.is_err()
                        && Instant::now() >= deadline
                    {
                        return Err(unreachable(topic, message, last.as_ref()));
                    }
                    avoided.clear();
                }
                Err(placement_error) => return Err(placement_error.into()),
            }
        }
    }

    /// Sends `BEGIN`, and awaits the answer: the broker would take a message that follows at once before it
    /// (B-27).
    async fn begin_at(&mut self, branch: Branch, deadline: Instant) -> Result<(), NotBegun> {
        let seconds = whole_seconds(self.options.timeout());
        let deadline = deadline.min(deadline::after(self.options.request_timeout()));
        let submitted = branch.submit(TransactionAction::Begin, seconds, deadline).await;
        match submitted {
            Ok(begin) => {
                // It went out on this connection: if that is replaced before the answer, there is none.
                let established = branch.connection.stats().established;
                self.state = State::Open(Box::new(Open {
                    branch,
                    established,
                    begin: Some(begin),
                    puts: [].into(),
                    runtime: Handle::try_current().ok(),
                    counted: CountedTransaction::begun(&self.producer.inner.topics.counts.transactions),
                    registration: None,
                }));
                self.begun().await
            }
            // Nothing was written: no broker knows it.
            Err(step) => {
                let NotBegun { error, elsewhere } = self.not_begun(step);
                let error = error.of(&branch.id, branch.connection.broker());
                Err(NotBegun { error, elsewhere })
            }
        }
    }

    /// Waits for the answer to `BEGIN`, if it isn't there yet.
    pub(super) async fn begun(&mut self) -> Result<(), NotBegun> {
        let State::Open(open) = &mut self.state else { return Ok(()) };
        let Some(begin) = &mut open.begin else { return Ok(()) };
        let outcome = begin.await;
        open.begin = None;
        if let Err(step) = read(outcome) {
            return Err(self.not_begun(step));
        }
        if !self.register() {
            let error = self.closed();
            return Err(NotBegun { error, elsewhere: false });
        }
        Ok(())
    }

    /// Has the transaction rolled back when the producer is closed. False when it is being closed.
    pub(super) fn register(&mut self) -> bool {
        let State::Open(open) = &mut self.state else { return true };
        open.registration = self.producer.inner.open_transactions.register(HeldTransaction {
            branch: open.branch.clone(),
            established: open.established,
            request_timeout: self.options.request_timeout(),
        });
        open.registration.is_some()
    }

    /// A failed `BEGIN` leaves nothing behind that later messages could be put into (K-13, rule T-18).
    fn not_begun(&mut self, step: StepError) -> NotBegun {
        let elsewhere = match &step {
            StepError::NoAnswer(error) => {
                ends_connection(error)
                    || (error.progress() == Progress::NotWritten
                        && error.kind() == TransportErrorKind::Stalled)
            }
            _ => false,
        };
        let error = self.over(step);
        if elsewhere {
            self.state = State::New;
        }
        NotBegun { error, elsewhere }
    }
}

/// No broker could be reached in time; `failed` says why the last that was tried could not.
fn unreachable(topic: &TopicState, message: &Message, failed: Option<&TransactionError>) -> TransactionError {
    let error = |kind, text: String| TransactionError::new(kind, TransactionOutcome::Open, text);
    if topic.is_withdrawn() {
        let text = "its topic is not published on this producer any more";
        return error(TransactionErrorKind::NotPublished, text.to_owned());
    }
    let route = topic.route();
    let (brokers, cause) = route.unreachable();
    if let Some(partition) = message.partition().filter(|partition| !route.has(*partition)) {
        let text = format!("it is for partition {partition}, which was not there in time: {brokers}");
        return error(TransactionErrorKind::NotConnected, text).with_source(cause);
    }
    let why = failed.map_or(&*brokers, TransactionError::text);
    let text = format!("no broker of topic {} could be reached in time: {why}", topic.topic);
    error(TransactionErrorKind::NotConnected, text).with_source(cause)
}
