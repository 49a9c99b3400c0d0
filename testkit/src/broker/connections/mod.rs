//! The connections of a broker, from the listening port to the bytes of a response.
//!
//! - `listener`: accepts connections, and runs a task for each.
//! - `driver`: reads and writes the stream of one connection, and applies the
//!   [`Behaviour`](super::faults::Behaviour) that the broker shows to all of them: frozen, stranded, closed
//!   or cut.
//! - `connection`: the protocol of one connection without I/O: bytes in, responses out, planned faults
//!   applied.
//! - `lenient_input`: rewrites input that only a Java broker accepts (`BrokerBuilder::compat`).
//!
//! Uses point one way: `listener` → `driver` → `connection` → `lenient_input`. The meaning of a request
//! belongs to `handlers`.

mod connection;
mod driver;
mod lenient_input;
mod listener;

pub(super) use listener::accept_connections;
