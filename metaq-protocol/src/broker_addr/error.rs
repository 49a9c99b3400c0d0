//! The error of a text that is no address.

use alloc::{borrow::ToOwned, string::String};

use crate::excerpt;

/// A text that isn't the address of a broker.
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

    /// The fault.
    #[must_use]
    pub fn kind(&self) -> InvalidBrokerAddrKind {
        self.kind
    }
}

/// The kinds of faults of an [`InvalidBrokerAddr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBrokerAddrKind {
    /// It doesn't start with `meta://`.
    #[error("it doesn't start with meta://")]
    Scheme,
    /// It holds a space, a line end or another control character, inside or at an end.
    #[error("it contains white space or a control character")]
    WhiteSpace,
    /// There is nothing where the host should be, as in `meta://:8123`.
    #[error("the host is missing")]
    HostMissing,
    /// The host holds characters that no name and no IP address has.
    #[error("the host is neither a name nor an IP address")]
    Host,
    /// An IPv6 address stands without brackets, so that its last group would be taken for the port.
    #[error("its IPv6 address is not in brackets")]
    Ipv6WithoutBrackets,
    /// A bracket is opened and not closed.
    #[error("the bracket before its IPv6 address is not closed")]
    BracketOpen,
    /// The text in brackets is something else.
    #[error("the text in brackets is not an IPv6 address")]
    BracketsWithoutIpv6,
    /// Something else than a colon and the port follows the closing bracket.
    #[error("the closing bracket is not followed by a colon and the port")]
    AfterBracket,
    /// There is no port, as in `meta://h` and `meta://h:`.
    #[error("the port is missing")]
    PortMissing,
    /// The port is not decimal digits.
    #[error("the port is not a number")]
    PortNotANumber,
    /// The port is 0, to which nobody can connect.
    #[error("the port is 0")]
    PortZero,
    /// The port is negative or above 65535.
    #[error("the port is not between 1 and 65535")]
    PortOutOfRange,
    /// It has a user part, as in `meta://user@h:8123`.
    #[error("it has a user part")]
    User,
    /// It has a path, be it a slash alone.
    #[error("it has a path behind the port")]
    Path,
    /// It has a query, as in `meta://h:8123?slaveId=0`.
    #[error("it has a query behind the port")]
    Query,
    /// It has a fragment, as in `meta://h:8123#x`.
    #[error("it has a fragment behind the port")]
    Fragment,
    /// Its query is none that the Java client reads.
    #[error("its query can't be read")]
    QueryUnreadable,
    /// The `slaveId` of its query is no `i32`.
    #[error("its slaveId is not a number")]
    SlaveId,
}
