//! Making responses, and the texts that several handlers share.

use bytes::Bytes;
use metaq_protocol::{BooleanCommand, Opaque, Response, Status};

/// The version in the responses of a released Java broker, in which the file with its version is missing
/// (protocol §3.5).
pub(super) const VERSION: &str = "0.1";

/// The text of the id `null` in a Java broker.
pub(super) const NULL_ID: &str = "com.taobao.metamorphosis.transaction.NullTransactionId@1";

/// Makes the response to a request.
pub(in crate::broker) fn result(opaque: Opaque, status: Status, text: impl Into<Bytes>) -> Response {
    BooleanCommand::new(status, text.into(), opaque).into()
}
