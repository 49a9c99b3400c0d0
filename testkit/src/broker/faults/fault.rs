//! The faults that a request can meet.

use std::time::Duration;

use bytes::Bytes;
use metaq_protocol::{Opaque, Status};

/// The faults that a request can meet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// It is not carried out, and answered so.
    Refuse(Status, String),
    /// It is carried out, and answered so nevertheless.
    Answer(Status, String),
    /// It is carried out, and not answered.
    Swallow,
    /// It is not carried out, and not answered.
    Ignore,
    /// It is carried out at once, and answered after this time, as tokio's clock has it.
    Late(Duration),
    /// It is carried out, and the answer names this opaque instead of its own.
    Opaque(Opaque),
    /// It is carried out, and answered twice.
    Twice,
    /// It is carried out, and so many other answers overtake this one, as far as the broker has others to give.
    Behind(usize),
    /// It is carried out, and so many random bytes go out in place of the answer.
    Garbage(usize),
    /// It is carried out, and these bytes go out in place of the answer.
    Bytes(Bytes),
    /// It is carried out, and the connection is closed after so many bytes of the answer.
    Cut(usize),
    /// It is not carried out, and the connection is closed.
    Close,
}

impl Fault {
    /// [`Refuse`](Self::Refuse) with a status as a number, such as 500 or 503.
    #[must_use]
    pub fn refuse(status: i32, text: &str) -> Self {
        Self::Refuse(Status(status), text.to_owned())
    }
}
