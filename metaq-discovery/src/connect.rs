//! The text that names the servers of a registry and its root in it.

use crate::{DiscoveryError, DiscoveryErrorKind, registry::Layout};

/// `HOST:PORT,HOST:PORT/ROOT`, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnectString {
    /// Each `HOST:PORT`.
    pub(crate) hosts: Vec<String>,
    pub(crate) layout: Layout,
}

const DEFAULT_ROOT: &str = "/meta";

impl ConnectString {
    /// Reads the text that names a registry of `kind`, and may begin with `scheme`.
    pub(crate) fn parse(kind: &str, scheme: &str, text: &str) -> Result<Self, DiscoveryError> {
        let refused = |reason: String| {
            let text =
                format!("{text:?} does not name {kind} servers: {reason}; expected HOST:PORT,HOST:PORT/ROOT");
            DiscoveryError::new(DiscoveryErrorKind::Config, text)
        };
        let bare = text.strip_prefix(scheme).unwrap_or(text);
        if bare.contains("://") {
            return Err(refused("it is the address of something else".to_owned()));
        }
        let (hosts, root) = match bare.split_once('/') {
            Some((hosts, root)) => (hosts, root),
            None => (bare, DEFAULT_ROOT),
        };
        let hosts: Vec<_> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        for host in &hosts {
            let (name, port) = host.rsplit_once(':').unwrap_or((host.as_str(), ""));
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(refused(format!("{host:?} has no host")));
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
    fn refuses_what_names_no_servers() {
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
        ] {
            let error = ConnectString::parse("ZooKeeper", "zk://", text).unwrap_err();
            assert_eq!(error.kind(), DiscoveryErrorKind::Config);
            assert!(error.to_string().contains("expected HOST:PORT"), "{text}: {error}");
        }
    }
}
