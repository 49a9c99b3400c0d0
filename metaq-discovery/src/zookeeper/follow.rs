//! Following one topic by one-shot watches.
//!
//! Persistent watches are not used: after a reconnect the client library delivers nothing through them any more.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _, future::BoxFuture, future::try_join_all, stream::FuturesUnordered,
};
use metaq_protocol::{BrokerId, Topic};
use tokio::time::sleep_until;
use zookeeper_client::{Client, EventType, OneshotWatcher};

use super::{Inner, read::Reader};
use crate::{
    DiscoveryError, TopicView, ViewPublisher,
    deadline::after,
    registry::{Child, TopicNodes},
    reports::tell,
    supervise::log,
};

/// Pauses after failures to read grow from the first to the last, in milliseconds.
const PAUSES_MS: [u64; 4] = [50, 200, 500, 1000];

/// A node, or the list of a topic's children, that may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Children,
    Child(String),
    Master(BrokerId),
}

/// Reads one topic and keeps its view up to date.
pub(super) struct Follower {
    reader: Reader,
    nodes: TopicNodes,
    /// One for each node that is watched; it ends with the node and the kind of the event.
    watchers: FuturesUnordered<BoxFuture<'static, (Node, EventType)>>,
    /// The nodes that have a watcher.
    watched: BTreeSet<Node>,
    number: u64,
}

impl Follower {
    pub(super) fn new(inner: Arc<Inner>, topic: Topic) -> Self {
        let number = inner.followers.fetch_add(1, Ordering::Relaxed);
        Self {
            reader: Reader { inner, topic },
            nodes: TopicNodes::default(),
            watchers: FuturesUnordered::new(),
            watched: BTreeSet::new(),
            number,
        }
    }

    /// Creates the topic's path where that is possible, and reads everything.
    pub(super) async fn first_view(&mut self) -> Result<TopicView, DiscoveryError> {
        let client = self.reader.inner.sessions.client().await?;
        self.reader.create(&client).await?;
        self.read_all(&client).await
    }

    pub(super) async fn follow(&mut self, publisher: &ViewPublisher) {
        let mut failures = 0;
        loop {
            let mut replaced = self.reader.inner.sessions.replaced();
            let outcome = tokio::select! {
                outcome = self.follow_session(publisher, &mut failures) => outcome,
                // Never an error: the sender is there as long as the sessions.
                _ = replaced.changed() => Ok(()),
            };
            let Err(error) = outcome else {
                self.forget();
                continue;
            };
            if failures == 0 {
                let topic = &self.reader.topic;
                log(|| tracing::warn!(%topic, %error, "topic can't be read; its last view holds"));
            }
            let pause = Duration::from_millis(PAUSES_MS[failures.min(PAUSES_MS.len() - 1)]);
            self.reader.inner.sessions.recovered(pause).await;
            failures += 1;
        }
    }

    /// Follows the topic until it is to be read as a whole again, which is also at once if it hasn't been.
    async fn follow_session(
        &mut self,
        publisher: &ViewPublisher,
        failures: &mut usize,
    ) -> Result<(), DiscoveryError> {
        let client = self.reader.inner.sessions.client().await?;
        if self.watchers.is_empty() || *failures > 0 {
            let view = self.read_all(&client).await?;
            self.reader.inner.events.publish(publisher, view);
        }
        if std::mem::take(failures) > 0 {
            log(|| tracing::info!(topic = %self.reader.topic, "topic is read again"));
        }
        let reread = after(self.reader.inner.config.reread_interval);
        loop {
            let mut changed = BTreeSet::new();
            let due = self.reader.inner.reports.lock().due().unwrap_or(reread);
            tokio::select! {
                event = self.watchers.next() => match event {
                    Some((_, EventType::Session)) | None => return Ok(()),
                    Some((node, _)) => changed.insert(node),
                },
                () = sleep_until(reread) => return Ok(()),
                () = sleep_until(due) => {
                    let inner = &self.reader.inner;
                    let lasting = inner.reports.lock().lasting();
                    lasting.iter().for_each(|entry| tell(entry, &inner.events));
                    continue;
                }
            };
            // A burst of changes makes one view.
            while let Some(Some((node, event))) = self.watchers.next().now_or_never() {
                if event == EventType::Session {
                    return Ok(());
                }
                changed.insert(node);
            }
            changed.iter().for_each(|node| {
                self.watched.remove(node);
            });
            if let Err(error) = self.read_changed(&client, changed).await {
                self.forget();
                return Err(error);
            }
            let view = self.view();
            self.reader.inner.events.publish(publisher, view);
        }
    }

