//! The error of an invalid address.

use alloc::{borrow::ToOwned, format, string::String};
use core::fmt;

use crate::excerpt;

/// The error of a text that isn't the address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidBrokerAddr {
    text: String,
    kind: InvalidBrokerAddrKind,
}

impl fmt::Display for InvalidBrokerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, kind } = self;
        write!(f, "{text:?} is not a broker's address: {kind}; expected meta://HOST:PORT")
    }
}

impl core::error::Error for InvalidBrokerAddr {}

impl InvalidBrokerAddr {
    #[cold]
    pub(super) fn new(text: &str, kind: InvalidBrokerAddrKind) -> Self {
        let text = match text.rsplit_once('@') {
            Some((_, end)) => format!("...@{}", excerpt(end)),
            None => excerpt(text).to_owned(),
        };
        Self { text, kind }
    }

    /// The beginning of the text, or of the host given to [`BrokerAddr::new`](super::BrokerAddr::new), at
    /// most 80 characters. What stands before an `@` is replaced by dots, as it may be a password.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidBrokerAddrKind {
    /// The text doesn't start with `meta://`.
    Scheme,
    /// The text contains a space, a line end or another control character, inside or at an end.
    WhiteSpace,
    /// The host is missing, as in `meta://:8123`.
    HostMissing,
    /// The host contains characters that are not allowed in a name or an IP address.
    Host,
    /// An IPv6 address has no brackets, so that its last group would be taken for the port.
    Ipv6WithoutBrackets,
    /// A bracket is opened and not closed.
    BracketOpen,
    /// The text in brackets is not an IPv6 address.
    BracketsWithoutIpv6,
    /// The closing bracket is not followed by a colon and the port.
    AfterBracket,
    /// There is no port, as in `meta://h` and `meta://h:`.
    PortMissing,
    /// The port is not decimal digits.
    PortNotANumber,
    /// The port is 0, to which no client can connect.
    PortZero,
    /// The port is negative or above 65535.
    PortOutOfRange,
    /// The text has a user part, as in `meta://user@h:8123`.
    User,
    /// The text has a path, even if it is a slash alone.
    Path,
    /// The text has a query, as in `meta://h:8123?slaveId=0`.
    Query,
    /// The text has a fragment, as in `meta://h:8123#x`.
    Fragment,
    /// The Java client can't parse the query.
    QueryUnreadable,
    /// The `slaveId` of the query is not an `i32`.
    SlaveId,
}

impl fmt::Display for InvalidBrokerAddrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "it doesn't start with meta://",
            Self::WhiteSpace => "it contains white space or a control character",
            Self::HostMissing => "the host is missing",
            Self::Host => "the host is neither a name nor an IP address",
            Self::Ipv6WithoutBrackets => "its IPv6 address is not in brackets",
            Self::BracketOpen => "the bracket before its IPv6 address is not closed",
            Self::BracketsWithoutIpv6 => "the text in brackets is not an IPv6 address",
            Self::AfterBracket => "the closing bracket is not followed by a colon and the port",
            Self::PortMissing => "the port is missing",
            Self::PortNotANumber => "the port is not a number",
            Self::PortZero => "the port is 0",
            Self::PortOutOfRange => "the port is not between 1 and 65535",
            Self::User => "it has a user part",
            Self::Path => "it has a path behind the port",
            Self::Query => "it has a query behind the port",
            Self::Fragment => "it has a fragment behind the port",
            Self::QueryUnreadable => "its query can't be read",
            Self::SlaveId => "its slaveId is not a number",
        })
    }
}

impl core::error::Error for InvalidBrokerAddrKind {}
