//! Making a response, and the texts that several handlers need.

use bytes::Bytes;
use metaq_protocol::{BooleanCommand, Opaque, Response, Status};

/// The version that a released Java broker answers, since the file that should hold its version is missing in it (protocol §3.5).
pub(super) const VERSION: &str = "0.1";

/// The text of the id `null` in a Java broker.
pub(super) const NULL_ID: &str = "com.taobao.metamorphosis.transaction.NullTransactionId@1";

/// Makes an answer.
pub(in crate::broker) fn result(opaque: Opaque, status: Status, text: impl Into<Bytes>) -> Response {
    BooleanCommand::new(status, text.into(), opaque).into()
}
