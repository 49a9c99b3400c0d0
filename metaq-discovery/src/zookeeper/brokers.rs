//! The list of all brokers that are registered.

use futures_util::future::try_join_all;
use metaq_protocol::BrokerId;
use zookeeper_client::{Client, Error};

use crate::{
    BadEntry, RegisteredBroker, RegisteredBrokers,
    backend::registry::{Layout, parse_addr, parse_role},
};

/// The number of brokers whose nodes are read at a time.
const AT_A_TIME: usize = 64;

/// A node that could not be read: its path, and the reason.
pub(super) type ReadError = (String, Error);

/// Reads the addresses of all brokers. Watches nothing, and creates nothing.
pub(super) async fn list(client: &Client, layout: &Layout) -> Result<RegisteredBrokers, ReadError> {
    let names = children(client, &layout.brokers_node()).await?;
    // Only the canonical spelling of an id counts.
    let id = |name: &String| name.parse().ok().filter(|id: &i32| *id >= 0 && id.to_string() == *name);
    let ids: Vec<_> = names.iter().filter_map(id).map(BrokerId).collect();
    let (mut brokers, mut bad_entries) = (Vec::new(), Vec::new());
    for ids in ids.chunks(AT_A_TIME) {
        for read in try_join_all(ids.iter().map(|id| of_broker(client, layout, *id))).await? {
            for broker in read {
                match broker {
                    Ok(broker) => brokers.push(broker),
                    Err(bad) => bad_entries.push(bad),
                }
            }
        }
    }
    Ok(RegisteredBrokers::new(brokers, bad_entries))
}

/// Reads the master of an id, and its slaves.
async fn of_broker(
    client: &Client,
    layout: &Layout,
    id: BrokerId,
) -> Result<Vec<Result<RegisteredBroker, BadEntry>>, ReadError> {
    let parent = layout.broker(id);
    let mut read = Vec::new();
    for name in children(client, &parent).await? {
        let Some(role) = parse_role(&name) else { continue };
        let path = format!("{parent}/{name}");
        match client.get_data(&path).await {
            Ok((data, _)) => read.push(match parse_addr(&data) {
                Ok(addr) => Ok(RegisteredBroker::new(id, role, addr)),
                Err(reason) => Err(BadEntry::new(path, reason)),
            }),
            // It has gone meanwhile.
            Err(Error::NoNode) => {}
            Err(error) => return Err((path, error)),
        }
    }
    Ok(read)
}

/// Returns the names of a node's children; none for a node that isn't there.
async fn children(client: &Client, path: &str) -> Result<Vec<String>, ReadError> {
    match client.list_children(path).await {
        Ok(names) => Ok(names),
        Err(Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err((path.to_owned(), error)),
    }
}
