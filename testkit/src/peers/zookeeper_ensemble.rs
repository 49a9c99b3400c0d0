//! Several real ZooKeeper servers that vote.

use futures_util::future::try_join_all;

use super::{PeerError, Peers, ZooKeeper, process::free_port};
use crate::port::Port;

/// Several real ZooKeeper 3.9.5 servers that elect a leader and keep one registry; it works as long as most of them do.
#[derive(Debug)]
pub struct ZooKeeperEnsemble {
    servers: Vec<ZooKeeper>,
    /// The ports on which they talk to each other.
    _ports: Vec<Port>,
}

impl ZooKeeperEnsemble {
    /// Starts so many servers on free ports and waits until all of them answer.
    ///
    /// # Errors
    /// When one can't be started, or doesn't become ready; the error shows the end of its log.
    pub async fn start(peers: &Peers, servers: usize) -> Result<Self, PeerError> {
        let (mut members, mut ports) = (String::new(), Vec::new());
        for id in 1..=servers {
            let (follow, elect) = (free_port()?, free_port()?);
            members += &format!("server.{id}=127.0.0.1:{}:{}\n", follow.number(), elect.number());
            ports.extend([follow, elect]);
        }
        let start = (1..=servers).map(|id| ZooKeeper::builder().member(id, members.clone()).start(peers));
        Ok(Self { servers: try_join_all(start).await?, _ports: ports })
    }

    /// The connect string of all: `127.0.0.1:PORT,127.0.0.1:PORT,…`.
    #[must_use]
    pub fn connect_string(&self) -> String {
        self.servers.iter().map(ZooKeeper::connect_string).collect::<Vec<_>>().join(",")
    }

    /// The server that leads the others now; none while they have none.
    pub async fn leader(&mut self) -> Option<&mut ZooKeeper> {
        for server in &mut self.servers {
            if server.leads().await {
                return Some(server);
            }
        }
        None
    }
}
