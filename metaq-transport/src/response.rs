//! Responses of brokers, as a connection hands them to the requests that they belong to.

use metaq_protocol::{PutResponse, Response};
use tokio::time::Instant;

use crate::TransportError;

/// The outcome of a request: its response, or the reason why there is none.
pub(crate) type ResponseResult = Result<ReceivedResponse, TransportError>;

/// A broker's response to a request, and the time at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedResponse {
    /// The contents.
    pub body: ResponseBody,
    /// The time at which the response was read from the connection.
    pub received_at: Instant,
}

/// The contents of a [`ReceivedResponse`].
///
/// The response to a put that was stored is decoded in the read buffer, without an allocation, because there
/// is one for each message. All others are kept as they were received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseBody {
    /// A put was stored.
    Stored(PutResponse),
    /// Anything else: a refusal, or the response to another request.
    Other(Response),
}

impl ReceivedResponse {
    /// Creates a response that is received now.
    #[must_use]
    pub fn new(body: ResponseBody) -> Self {
        Self { body, received_at: Instant::now() }
    }

    /// Returns the response, unless it says that a put was stored.
    #[must_use]
    pub fn into_response(self) -> Option<Response> {
        match self.body {
            ResponseBody::Stored(_) => None,
            ResponseBody::Other(response) => Some(response),
        }
    }
}

impl From<PutResponse> for ReceivedResponse {
    fn from(stored: PutResponse) -> Self {
        Self::new(ResponseBody::Stored(stored))
    }
}

impl From<Response> for ReceivedResponse {
    fn from(response: Response) -> Self {
        Self::new(ResponseBody::Other(response))
    }
}
