//! A session: its pending calls and its one-shot watches.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{task::JoinHandle, time::Instant};
use zookeeper_client::{
    Acls, Client, CreateMode, Error, EventType, OneshotWatcher, SessionState, StateWatcher,
};

use super::{connector::OpenedSession, nodes::NodeId};
use crate::panics::catch;

/// The client library restores longer sets of watches with several requests, and does not recognise their
/// responses.
const RESUMABLE_BYTES: usize = 100 * 1024;

/// A request to a server.
#[derive(Debug)]
pub(super) enum Call {
    Data {
        path: String,
        watch: bool,
    },
    Names {
        path: String,
        watch: bool,
    },
    /// Checks whether a node exists, and watches it in either case.
    Stat {
        path: String,
    },
    Create {
        path: String,
    },
}

/// A server's reply.
#[derive(Debug)]
pub(super) enum Reply {
    Data(Vec<u8>),
    Names(Vec<String>),
    Stat(bool),
    Created,
}

/// An event of a session.
#[derive(Debug)]
pub(super) enum SessionEvent<P> {
    /// A call was answered. True if the node is now watched.
    Answered(P, Result<Reply, Error>, bool),
    /// A watch has fired.
    Fired(NodeId, EventType),
    State(SessionState),
    /// A watcher reports the end of the session, which the state will report next.
    Closing,
    /// The task that served the session has ended.
    TaskEnded(String),
}

struct CallResult<P> {
    pending_call: P,
    node: NodeId,
    path_bytes: usize,
    reply: Result<Result<(Reply, Option<OneshotWatcher>), Error>, String>,
}

struct Event {
    node: NodeId,
    path_bytes: usize,
    /// `None` when the session's task has ended.
    event: Option<EventType>,
}

/// A session. `P` describes the purpose of each call.
///
/// The fields are dropped in this order: dropping a watcher while a client exists makes the library send a
/// request that servers before 3.5 don't know, and never answer.
pub(super) struct Session<P> {
    /// Each future holds a client.
    calls: FuturesUnordered<BoxFuture<'static, CallResult<P>>>,
    client: Client,
    states: StateWatcher,
    watchers: FuturesUnordered<BoxFuture<'static, Event>>,
    session_task: Option<JoinHandle<()>>,
    /// The total length of all watched paths.
    watched_bytes: usize,
    /// The time of the last response, or of the first call after all calls were answered.
    last_activity: Instant,
}

