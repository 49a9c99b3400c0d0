//! The text that names the servers of a registry and its root.

use super::registry::Layout;
use crate::{DiscoveryError, DiscoveryErrorKind};

/// The parsed form of `HOST:PORT,HOST:PORT/ROOT`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnectString {
    /// Each `HOST:PORT`.
    pub(crate) hosts: Vec<String>,
    pub(crate) layout: Layout,
}

const DEFAULT_ROOT: &str = "/meta";

const NO_SECRETS: &str = "a name or password is not allowed before a host; use `credentials` of the configuration, or --zk-auth or \
     --etcd-auth of the command";

impl ConnectString {
    /// Parses the text that names a registry of `kind`, with an optional `scheme` in front.
    pub(crate) fn parse(kind: &str, scheme: &str, text: &str) -> Result<Self, DiscoveryError> {
        let refused = |reason: String| {
            // With an `@`, the faulty part may belong to a password.
            let reason = if text.contains('@') { NO_SECRETS.to_owned() } else { reason };
            let shown = without_secrets(text);
            let text = format!(
                "{shown:?} does not name {kind} servers: {reason}; expected HOST:PORT,HOST:PORT/ROOT"
            );
            DiscoveryError::new(DiscoveryErrorKind::Config, text)
        };
        let bare = text.strip_prefix(scheme).unwrap_or(text);
        if bare.contains("://") {
            return Err(refused("it has the scheme of something else".to_owned()));
        }
        let (hosts, root) = match bare.split_once('/') {
            Some((hosts, root)) => (hosts, root),
            None => (bare, DEFAULT_ROOT),
        };
        // A password may contain a slash; the text that follows it is then a host, not a root.
        if hosts.contains('@') || text.rsplit_once('@').is_some_and(|(_, end)| end.contains(':')) {
            return Err(refused(NO_SECRETS.to_owned()));
        }
        if hosts.contains(';') {
            return Err(refused("servers are separated by commas, as in a:1,b:2/meta".to_owned()));
        }
        if root.split(',').skip(1).any(|part| part.contains(':')) {
            return Err(refused(
                "the root stands once, after the last server, as in a:1,b:2/meta".to_owned(),
            ));
        }
        let hosts: Vec<_> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        for host in &hosts {
            if host.parse::<std::net::Ipv6Addr>().is_ok() {
                return Err(refused(format!(
                    "an IPv6 address needs brackets and a port, as in [{host}]:2181"
                )));
            }
            let (name, port) = host.rsplit_once(':').unwrap_or((host.as_str(), ""));
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(refused(format!("{host:?} has no host")));
            }
            if name.contains(':') && !(name.starts_with('[') && name.ends_with(']')) {
                return Err(refused(format!("an IPv6 address needs brackets, as in [{name}]:{port}")));
            }
            if !port.parse::<u16>().is_ok_and(|port| port > 0) {
                return Err(refused(format!("{host:?} has no port from 1 to 65535")));
            }
        }
        if root.trim_matches('/').split('/').any(|part| part.is_empty() && !root.trim_matches('/').is_empty())
            || root.contains(char::is_whitespace)
        {
            return Err(refused(format!("the root /{root} is not a path")));
        }
        Ok(Self { hosts, layout: Layout::new(root) })
    }
}

/// Removes everything before an `@`, which may be a password.
pub(crate) fn without_secrets(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, end)| format!("...@{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_root() {
        for (text, hosts, root) in [
            ("h:1", "h:1", "/meta"),
            ("zk://h1:1,h2:2", "h1:1,h2:2", "/meta"),
            ("h1:1, h2:2/a/b/", "h1:1,h2:2", "/a/b"),
            ("h:1/", "h:1", "/"),
            ("[::1]:2181/meta", "[::1]:2181", "/meta"),
        ] {
            let parsed = ConnectString::parse("ZooKeeper", "zk://", text).unwrap();
            assert_eq!(
                parsed,
                ConnectString {
                    hosts: hosts.split(',').map(str::to_owned).collect(),
                    layout: Layout::new(root)
                },
                "{text}"
            );
        }
    }

    #[test]
    fn texts_without_valid_servers_are_refused() {
        for text in [
            "",
            "zk://",
            "h",
            "h:",
            "h:0",
            "h:x",
            "h:70000",
            ":1",
            "h:1,,g:2",
            "a b:1",
            "meta://h:1",
            "h:1/a//b",
            "h:1/a b",
            "h:1;g:2",
            "h:1/meta,g:2/meta",
            "::1:2181",
            "::1",
            "fe80::1:2181/meta",
        ] {
            let error = ConnectString::parse("ZooKeeper", "zk://", text).unwrap_err();
            assert_eq!(error.kind(), DiscoveryErrorKind::Config);
            assert!(error.to_string().contains("expected HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_refused_and_not_shown() {
        for text in [
            "root:s3cret@h:1",
            "etcd://root:s3cret@h:1",
            "etcd://root:s3cret@h:1,root:s3cret@g:2/meta",
            "h:1,root:s3cret@g:2",
            "etcd://root:s3@s3cret@h:1",
            "etcd://root:s3cret/s3@h:1",
            "etcd://12:34/s3cret@h:1",
            "etcd://root:s3cret@",
            "etcd://s3cret@h",
            "etcd://root:s3cret@h:1/a b",
            "other://root:s3cret@h:1",
            "etcd:/root:s3cret@h:1",
            "root:s3cret@h:x/a//b",
            "root:s3/cret@h",
            "h:1/s3cret@a//b",
        ] {
            let error = ConnectString::parse("etcd", "etcd://", text).unwrap_err();
            assert_eq!(error.kind(), DiscoveryErrorKind::Config);
            assert!(!format!("{error} {error:?}").contains("s3"), "{text}: {error:?}");
            assert!(error.to_string().contains("`credentials`"), "{text}: {error}");
        }
        // An `@` in the root is not a secret.
        assert!(ConnectString::parse("etcd", "etcd://", "h:1/meta@home").is_ok());
    }
}
