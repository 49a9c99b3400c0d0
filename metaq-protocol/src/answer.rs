//! What the body of an answer says, command by command.

use alloc::{borrow::ToOwned, string::String};

use crate::text;

mod put;
mod stats;
mod transaction;

pub use put::PutAnswer;
pub use stats::parse_stats;
pub use transaction::{PrepareVote, XaError, parse_recovered};

/// The body of a successful answer that doesn't say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer to {request} {text:?} has no valid {field}; expected {expected}")]
pub struct InvalidAnswer {
    request: &'static str,
    field: &'static str,
    expected: &'static str,
    text: String,
}

impl InvalidAnswer {
    #[cold]
    fn new(request: &'static str, field: &'static str, expected: &'static str, body: &[u8]) -> Self {
        let text = text::from_utf8_lossy(&body[..body.len().min(400)]);
        Self { request, field, expected, text: text::excerpt(&text).to_owned() }
    }
}
