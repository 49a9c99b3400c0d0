//! Attempts to connect, and when they are made.
//!
//! A [`Dialer`] makes streams. An [`Attempt`](attempt::Attempt) dials one and has the broker answer a first
//! request (`handshake`), because a process that is frozen still accepts connections. The
//! [`Connector`](connector::Connector) decides when attempts are made: one at a time, a second one beside an
//! attempt that is not answered, and one beside a connection that is silent. Between failed attempts it waits
//! as `backoff` says, and it remembers in a [`DialHistory`](history::DialHistory) how earlier attempts fared.
//!
//! The work on an established stream belongs to `driver`, name resolution and the choice between the
//! addresses of a name to `tcp`. Of the other modules of a connection's work, this one uses `connection`
//! alone.

pub(crate) mod attempt;
pub(crate) mod backoff;
pub(crate) mod connector;
mod dialer;
mod handshake;
pub(crate) mod history;

pub use dialer::Dialer;
