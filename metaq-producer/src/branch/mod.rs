//! A transaction at one broker.
//!
//! [`steps`] is what a broker is asked to do with a transaction, be it a local one or a branch of a
//! distributed one, and [`rollback`] the one step that is repeated until a broker confirms it.
//! [`open_transactions`] are the local transactions that brokers hold for a producer, which it rolls back
//! when it is closed; [`names`] makes their names.
//!
//! Knows connections and messages, and nothing of producers: [`transaction`](crate::transaction) and
//! [`xa`](crate::xa) are what users see, and are built on this.

mod names;
mod open_transactions;
mod rollback;
mod steps;

use std::time::Duration;

use metaq_transport::{TransportError, TransportErrorKind};

pub(crate) use names::TransactionNames;
pub(crate) use open_transactions::{HeldTransaction, OpenTransactions, Registration};
pub(crate) use rollback::Rollback;
pub(crate) use steps::{Branch, StepError, in_runtime, read, read_put};

/// The error outside of a tokio runtime, and the remedy.
pub(crate) const NO_RUNTIME: &str = "there is no tokio runtime here to wait in; await this within one";

/// The least that a request timeout is taken as: nothing is answered sooner, and a commit would always be
/// unknown.
const SHORTEST_REQUEST_TIMEOUT: Duration = Duration::from_millis(10);

/// A request timeout within its limits.
pub(crate) fn checked_request_timeout(request_timeout: Duration) -> Duration {
    request_timeout.max(SHORTEST_REQUEST_TIMEOUT)
}

/// The time that a broker has to answer a step. As the Java client (rule T-13).
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the connection is gone, and local transactions with it.
pub(crate) fn ends_connection(error: &TransportError) -> bool {
    use TransportErrorKind::{Closed, Lost, NotConnected};
    matches!(error.kind(), Closed | Lost | NotConnected)
}
