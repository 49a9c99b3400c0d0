//! Being told of the ends of many requests, instead of awaiting each.

use std::{fmt, sync::Arc};

use crate::{Answer, TransportError};

/// Is told how requests ended, many at a time: what a producer needs that has thousands of messages in flight, whoever awaits
/// them.
pub trait Completions: fmt::Debug + Send + Sync {
    /// The requests with these tokens have ended so; each is told once. `ended` is to be left empty.
    ///
    /// It is called on the connection's task, which does nothing else meanwhile, and never from within
    /// [`submit_put`](crate::Connection::submit_put), so it may wait for a lock that is held around that.
    fn ended(&self, ended: &mut Vec<(u64, Result<Answer, TransportError>)>);
}

/// Who is told of the end of a request, and by which token.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a pair with names")]
pub struct Ticket<'a> {
    /// Who is told.
    pub completions: &'a Arc<dyn Completions>,
    /// What the request is called then.
    pub token: u64,
}