impl<P: Send + 'static> Session<P> {
    pub(super) fn new(opened: OpenedSession) -> Self {
        let OpenedSession { client, session_task } = opened;
        Self {
            calls: FuturesUnordered::new(),
            states: client.state_watcher(),
            client,
            watchers: FuturesUnordered::new(),
            session_task,
            watched_bytes: 0,
            last_activity: Instant::now(),
        }
    }

    pub(super) fn id(&self) -> zookeeper_client::SessionId {
        self.client.session_id()
    }

    pub(super) fn state(&self) -> SessionState {
        self.client.state()
    }

    /// Sends a call about `node`. The call is answered unless the session ends.
    pub(super) fn send(&mut self, pending_call: P, node: NodeId, call: Call) {
        if self.calls.is_empty() {
            self.last_activity = Instant::now();
        }
        let client = self.client.clone();
        self.calls.push(Box::pin(async move {
            let path_bytes = call.path().len();
            let reply = catch(ask(&client, &call)).await;
            CallResult { pending_call, node, path_bytes, reply }
        }));
    }

    /// The number of pending calls.
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The time since which a server with pending calls is silent.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        (!self.calls.is_empty()).then_some(self.last_activity)
    }

    /// Changes the time of the last activity, which gives the server more time.
    pub(super) fn set_last_activity(&mut self, at: Instant) {
        self.last_activity = at;
    }

    /// Returns true if the client library can restore all watches after a disconnection.
    pub(super) fn is_resumable(&self) -> bool {
        self.watched_bytes <= RESUMABLE_BYTES
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    /// If the future is dropped, no event is lost.
    pub(super) async fn next(&mut self) -> SessionEvent<P> {
        tokio::select! {
            biased;
            state = self.states.changed() => SessionEvent::State(state),
            // Polled before the watchers, which panic when the task has ended.
            end = Self::session_task(&mut self.session_task) => SessionEvent::TaskEnded(end),
            Some(event) = self.watchers.next(), if !self.watchers.is_empty() => {
                self.last_activity = Instant::now();
                self.watched_bytes -= event.path_bytes;
                match event.event {
                    Some(EventType::Session) => SessionEvent::Closing,
                    Some(kind) => SessionEvent::Fired(event.node, kind),
                    None => SessionEvent::TaskEnded("it doesn't report events any more".to_owned()),
                }
            },
            Some(answer) = self.calls.next(), if !self.calls.is_empty() => {
                self.last_activity = Instant::now();
                self.answered(answer)
            }
        }
    }

    /// Waits for the end of the session's task.
    async fn session_task(session_task: &mut Option<JoinHandle<()>>) -> String {
        let Some(handle) = session_task else { return std::future::pending().await };
        let end = handle.await;
        *session_task = None;
        match end {
            Ok(()) => "its task has ended".to_owned(),
            Err(error) => format!("its task has ended: {error}"),
        }
    }

    fn answered(&mut self, answer: CallResult<P>) -> SessionEvent<P> {
        let CallResult { pending_call, node, path_bytes, reply } = answer;
        match reply {
            Ok(Ok((reply, watcher))) => {
                let watched = watcher.is_some();
                if let Some(watcher) = watcher {
                    self.watch(node, path_bytes, watcher);
                }
                SessionEvent::Answered(pending_call, Ok(reply), watched)
            }
            Ok(Err(error)) if is_dead(&error) => SessionEvent::TaskEnded(error.to_string()),
            Ok(Err(error)) => SessionEvent::Answered(pending_call, Err(error), false),
            Err(panic) => SessionEvent::TaskEnded(format!("the client library panicked: {panic}")),
        }
    }

    fn watch(&mut self, node: NodeId, path_bytes: usize, watcher: OneshotWatcher) {
        self.watched_bytes += path_bytes;
        // The client library panics in a watcher whose session's task was stopped, which happens when a
        // runtime shuts down.
        let event = AssertUnwindSafe(watcher.changed()).catch_unwind();
        let event = event.map(|event| event.map(|event| event.event_type).ok());
        self.watchers.push(Box::pin(async move { Event { node, path_bytes, event: event.await } }));
    }

    /// Stops the session's task immediately, without notifying the servers. There the session expires with
    /// its timeout, and its watches end with the connection.
    pub(super) fn abort(self) {
        if let Some(session_task) = &self.session_task {
            session_task.abort();
        }
    }
}

impl<P> Drop for Session<P> {
    fn drop(&mut self) {
        // Replies that have arrived contain watchers, which must outlive the clients of the calls.
        while let Some(Some(answer)) = self.calls.next().now_or_never() {
            if let Ok(Ok((_, Some(watcher)))) = answer.reply {
                let (node, path_bytes) = (answer.node, answer.path_bytes);
                let event = async move {
                    let _kept = watcher;
                    Event { node, path_bytes, event: None }
                };
                self.watchers.push(Box::pin(event));
            }
        }
    }
}

impl Call {
    fn path(&self) -> &str {
        match self {
            Self::Data { path, .. }
            | Self::Names { path, .. }
            | Self::Stat { path }
            | Self::Create { path } => path,
        }
    }
}

async fn ask(client: &Client, call: &Call) -> Result<(Reply, Option<OneshotWatcher>), Error> {
    Ok(match call {
        Call::Data { path, watch: true } => {
            let (data, _, watcher) = client.get_and_watch_data(path).await?;
            (Reply::Data(data), Some(watcher))
        }
        Call::Data { path, watch: false } => (Reply::Data(client.get_data(path).await?.0), None),
        Call::Names { path, watch: true } => {
            let (names, watcher) = client.list_and_watch_children(path).await?;
            (Reply::Names(names), Some(watcher))
        }
        Call::Names { path, watch: false } => (Reply::Names(client.list_children(path).await?), None),
        Call::Stat { path } => {
            let (stat, watcher) = client.check_and_watch_stat(path).await?;
            (Reply::Stat(stat.is_some()), Some(watcher))
        }
        Call::Create { path } => {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.mkdir(path, &options).await?;
            (Reply::Created, None)
        }
    })
}

/// Returns true if a call failed because the task of the client's session has stopped: with its runtime, or
/// by a panic.
fn is_dead(error: &Error) -> bool {
    matches!(error, Error::UnexpectedError(text) if text.starts_with("expect error state, got")
        || text.ends_with("expect response, but got none"))
}