    /// Everything is to be read again. The last view holds until that is done.
    fn forget(&mut self) {
        self.watchers.clear();
        self.watched.clear();
    }

    async fn read_all(&mut self, client: &Client) -> Result<TopicView, DiscoveryError> {
        self.forget();
        self.nodes = TopicNodes::default();
        if let Err(error) = self.read_changed(client, BTreeSet::from([Node::Children])).await {
            self.forget();
            return Err(error);
        }
        Ok(self.view())
    }

    fn view(&mut self) -> TopicView {
        let inner = &self.reader.inner;
        let (view, bad) = self.nodes.view(&self.reader.topic, &inner.layout);
        let new = inner.reports.lock().report(self.number, bad);
        new.iter().for_each(|entry| tell(entry, &inner.events));
        view
    }

    /// Reads the nodes in `changed`, and what becomes of interest with them, and watches them again.
    async fn read_changed(
        &mut self,
        client: &Client,
        mut changed: BTreeSet<Node>,
    ) -> Result<(), DiscoveryError> {
        if changed.remove(&Node::Children) {
            let (names, watcher) = self.reader.children(client).await?;
            self.watch(Node::Children, watcher);
            self.nodes.children.retain(|name, _| names.contains(name));
            for name in names {
                // One that was deleted and created again loses its watcher by that, and is read when that is heard.
                let node = Node::Child(name.clone());
                if !self.watched.contains(&node) && Child::parse(&name) != Child::Slave {
                    changed.insert(node);
                }
                self.nodes.children.entry(name).or_default();
            }
        }
        let (reader, known) = (&self.reader, &self.nodes.children);
        let children = changed.iter().filter_map(|node| match node {
            Node::Child(name) if known.contains_key(name) => Some(name),
            _ => None,
        });
        let read = try_join_all(children.map(async |name| {
            let read = reader.node(client, &reader.inner.layout.child(&reader.topic, name)).await?;
            Ok((name.clone(), read))
        }));
        for (name, (data, watcher)) in read.await? {
            self.watch(Node::Child(name.clone()), watcher);
            self.nodes.children.insert(name, data);
        }
        let masters: BTreeSet<_> = self.nodes.children.keys().filter_map(|name| master(name)).collect();
        // What is known of a broker that has gone stays as long as it is watched: it may come back with the same address.
        self.nodes.masters.retain(|id, _| masters.contains(id) || self.watched.contains(&Node::Master(*id)));
        let (reader, watched) = (&self.reader, &self.watched);
        let unread = masters.iter().filter(|id| !watched.contains(&Node::Master(**id)));
        let read = try_join_all(unread.map(async |id| {
            let read = reader.node(client, &reader.inner.layout.master(*id)).await?;
            Ok((*id, read))
        }));
        for (id, (data, watcher)) in read.await? {
            self.watch(Node::Master(id), watcher);
            self.nodes.masters.insert(id, data);
        }
        Ok(())
    }

    fn watch(&mut self, node: Node, watcher: OneshotWatcher) {
        self.watched.insert(node.clone());
        // The client library panics in a watcher whose session's task was stopped, as a runtime does that shuts down.
        let event = AssertUnwindSafe(watcher.changed()).catch_unwind();
        let event = event.map(|event| event.map_or(EventType::Session, |event| event.event_type));
        self.watchers.push(async move { (node, event.await) }.boxed());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.reader.inner.reports.lock().forget(&self.number);
    }
}

fn master(child: &str) -> Option<BrokerId> {
    match Child::parse(child) {
        Child::Master(id) => Some(id),
        Child::Slave | Child::Unknown => None,
    }
}
