//! Handling of the servers' replies.

use metaq_protocol::Topic;
use tokio::time::{Duration, Instant};
use zookeeper_client::Error;

use super::{
    follow::{Brokers, Follower, PendingCall},
    nodes::{Body, Content, Found, NodeId, Step, sort},
    session::{Call, Reply},
};
use crate::{
    DiscoveryError,
    backend::registry::{parse_addr, parse_partitions},
    panics::contain,
};

/// The time after which the brokers are listed again if there were none.
const RELIST_BROKERS_AFTER: Duration = Duration::from_secs(1);

impl Follower<'_> {
    /// The call for a step; `None` if the node was removed.
    pub(super) fn call(&self, id: NodeId, step: Step) -> Option<Call> {
        let path = self.nodes.path(id)?;
        Some(match (step, &self.nodes.get(id)?.body) {
            (Step::Read, Body::List(_)) => Call::Names { path, watch: true },
            (Step::Read, _) => Call::Data { path, watch: true },
            // Since 3.9.2, servers report no events of unreadable nodes, but the children of the parent can
            // be watched.
            (Step::Unreadable, Body::Master(master)) => {
                Call::Names { path: self.inner.layout.broker(master.broker), watch: true }
            }
            (Step::Missing | Step::Unreadable, _) => Call::Stat { path },
            (Step::Create, _) => Call::Create { path },
        })
    }

    pub(super) fn answered(&mut self, pending_call: PendingCall, reply: Result<Reply, Error>, watched: bool) {
        let failed = reply.as_ref().is_err_and(is_of_connection);
        self.record_reply(failed);
        match pending_call {
            PendingCall::Node(id, step) => {
                if watched {
                    self.nodes.watched(id);
                }
                if failed {
                    self.nodes.interrupted(id);
                } else {
                    self.step_done(id, step, reply);
                }
            }
            PendingCall::Brokers => self.brokers_listed(failed, reply),
            PendingCall::Recheck(id, last) => {
                self.recheck.answered();
                if !failed {
                    self.compare(id, reply);
                    if let Some(list) = last {
                        self.nodes.refresh(list);
                    }
                }
            }
            PendingCall::Barrier(id, answer) if failed => {
                self.barriers.retain(|(_, waiting)| !waiting.is_closed());
                self.barriers.push_back((id, answer));
            }
            PendingCall::Topics(answer) if failed => {
                self.topic_requests.retain(|waiting| !waiting.is_closed());
                self.topic_requests.push_back(answer);
            }
            PendingCall::Barrier(id, answer) => {
                // Its last watch was dropped meanwhile. Dropping the reply makes the caller ask again.
                if !self.nodes.list(id).is_some_and(|list| list.wanted) {
                    return;
                }
                self.compare(id, reply);
                self.waiting.entry(id).or_default().push(answer);
                self.nodes.refresh(id);
            }
            PendingCall::Topics(answer) => {
                let topics = self.topics_of(reply);
                contain(|| drop(answer.send(topics)));
            }
        }
    }

    fn topics_of(&self, reply: Result<Reply, Error>) -> Result<Vec<Topic>, DiscoveryError> {
        let names = match reply {
            Ok(Reply::Names(names)) => names,
            Ok(_) | Err(Error::NoNode) => Vec::new(),
            Err(error) => {
                return Err(self.inner.connector.failed("list", &self.inner.layout.topics(), error));
            }
        };
        let mut topics: Vec<_> = names.iter().filter_map(|name| Topic::new(name).ok()).collect();
        topics.sort_unstable();
        Ok(topics)
    }

    fn step_done(&mut self, id: NodeId, step: Step, reply: Result<Reply, Error>) {
        match self.nodes.get(id).map(|node| &node.body) {
            Some(Body::List(_)) => self.list_done(id, step, reply),
            Some(Body::Child(_)) => self.child_done(id, reply),
            Some(Body::Master(_)) => self.master_done(id, step, reply),
            None => {}
        }
    }

    /// A child that is missing or unreadable isn't watched; its list is.
    fn child_done(&mut self, id: NodeId, reply: Result<Reply, Error>) {
        if let Some(content) = content(reply, parse_partitions) {
            self.nodes.child_read(id, content);
        }
        self.nodes.settle(id);
    }

    fn master_done(&mut self, id: NodeId, step: Step, reply: Result<Reply, Error>) {
        let is_there = |names: &[String]| names.iter().any(|name| name == "master");
        let next = match (step, reply) {
            (Step::Read, Err(Error::NoNode)) => Some(Step::Missing),
            (Step::Read, reply) => {
                let is_unreadable = reply.is_err();
                if let Some(content) = content(reply, parse_addr) {
                    if matches!(content, Content::Good(_)) {
                        self.brokers = Brokers::Some;
                    }
                    self.nodes.master_read(id, content);
                }
                is_unreadable.then_some(Step::Unreadable)
            }
            // The node has appeared meanwhile.
            (Step::Missing, Ok(Reply::Stat(true))) => Some(Step::Read),
            (Step::Missing, reply) => {
                if let Some(content) = content(reply, parse_addr) {
                    self.nodes.master_read(id, content);
                }
                None
            }
            // The node has gone meanwhile.
            (Step::Unreadable, Ok(Reply::Names(names))) if !is_there(&names) => Some(Step::Missing),
            (Step::Unreadable, Err(Error::NoNode)) => Some(Step::Missing),
            (Step::Unreadable | Step::Create, _) => None,
        };
        match next {
            Some(next) => self.nodes.push_step(id, next),
            None => {
                self.nodes.settle(id);
                self.nodes.remove_unused_master(id);
            }
        }
    }

    fn list_done(&mut self, id: NodeId, step: Step, reply: Result<Reply, Error>) {
        let next = match (step, reply) {
            (Step::Read, Ok(Reply::Names(names))) => {
                self.nodes.listed(id, names);
                None
            }
            (Step::Read, Err(Error::NoNode)) => {
                if !self.nodes.list(id).is_some_and(|list| list.created) {
                    return self.create_or_wait(id);
                }
                Some(Step::Missing)
            }
            // The node was created, or has appeared meanwhile.
            (Step::Create, Ok(_) | Err(Error::NodeExists)) | (Step::Missing, Ok(Reply::Stat(true))) => {
                Some(Step::Read)
            }
            // Without the right to write, a broker must create the path; until then its appearance is
            // watched.
            (Step::Create, Err(_)) => Some(Step::Missing),
            (Step::Missing | Step::Unreadable, Ok(Reply::Stat(false))) => {
                self.nodes.not_listed(id, Found::Missing);
                None
            }
            (Step::Read | Step::Missing, Err(error)) => {
                let path = self.nodes.path(id).unwrap_or_default();
                let what = if step == Step::Read { "list" } else { "watch" };
                let error = self.inner.connector.failed(what, &path, error);
                self.nodes.not_listed(id, Found::Failed(error));
                // One watcher suffices for repeated requests.
                let is_unwatched = self.nodes.get(id).is_some_and(|node| node.watchers == 0);
                (step == Step::Read && is_unwatched).then_some(Step::Unreadable)
            }
            (Step::Unreadable, _) => {
                self.nodes.read_deleted(id);
                None
            }
            (Step::Read | Step::Missing, _) => None,
        };
        if let Some(next) = next {
            return self.nodes.push_step(id, next);
        }
        if let Some(list) = self.nodes.list_mut(id) {
            list.created = false;
        }
        self.nodes.settle(id);
    }

    /// Creates the path of a missing topic if there are brokers below the root. A mistyped root contains
    /// none, and is not changed.
    fn create_or_wait(&mut self, id: NodeId) {
        if let Brokers::NoneAt(at) = self.brokers
            && at.elapsed() >= RELIST_BROKERS_AFTER
        {
            self.brokers = Brokers::Unknown;
        }
        match self.brokers {
            Brokers::Some => self.create(id),
            Brokers::NoneAt(_) => self.nodes.push_step(id, Step::Missing),
            Brokers::Asked => self.undecided.push(id),
            Brokers::Unknown => {
                self.undecided.push(id);
                self.brokers = Brokers::Asked;
                let call = Call::Names { path: self.inner.layout.brokers_node(), watch: false };
                self.session.send(PendingCall::Brokers, 0, call);
            }
        }
    }

    fn create(&mut self, id: NodeId) {
        if let Some(list) = self.nodes.list_mut(id) {
            list.created = true;
        }
        self.nodes.push_step(id, Step::Create);
    }

    fn brokers_listed(&mut self, failed: bool, reply: Result<Reply, Error>) {
        let undecided = std::mem::take(&mut self.undecided);
        if failed {
            self.brokers = Brokers::Unknown;
            return undecided.into_iter().for_each(|id| self.nodes.interrupted(id));
        }
        let some = matches!(reply, Ok(Reply::Names(names)) if !names.is_empty());
        self.brokers = if some { Brokers::Some } else { Brokers::NoneAt(Instant::now()) };
        undecided.into_iter().for_each(|id| self.create_or_wait(id));
    }

    /// Compares a repeated read with the known content. If they differ, the node is read and watched again.
    fn compare(&mut self, id: NodeId, reply: Result<Reply, Error>) {
        let Some(node) = self.nodes.get(id) else { return };
        let is_same = match &node.body {
            Body::List(list) => match (reply, &list.found) {
                (Ok(Reply::Names(names)), Found::There) => {
                    let (brokers, unknown) = sort(names);
                    unknown == list.unknown
                        && brokers.keys().map(String::as_str).eq(list.children.keys().map(AsRef::as_ref))
                }
                (Err(Error::NoNode), Found::Missing) => true,
                (Err(error), Found::Failed(_)) => error != Error::NoNode,
                _ => false,
            },
            Body::Child(child) => {
                let list = child.list;
                let is_gone = matches!(reply, Err(Error::NoNode)) && child.content != Content::Missing;
                let is_same = content(reply, parse_partitions).as_ref() == Some(&child.content);
                if is_gone {
                    self.nodes.requeue(list);
                }
                is_same
            }
            Body::Master(master) => content(reply, parse_addr).as_ref() == Some(&master.content),
        };
        if !is_same {
            self.nodes.requeue(id);
        }
    }
}

/// The content of a node according to a reply, if the reply determines it.
fn content<T>(
    reply: Result<Reply, Error>,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Option<Content<T>> {
    Some(match reply {
        Ok(Reply::Data(data)) => match parse(&data) {
            Ok(value) => Content::Good(value),
            Err(reason) => Content::Bad(reason.into_boxed_str()),
        },
        Ok(Reply::Stat(false)) | Err(Error::NoNode) => Content::Missing,
        Ok(_) => return None,
        Err(error) => Content::Unreadable(format!("it can't be read: {error}").into_boxed_str()),
    })
}

/// Returns true if a call failed because of the connection, the session or the server's load, and must be
/// repeated.
fn is_of_connection(error: &Error) -> bool {
    matches!(
        error,
        Error::ConnectionLoss
            | Error::SessionExpired
            | Error::SessionMoved
            | Error::ClientClosed
            | Error::AuthFailed
            | Error::Timeout
            | Error::NoHosts
            | Error::Throttled
            // Errors of the connection, such as a reset or an invalid response.
            | Error::Custom(_)
            | Error::UnexpectedError(_)
            | Error::UnmarshalError { .. }
    )
}
