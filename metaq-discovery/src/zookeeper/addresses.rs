//! The list of servers for the client library.

use std::{io, net::SocketAddr, time::Duration};

use async_net::TcpStream;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

/// A lookup of the addresses of a `HOST:PORT`.
pub(super) type Lookup = fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// The limit for a TCP connection, after which a server counts as unreachable.
const PROBE_LIMIT: Duration = Duration::from_millis(500);

/// Looks up a name on a thread that does not delay the shutdown of a runtime.
pub(super) fn look_up(server: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async_net::resolve(server))
}

/// The servers at `hosts`, with each name that has several addresses replaced by them.
///
/// The client library has one timeout for a name, and tries its addresses in order: an address that drops
/// packets would hide those after it.
///
/// Names that are not resolved within `limit` are left to the client library.
pub(super) async fn servers(hosts: &[String], look_up: Lookup, limit: Duration) -> Vec<String> {
    let each = join_all(hosts.iter().map(async |host| match timeout(limit, look_up(host.clone())).await {
        Ok(Ok(addresses)) if addresses.len() > 1 => addresses.iter().map(SocketAddr::to_string).collect(),
        _ => vec![host.clone()],
    }));
    let mut servers: Vec<_> = each.await.concat();
    servers.sort_unstable();
    servers.dedup();
    servers
}

/// Returns those of `servers` that accept a TCP connection now; all of them if none does.
pub(super) async fn reachable(servers: &[String]) -> Vec<String> {
    if servers.len() < 2 {
        return servers.to_vec();
    }
    let probes = servers.iter().map(async |server| {
        let connected = timeout(PROBE_LIMIT, TcpStream::connect(server)).await;
        matches!(connected, Ok(Ok(_))).then(|| server.clone())
    });
    let reachable: Vec<_> = join_all(probes).await.into_iter().flatten().collect();
    if reachable.is_empty() { servers.to_vec() } else { reachable }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn named(server: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let (name, port) = server.rsplit_once(':').unwrap();
            let port = port.parse().unwrap();
            let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
            match name {
                "both" => Ok(vec![address("127.0.0.1"), address("::1"), address("127.0.0.1")]),
                "one" => Ok(vec![address("127.0.0.1")]),
                "none" => Ok(Vec::new()),
                "unknown" => Err(io::ErrorKind::NotFound.into()),
                _ => std::future::pending().await,
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn only_names_of_several_addresses_are_replaced() {
        let hosts = ["both:1", "one:2", "none:3", "unknown:4", "silent:5", "both:1"].map(str::to_owned);
        let expected = ["127.0.0.1:1", "[::1]:1", "none:3", "one:2", "silent:5", "unknown:4"];
        assert_eq!(servers(&hosts, named, Duration::from_secs(1)).await, expected);
    }

    #[tokio::test]
    async fn unreachable_servers_are_left_out_unless_all_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().to_string();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert_eq!(reachable(&[gone.clone(), open.clone()]).await, [open]);
        assert_eq!(reachable(&[gone.clone(), gone.clone()]).await, [gone.clone(), gone]);
    }
}
