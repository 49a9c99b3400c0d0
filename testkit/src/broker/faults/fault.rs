//! The faults that a request can meet.

use std::time::Duration;

use bytes::Bytes;
use metaq_protocol::{Opaque, Status};

/// The faults that a request can meet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The request is not carried out; the response has this status and text.
    Refuse(Status, String),
    /// The request is carried out; the response has this status and text all the same.
    Answer(Status, String),
    /// The request is carried out, and gets no response.
    Swallow,
    /// The request is not carried out, and gets no response.
    Ignore,
    /// The request is carried out immediately; the response follows after this time, by tokio's clock.
    Late(Duration),
    /// The request is carried out; the response has this opaque instead of the right one.
    Opaque(Opaque),
    /// The request is carried out, and gets two responses.
    Twice,
    /// The request is carried out, and this number of other responses overtakes its own, as far as the broker
    /// has others.
    Behind(usize),
    /// The request is carried out; this number of random bytes replaces the response.
    Garbage(usize),
    /// The request is carried out; these bytes replace the response.
    Bytes(Bytes),
    /// The request is carried out; the connection is closed after this number of bytes of the response.
    Cut(usize),
    /// The request is not carried out, and the connection is closed.
    Close,
}

impl Fault {
    /// Returns [`Refuse`](Self::Refuse) with a status as a number, such as 500 or 503.
    #[must_use]
    pub fn refuse(status: i32, text: &str) -> Self {
        Self::Refuse(Status(status), text.to_owned())
    }
}
