//! The error of an invalid address.

use alloc::{borrow::ToOwned, string::String};

use crate::excerpt;

/// The error of a text that isn't the address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a broker's address: {kind}; expected meta://HOST:PORT")]
pub struct InvalidBrokerAddr {
    text: String,
    kind: InvalidBrokerAddrKind,
}

impl InvalidBrokerAddr {
    #[cold]
    pub(super) fn new(text: &str, kind: InvalidBrokerAddrKind) -> Self {
        Self { text: excerpt(text).to_owned(), kind }
    }

    /// The beginning of the text, or of the host given to [`BrokerAddr::new`](super::BrokerAddr::new), at
    /// most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> InvalidBrokerAddrKind {
        self.kind
    }
}

/// The reasons of an [`InvalidBrokerAddr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBrokerAddrKind {
    /// The text doesn't start with `meta://`.
    #[error("it doesn't start with meta://")]
    Scheme,
    /// The text contains a space, a line end or another control character, inside or at an end.
    #[error("it contains white space or a control character")]
    WhiteSpace,
    /// The host is missing, as in `meta://:8123`.
    #[error("the host is missing")]
    HostMissing,
    /// The host contains characters that are not allowed in a name or an IP address.
    #[error("the host is neither a name nor an IP address")]
    Host,
    /// An IPv6 address has no brackets, so that its last group would be taken for the port.
    #[error("its IPv6 address is not in brackets")]
    Ipv6WithoutBrackets,
    /// A bracket is opened and not closed.
    #[error("the bracket before its IPv6 address is not closed")]
    BracketOpen,
    /// The text in brackets is not an IPv6 address.
    #[error("the text in brackets is not an IPv6 address")]
    BracketsWithoutIpv6,
    /// The closing bracket is not followed by a colon and the port.
    #[error("the closing bracket is not followed by a colon and the port")]
    AfterBracket,
    /// There is no port, as in `meta://h` and `meta://h:`.
    #[error("the port is missing")]
    PortMissing,
    /// The port is not decimal digits.
    #[error("the port is not a number")]
    PortNotANumber,
    /// The port is 0, to which no client can connect.
    #[error("the port is 0")]
    PortZero,
    /// The port is negative or above 65535.
    #[error("the port is not between 1 and 65535")]
    PortOutOfRange,
    /// The text has a user part, as in `meta://user@h:8123`.
    #[error("it has a user part")]
    User,
    /// The text has a path, even if it is a slash alone.
    #[error("it has a path behind the port")]
    Path,
    /// The text has a query, as in `meta://h:8123?slaveId=0`.
    #[error("it has a query behind the port")]
    Query,
    /// The text has a fragment, as in `meta://h:8123#x`.
    #[error("it has a fragment behind the port")]
    Fragment,
    /// The Java client can't parse the query.
    #[error("its query can't be read")]
    QueryUnreadable,
    /// The `slaveId` of the query is not an `i32`.
    #[error("its slaveId is not a number")]
    SlaveId,
}
