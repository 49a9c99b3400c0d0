//! An ensemble of real ZooKeeper servers.

use futures_util::future::try_join_all;

use super::{PeerError, Peers, ZooKeeper, process::free_port};
use crate::port::Port;

/// Several real ZooKeeper 3.9.5 servers that elect a leader and keep one registry, which works while most of
/// them run.
#[derive(Debug)]
pub struct ZooKeeperEnsemble {
    servers: Vec<ZooKeeper>,
    /// The ports for connections between the servers.
    _ports: Vec<Port>,
}

impl ZooKeeperEnsemble {
    /// Starts this number of servers on free ports and waits until all of them answer.
    ///
    /// # Errors
    /// When one can't be started, or doesn't become ready; the error contains the end of its log.
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

    /// Returns the connect string of all servers: `127.0.0.1:PORT,127.0.0.1:PORT,…`.
    #[must_use]
    pub fn connect_string(&self) -> String {
        self.servers.iter().map(ZooKeeper::connect_string).collect::<Vec<_>>().join(",")
    }

    /// Returns the server that leads the others, or `None` while there is no leader.
    pub async fn leader(&mut self) -> Option<&mut ZooKeeper> {
        for server in &mut self.servers {
            if server.leads().await {
                return Some(server);
            }
        }
        None
    }
}
