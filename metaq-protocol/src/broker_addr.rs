//! Addresses of brokers.

use alloc::{borrow::ToOwned, format, string::String, sync::Arc};
use core::{fmt, str::FromStr};

use crate::slave_id;

/// Where a broker listens: `meta://host:port`, the text that a broker keeps in the registry
/// (wire rule 10).
///
/// The host is a name, an IPv4 address, or an IPv6 address, which is kept without its brackets.
/// Cloning is cheap: the text is shared.
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
    /// The address of a broker on `host` and `port`. Brackets round an IPv6 address are optional.
    ///
    /// # Errors
    /// [`InvalidBrokerAddr`] when the host is empty or can't be a host, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, InvalidBrokerAddr> {
        let refused = |reason| InvalidBrokerAddr { text: crate::excerpt(host).to_owned(), reason };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() {
            return Err(refused("the host is missing"));
        }
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if !bare.chars().all(allowed) || (bare.contains(':') && bare.matches(':').count() < 2) {
            return Err(refused("the host is neither a name nor an IP address"));
        }
        if port == 0 {
            return Err(refused("the port is 0"));
        }
        Ok(Self { host: bare.into(), port })
    }

    /// Reads `meta://host:port`, and from its query the number of a slave: what the Java client makes of
    /// a slave's node in the registry. `None` for a master.
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
    /// [`InvalidBrokerAddr`] when there is no host, no usable port, or a query that can't be read.
    pub fn parse_with_slave_id(text: &str) -> Result<(Self, Option<i32>), InvalidBrokerAddr> {
        let refused = |reason| InvalidBrokerAddr { text: crate::excerpt(text).to_owned(), reason };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(refused("it doesn't start with meta://"));
        };
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(refused("it doesn't start with meta://"));
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = place.split('/').next().unwrap_or(place);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, after)| after);
        let Some((host, port)) = authority.rsplit_once(':').filter(|(host, _)| is_whole_host(host)) else {
            return Err(refused("the port is missing"));
        };
        let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(Ok(port)) = port.map(str::parse) else {
            return Err(refused("the port is not a number from 1 to 65535"));
        };
        let slave_id = slave_id::in_query(query).ok_or_else(|| refused("its query can't be read"))?;
        let addr = Self::new(host, port).map_err(|error| refused(error.reason))?;
        Ok((addr, slave_id))
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

impl FromStr for BrokerAddr {
    type Err = InvalidBrokerAddr;

    /// Reads `meta://host:port`. As with the Java client, a user part, a path, a query and a fragment are
    /// dropped; unlike it, a text without a host or without a usable port is an error.
    fn from_str(text: &str) -> Result<Self, InvalidBrokerAddr> {
        Self::parse_with_slave_id(text).map(|(addr, _)| addr)
    }
}

/// False where the last colon stood inside an IPv6 address.
fn is_whole_host(host: &str) -> bool {
    !host.starts_with('[') || host.ends_with(']')
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
        f.write_str(&format!("{self}"))
    }
}

/// A text that isn't the address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a broker's address: {reason}; expected meta://HOST:PORT")]
pub struct InvalidBrokerAddr {
    text: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reads_what_a_registry_holds() {
        for (text, host, port) in [
            ("meta://127.0.0.1:8123", "127.0.0.1", 8123),
            ("meta://my_host:8123", "my_host", 8123),
            ("meta://h:8123/path?slaveId=4", "h", 8123),
            ("http://user@h:80#x", "h", 80),
            ("meta://[fe80::1]:8123?slaveId=2", "fe80::1", 8123),
        ] {
            let addr: BrokerAddr = text.parse().unwrap();
            assert_eq!((addr.host(), addr.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn refuses_what_nobody_could_connect_to() {
        for text in [
            "",
            "h:8123",
            "meta://",
            "meta://h",
            "meta://h:",
            "meta://h:-1",
            "meta://h:0",
            "meta://h:99999",
            "meta://:8123",
            "meta://a b:8123",
            " meta://h:8123",
            "meta://[::1]",
            "meta:h:8123",
        ] {
            let error = text.parse::<BrokerAddr>().unwrap_err().to_string();
            assert!(error.contains("expected meta://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn writes_ipv6_with_brackets() {
        assert_eq!(BrokerAddr::new("::1", 8123).unwrap().to_string(), "meta://[::1]:8123", "P-22");
    }
}
