//! Addresses of brokers.

use alloc::sync::Arc;
use core::{fmt, net::Ipv6Addr, str::FromStr};

mod error;
mod parts;
mod slave_id;

pub use error::{InvalidBrokerAddr, InvalidBrokerAddrKind};

use error::InvalidBrokerAddrKind as Kind;
use parts::Parts;

/// The address on which a broker listens: `meta://host:port`, the text that a broker writes to the registry.
///
/// The host is a name, an IPv4 address, or an IPv6 address, which is stored without brackets. Cloning is
/// cheap: the text is shared.
///
/// ```
/// use metaq_protocol::BrokerAddr;
///
/// let addr: BrokerAddr = "meta://[::1]:8123".parse()?;
/// assert_eq!((addr.host(), addr.port()), ("::1", 8123));
/// assert_eq!(addr.to_string(), "meta://[::1]:8123");
/// # Ok::<(), metaq_protocol::InvalidBrokerAddr>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerAddr {
    host: Arc<str>,
    port: u16,
}

impl BrokerAddr {
    /// Creates the address of a broker on `host` and `port`. Brackets around an IPv6 address are optional.
    ///
    /// # Errors
    /// [`InvalidBrokerAddr`] when the host is empty or invalid, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, InvalidBrokerAddr> {
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_needed = bracketed
            .is_none_or(|host| host.is_empty() || is_ipv6(host.split('%').next().unwrap_or_default()));
        if !is_needed {
            return Err(InvalidBrokerAddr::new(host, Kind::BracketsWithoutIpv6));
        }
        Self::from_host(bracketed.unwrap_or(host), port).map_err(|kind| InvalidBrokerAddr::new(host, kind))
    }

    fn from_host(host: &str, port: u16) -> Result<Self, Kind> {
        if host.is_empty() {
            return Err(Kind::HostMissing);
        }
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        let valid = match host.split_once('%') {
            Some((addr, zone)) => is_ipv6(addr) && !zone.is_empty() && zone.chars().all(in_name),
            None => is_ipv6(host) || host.chars().all(in_name),
        };
        match port {
            _ if !valid => Err(Kind::Host),
            0 => Err(Kind::PortZero),
            port => Ok(Self { host: host.into(), port }),
        }
    }

    /// Parses an address from a registry as leniently as the Java client: any scheme is accepted, and a user
    /// part, a path and a fragment are ignored. The second value is the number of a slave from the query,
    /// `None` for a master: Java appends it to the address of a slave's node.
    ///
    /// For an address from a configuration, prefer [`FromStr`], which refuses the parts that it doesn't use.
    ///
    /// ```
    /// use metaq_protocol::BrokerAddr;
    ///
    /// let (addr, slave) = BrokerAddr::parse_with_slave_id("meta://10.1.2.3:8123?slaveId=1")?;
    /// assert_eq!((addr.to_string().as_str(), slave), ("meta://10.1.2.3:8123", Some(1)));
    /// # Ok::<(), metaq_protocol::InvalidBrokerAddr>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidBrokerAddr`] when there is no host, no usable port, or a query that can't be parsed.
    pub fn parse_with_slave_id(text: &str) -> Result<(Self, Option<i32>), InvalidBrokerAddr> {
        let read = || {
            let parts = Parts::split(text)?;
            let slave_id = slave_id::in_query(parts.query.unwrap_or_default())?;
            Ok((Self::from_host(parts.host, parts.port)?, slave_id))
        };
        read().map_err(|kind| InvalidBrokerAddr::new(text, kind))
    }

    /// The host: a name or an IP address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

impl FromStr for BrokerAddr {
    type Err = InvalidBrokerAddr;

    /// Parses `meta://host:port` and nothing else: [`parse_with_slave_id`](Self::parse_with_slave_id) accepts
    /// a query and more.
    ///
    /// ```
    /// use metaq_protocol::{BrokerAddr, InvalidBrokerAddrKind};
    ///
    /// let error = "meta://h".parse::<BrokerAddr>().unwrap_err();
    /// assert_eq!((error.text(), error.kind()), ("meta://h", InvalidBrokerAddrKind::PortMissing));
    /// ```
    fn from_str(text: &str) -> Result<Self, InvalidBrokerAddr> {
        let read = || {
            let parts = Parts::split(text)?;
            parts.check_no_more()?;
            Self::from_host(parts.host, parts.port)
        };
        read().map_err(|kind| InvalidBrokerAddr::new(text, kind))
    }
}

