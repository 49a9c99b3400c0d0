//! The bodies of responses to each command.

use alloc::{borrow::ToOwned, string::String};
use core::fmt;

use crate::text;

mod put;
mod stats;
mod transaction;

pub use put::PutResponse;
pub use stats::{InvalidStat, encode_stats, parse_stats};
pub use transaction::{PrepareVote, XaError, encode_recovered, parse_recovered};

/// The error of a successful response with an invalid body.
///
/// ```
/// use metaq_protocol::PutResponse;
///
/// let error = PutResponse::parse(b"7 x 0").unwrap_err();
/// assert_eq!((error.request(), error.field(), error.text()), ("put", "partition", "7 x 0"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidResponse {
    request: &'static str,
    field: &'static str,
    expected: &'static str,
    text: String,
}

impl fmt::Display for InvalidResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, request, field, expected } = self;
        write!(f, "the response {text:?} to {request} has no valid {field}; expected {expected}")
    }
}

impl core::error::Error for InvalidResponse {}

impl InvalidResponse {
    #[cold]
    fn new(request: &'static str, field: &'static str, expected: &'static str, body: &[u8]) -> Self {
        let text = text::from_utf8_lossy(&body[..body.len().min(400)]);
        Self { request, field, expected, text: text::excerpt(&text).to_owned() }
    }

    /// The request that was answered: `put` or `PREPARE`.
    #[must_use]
    pub fn request(&self) -> &'static str {
        self.request
    }

    /// The missing or invalid field, for example `offset`.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// The expected form, for example `MESSAGE-ID PARTITION OFFSET`.
    #[must_use]
    pub fn expected(&self) -> &'static str {
        self.expected
    }

    /// The beginning of the body, at most 80 characters. Invalid UTF-8 became U+FFFD.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}
