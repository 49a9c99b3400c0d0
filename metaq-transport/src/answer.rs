//! The answers of brokers.

use metaq_protocol::{PutResponse, Response};
use tokio::time::Instant;

/// The answer of a broker to a request, and the time at which it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The answer.
    pub body: AnswerBody,
    /// The time at which the answer was read from the connection.
    pub received_at: Instant,
}

/// The contents of an [`Answer`].
///
/// The answer to a put that was stored is read where it lies, without an allocation, because there is one for each
/// message; everything else is kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerBody {
    /// A put was stored.
    Stored(PutResponse),
    /// Anything else: a refusal, or the answer to another request.
    Other(Response),
}

impl Answer {
    /// An answer that comes now.
    #[must_use]
    pub fn new(body: AnswerBody) -> Self {
        Self { body, received_at: Instant::now() }
    }

    /// The response, if it isn't that a put was stored.
    #[must_use]
    pub fn into_response(self) -> Option<Response> {
        match self.body {
            AnswerBody::Stored(_) => None,
            AnswerBody::Other(response) => Some(response),
        }
    }
}

impl From<PutResponse> for Answer {
    fn from(answer: PutResponse) -> Self {
        Self::new(AnswerBody::Stored(answer))
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::new(AnswerBody::Other(response))
    }
}
