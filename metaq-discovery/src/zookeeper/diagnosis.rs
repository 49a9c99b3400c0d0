//! The reasons why a cluster in ZooKeeper can't be used, for the texts of errors.

use std::{io, time::Duration};

use async_net::TcpStream;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, future::join_all};
use tokio::time::timeout;
use zookeeper_client::Client;

use super::addresses::Lookup;
use crate::backend::registry::Layout;

/// The limit for each step of the probe of a server.
pub(super) const PROBE_LIMIT: Duration = Duration::from_millis(500);

/// The number of roots that are looked at, and of those that are named.
const MAX_LOOKED_AT: usize = 100;
const MAX_NAMED: usize = 10;

/// Returns why each of `hosts` opens no session, in one line.
pub(super) async fn server_failures(
    hosts: impl Iterator<Item = &str>,
    look_up: Lookup,
    limit: Duration,
) -> String {
    let reasons = hosts.map(async |host| format!("{host} {}", server_failure(host, look_up, limit).await));
    join_all(reasons).await.join("; ")
}

async fn server_failure(host: &str, look_up: Lookup, limit: Duration) -> String {
    let addresses = match timeout(limit, look_up(host.to_owned())).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return format!("has a name that can't be resolved ({error})"),
        Err(_) => return format!("has a name that was not resolved within {limit:?}"),
    };
    let stream = match timeout(limit, TcpStream::connect(&addresses[..])).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return "refuses connections".to_owned();
        }
        Ok(Err(error)) => return format!("can't be connected to ({error})"),
        Err(_) => return format!("did not accept a connection within {limit:?}"),
    };
    answer_to_ruok(stream, limit).await.to_owned()
}

/// Asks a server whether it is ZooKeeper, by the command `ruok`. One that doesn't permit the command says so.
async fn answer_to_ruok(mut stream: TcpStream, limit: Duration) -> &'static str {
    let mut answer = Vec::new();
    let asked = timeout(limit, async {
        stream.write_all(b"ruok").await?;
        (&mut stream).take(64).read_to_end(&mut answer).await
    });
    let asked = asked.await;
    let is_zookeeper = answer.starts_with(b"imok") || answer.starts_with(b"ruok is not executed");
    match asked {
        _ if is_zookeeper => "is a ZooKeeper that opened no session in time",
        _ if !answer.is_empty() => "is not a ZooKeeper",
        Ok(_) => "accepts connections and closes them; it may be no ZooKeeper, or not ready",
        Err(_) => "accepts connections and is silent; it may be no ZooKeeper, or not ready",
    }
}

/// Returns which roots have brokers if the one of `layout` has none, and `None` if it has some.
pub(super) async fn explain_empty_root(client: &Client, layout: &Layout) -> Option<String> {
    let has_brokers = async |path: &str| {
        let names = client.list_children(path).await;
        names.is_ok_and(|names| !names.is_empty())
    };
    let node = layout.brokers_node();
    if has_brokers(&node).await {
        return None;
    }
    let root = match node.trim_end_matches("/brokers/ids") {
        "" => "/",
        root => root,
    };
    let mut names = client.list_children("/").await.ok()?;
    names.sort_unstable();
    let mut others = Vec::new();
    for name in names.iter().take(MAX_LOOKED_AT) {
        if others.len() < MAX_NAMED && has_brokers(&format!("/{name}/brokers/ids")).await {
            others.push(format!("/{name}"));
        }
    }
    Some(match &others[..] {
        [] => format!("no broker is registered below the root {root}; check the root, and that brokers run"),
        others => format!(
            "no broker is registered below the root {root}; there are brokers below {}",
            others.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::future::BoxFuture;
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;
    use crate::zookeeper::addresses;

    fn look_up(server: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        if server.starts_with("nowhere:") {
            return Box::pin(async { Err(io::Error::new(io::ErrorKind::NotFound, "no such name")) });
        }
        addresses::look_up(server)
    }

    #[tokio::test]
    async fn each_server_has_its_own_reason() {
        let bound = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (silent, web, zookeeper) = (bound().await, bound().await, bound().await);
        let gone = addr(&bound().await);
        let hosts = ["nowhere:1".to_owned(), gone, addr(&silent), addr(&web), addr(&zookeeper)];
        let answer = async |listener: TcpListener, text: &[u8]| {
            let mut stream = listener.accept().await.unwrap().0;
            stream.write_all(text).await.unwrap();
        };
        let answers = async {
            answer(web, b"HTTP/1.1 400 Bad Request\r\n").await;
            answer(zookeeper, b"ruok is not executed because it is not in the whitelist.").await;
        };
        let failures = server_failures(hosts.iter().map(String::as_str), look_up, Duration::from_millis(500));
        let (failures, ()) = tokio::join!(failures, answers);
        let expected = [
            "has a name that can't be resolved (no such name)",
            "refuses connections",
            "accepts connections and is silent; it may be no ZooKeeper, or not ready",
            "is not a ZooKeeper",
            "is a ZooKeeper that opened no session in time",
        ];
        let expected: Vec<_> =
            hosts.iter().zip(expected).map(|(host, why)| format!("{host} {why}")).collect();
        assert_eq!(failures, expected.join("; "));
    }
}
