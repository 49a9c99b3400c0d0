//! The handlers of requests: what each does to the state of the broker, and its response (protocol §3).
//!
//! - `dispatch`: chooses the handler of a request; the only entry from outside.
//! - `put`: `put`, in a transaction or not. `read`: `get` and `offset`.
//! - `transaction`: the steps of transactions. `stats`: `stats` and its items.
//! - `response`: makes a response, and holds the texts that several handlers share.
//!
//! Handlers are methods of [`BrokerShared`](super::shared::BrokerShared), one request at a time; they perform
//! no I/O on connections, and know no faults.

mod dispatch;
mod put;
mod read;
mod response;
mod stats;
mod transaction;

pub(super) use response::result;