impl fmt::Display for BrokerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "meta://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "meta://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for BrokerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn registry_addresses_are_parsed_as_by_java() {
        for (text, host, port) in [
            ("meta://127.0.0.1:8123", "127.0.0.1", 8123),
            ("meta://my_host:8123", "my_host", 8123),
            ("meta://h:8123/path?slaveId=4", "h", 8123),
            ("http://user@h:80#x", "h", 80),
            ("meta://[fe80::1]:8123?slaveId=2", "fe80::1", 8123),
        ] {
            let (addr, _) = BrokerAddr::parse_with_slave_id(text).unwrap();
            assert_eq!((addr.host(), addr.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn written_addresses_parse_to_the_same() {
        for text in [
            "meta://127.0.0.1:8123",
            "meta://my_host.example-1:1",
            "meta://[::1]:65535",
            "meta://[fe80::1%eth0]:8123",
            "meta://主机:8123",
        ] {
            assert_eq!(text.parse::<BrokerAddr>().unwrap().to_string(), text);
        }
        assert_eq!("META://h:008123".parse::<BrokerAddr>().unwrap().to_string(), "meta://h:8123");
    }

    #[test]
    fn errors_name_the_fault() {
        for (text, kind) in [
            ("", Kind::Scheme),
            ("h:8123", Kind::Scheme),
            ("meta:h:8123", Kind::Scheme),
            ("meta:/h:8123", Kind::Scheme),
            ("://h:8123", Kind::Scheme),
            (" meta://h:8123", Kind::WhiteSpace),
            ("meta://h:8123 ", Kind::WhiteSpace),
            ("meta://a b:8123", Kind::WhiteSpace),
            ("meta://h:8123\n", Kind::WhiteSpace),
            ("meta://", Kind::HostMissing),
            ("meta://:8123", Kind::HostMissing),
            ("meta://[]:8123", Kind::HostMissing),
            ("meta:///h:8123", Kind::HostMissing),
            ("meta://h*:8123", Kind::Host),
            ("meta://a%b:8123", Kind::Host),
            ("meta://h:1:2", Kind::Host),
            ("meta://[h]:8123", Kind::BracketsWithoutIpv6),
            ("meta://[1::2::3]:8123", Kind::BracketsWithoutIpv6),
            ("meta://[::1]8123", Kind::AfterBracket),
            ("meta://[::1:8123", Kind::BracketOpen),
            ("meta://::1:8123", Kind::Ipv6WithoutBrackets),
            ("meta://fe80::1", Kind::Ipv6WithoutBrackets),
            ("meta://h", Kind::PortMissing),
            ("meta://h:", Kind::PortMissing),
            ("meta://[::1]", Kind::PortMissing),
            ("meta://[::1]:", Kind::PortMissing),
            ("meta://h:x", Kind::PortNotANumber),
            ("meta://h:+1", Kind::PortNotANumber),
            ("meta://h:0", Kind::PortZero),
            ("meta://h:-1", Kind::PortOutOfRange),
            ("meta://h:65536", Kind::PortOutOfRange),
            ("meta://h:99999999999999999999", Kind::PortOutOfRange),
        ] {
            for error in
                [text.parse::<BrokerAddr>(), BrokerAddr::parse_with_slave_id(text).map(|(addr, _)| addr)]
            {
                let error = error.unwrap_err();
                assert_eq!((error.text(), error.kind()), (text, kind));
                assert!(error.to_string().contains(&kind.to_string()), "{error}");
                assert!(error.to_string().contains("expected meta://HOST:PORT"), "{error}");
            }
        }
    }

    #[test]
    fn from_str_refuses_further_parts() {
        for (text, kind) in [
            ("http://h:80", Kind::Scheme),
            ("meta://user@h:8123", Kind::User),
            ("meta://h:8123/", Kind::Path),
            ("meta://h:8123/path?slaveId=0", Kind::Path),
            ("meta://h:8123?slaveId=0", Kind::Query),
            ("meta://[::1]:8123#x", Kind::Fragment),
        ] {
            let error = text.parse::<BrokerAddr>().unwrap_err();
            let shown = text.replace("meta://user@", "...@");
            assert_eq!((error.text(), error.kind()), (&*shown, kind));
            assert!(BrokerAddr::parse_with_slave_id(text).is_ok(), "{text}");
        }
        for (text, kind) in [
            ("meta://h:8123?slaveId=x", Kind::SlaveId),
            ("meta://h:8123?slaveId=2147483648", Kind::SlaveId),
            ("meta://h:8123?a=b=c", Kind::QueryUnreadable),
            ("meta://h:8123?slave%1=1", Kind::QueryUnreadable),
        ] {
            let error = BrokerAddr::parse_with_slave_id(text).unwrap_err();
            assert_eq!((error.text(), error.kind()), (text, kind));
        }
    }

    #[test]
    fn new_checks_the_host() {
        assert_eq!(BrokerAddr::new("::1", 8123).unwrap().to_string(), "meta://[::1]:8123");
        assert_eq!(BrokerAddr::new("[::1]", 8123).unwrap().host(), "::1");
        for (host, port, kind) in [
            ("", 1, Kind::HostMissing),
            ("[]", 1, Kind::HostMissing),
            ("[h]", 1, Kind::BracketsWithoutIpv6),
            ("a:b:c", 1, Kind::Host),
            ("a b", 1, Kind::Host),
            ("h", 0, Kind::PortZero),
        ] {
            let error = BrokerAddr::new(host, port).unwrap_err();
            assert_eq!((error.text(), error.kind()), (host, kind));
        }
    }
}
