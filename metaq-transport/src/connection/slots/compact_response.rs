//! Responses in the size of a slot.

use metaq_protocol::{BooleanCommand, Opaque, PutResponse, Response, ResponseRef, Status};

use crate::ResponseBody;

/// A response on its way from the read buffer to the caller.
///
/// The response to a put is kept as its three numbers. All others are rare and boxed, so that a slot is one
/// cache line.
#[derive(Debug)]
pub(crate) enum CompactResponse {
    Stored(PutResponse),
    Other(Box<Response>),
}

impl CompactResponse {
    /// Copies a response out of the read buffer.
    pub(crate) fn read(response: &ResponseRef<'_>) -> Self {
        match response.put_response() {
            Ok(stored) if response.status() == Some(Status::SUCCESS) => Self::Stored(stored),
            _ => Self::Other(Box::new(response.to_response())),
        }
    }

    /// Returns the contents as the response to a put, or to another request.
    #[inline]
    pub(super) fn into_body(self, is_put: bool, opaque: Opaque) -> ResponseBody {
        match self {
            Self::Stored(stored) if is_put => ResponseBody::Stored(stored),
            Self::Stored(stored) => {
                ResponseBody::Other(BooleanCommand::new(Status::SUCCESS, stored.to_body(), opaque).into())
            }
            Self::Other(response) => ResponseBody::Other(*response),
        }
    }
}
