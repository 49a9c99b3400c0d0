//! Follows all topics with one session.
//!
//! Persistent watches are not used: after a reconnect the client library delivers no more events through
//! them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use metaq_protocol::Topic;
use tokio::time::{Instant, sleep_until};
use zookeeper_client::{EventType, SessionState};

use super::{
    connector::OpenedSession,
    nodes::{NodeId, Nodes, Step},
    recheck::Recheck,
    session::{Call, Session, SessionEvent},
    shared::{Inner, Reply},
};
use crate::{
    DiscoveryEvent, TopicWatch,
    backend::{deadline::after, notices::Notice},
    panics::log,
};

/// The number of concurrent reads. More would queue on a slow connection, and delay urgent ones.
const WINDOW: usize = 128;

/// The time for which the task runs before it yields to others.
const TIME_SLICE: Duration = Duration::from_millis(1);

/// The time without connection after which a client is replaced as soon as possible. The client would
/// reconnect by itself, but doubles its pauses without a limit: after an outage of ten seconds it may take
/// another ten.
const REPLACE_AFTER: Duration = Duration::from_secs(2);

/// The additional time for a server that seems silent: this process may have been suspended.
const GRACE: Duration = Duration::from_millis(500);

/// The backoff after failed calls, in milliseconds.
const BACKOFF_MS: [u64; 4] = [50, 200, 500, 1000];

/// The reason for which a call was made, and the data to handle its reply.
#[derive(Debug)]
pub(super) enum PendingCall {
    Node(NodeId, Step),
    /// A topic is missing: the reply shows whether there are any brokers.
    Brokers,
    /// Reads a watched node once more. The second value is the topic whose nodes end with this one.
    Recheck(NodeId, Option<NodeId>),
    /// A call watches a topic that is already followed. The reply comes after the reports of all earlier
    /// changes.
    Barrier(NodeId, Reply<TopicWatch>),
    Topics(Reply<Vec<Topic>>),
}

/// The reason to leave a session.
#[derive(Debug)]
pub(super) enum LeaveReason {
    Unneeded,
    /// The session has expired, or is unusable.
    Lost,
    /// Another session was opened because this one stayed disconnected.
    Replaced(OpenedSession),
    /// The session holds more obsolete watches than needed ones.
    Outgrown,
}

/// The presence of brokers, which decides whether missing topics are created.
#[derive(Debug, Default)]
pub(super) enum Brokers {
    #[default]
    Unknown,
    Asked,
    /// There are brokers.
    Some,
    NoneAt(Instant),
}

/// Follows all topics with one session.
pub(super) struct Follower<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) session: Session<PendingCall>,
    pub(super) nodes: Nodes,
    /// The topics that were not added to the table yet.
    pub(super) topics: VecDeque<Topic>,
    /// The calls that wait for the first view of a topic.
    pub(super) waiting: HashMap<NodeId, Vec<Reply<TopicWatch>>>,
    pub(super) barriers: VecDeque<(NodeId, Reply<TopicWatch>)>,
    /// The calls that wait for the list of topics.
    pub(super) topic_requests: VecDeque<Reply<Vec<Topic>>>,
    pub(super) brokers: Brokers,
    /// The missing topics, until it is known whether they are created.
    pub(super) undecided: Vec<NodeId>,
    pub(super) recheck: Recheck,
    is_connected: bool,
    give_up_at: Option<Instant>,
    /// Opens another session in the background.
    opening: Option<BoxFuture<'a, Option<OpenedSession>>>,
    /// No calls are sent until then, because calls failed although the session is connected.
    hold_until: Option<Instant>,
    failures: usize,
    was_answered: bool,
    has_grace: bool,
}

impl<'a> Follower<'a> {
    pub(super) fn new(inner: &'a Arc<Inner>, opened: OpenedSession) -> Self {
        Self {
            inner,
            session: Session::new(opened),
            nodes: Nodes::new(inner.layout.clone()),
            topics: inner.shared.lock().topics(),
            waiting: HashMap::new(),
            barriers: VecDeque::new(),
            topic_requests: VecDeque::new(),
            brokers: Brokers::default(),
            undecided: Vec::new(),
            recheck: Recheck::new(inner.config.reread_interval),
            is_connected: true,
            give_up_at: None,
            opening: None,
            hold_until: None,
            failures: 0,
            was_answered: false,
            has_grace: true,
        }
    }

    /// Returns true if a call was answered in this session.
    pub(super) fn was_answered(&self) -> bool {
        self.was_answered
    }

    /// Ends the session.
    pub(super) fn abort(self) {
        // A resumable session is closed in an orderly way, with another connection if necessary.
        if !self.session.is_resumable() {
            self.session.abort();
        }
    }

    /// Follows the topics until the session must be left.
    pub(super) async fn run(&mut self) -> LeaveReason {
        // The state may have changed before the first read.
        let mut end = match self.session.state() {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => None,
            state => self.enter(state),
        };
        loop {
            let slice = std::time::Instant::now();
            while end.is_none() && slice.elapsed() < TIME_SLICE {
                let Some(event) = self.session.next().now_or_never() else { break };
                end = self.handle(event);
            }
            if let Some(end) = end {
                return end;
            }
            if !self.inner.is_needed() {
                return LeaveReason::Unneeded;
            }
            if self.nodes.should_rebuild() {
                return LeaveReason::Outgrown;
            }
            self.take_requests();
            self.send();
            while self.publish_next() && slice.elapsed() < 2 * TIME_SLICE {}
            self.report_overdue();
            if let Some(lost) = self.check_silence() {
                return lost;
            }
            if slice.elapsed() >= TIME_SLICE || self.nodes.has_ready() || !self.topics.is_empty() {
                tokio::task::yield_now().await;
                continue;
            }
            let until = self.next_deadline();
            let opening = async {
                match &mut self.opening {
                    Some(opening) => opening.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.session.next() => end = self.handle(event),
                () = self.inner.wake.notified() => {}
                opened = opening => {
                    if let Some(opened) = opened {
                        return LeaveReason::Replaced(opened);
                    }
                    self.opening = Some(self.inner.try_open().boxed());
                }
                () = sleep_until(until) => {
                    if self.give_up_at.is_some_and(|at| at <= Instant::now()) {
                        self.give_up_at = None;
                        self.opening = Some(self.inner.try_open().boxed());
                    }
                }
            }
        }
    }

    /// Handles an event. Returns the reason to leave the session, if there is one.
    fn handle(&mut self, event: SessionEvent<PendingCall>) -> Option<LeaveReason> {
        match event {
            SessionEvent::Fired(node, event) => self.nodes.fired(node, event == EventType::NodeDeleted),
            SessionEvent::Answered(pending_call, reply, watched) => {
                self.answered(pending_call, reply, watched)
            }
            SessionEvent::State(state) => return self.enter(state),
            SessionEvent::Closing => {}
            SessionEvent::TaskEnded(why) => {
                let session = self.session.id();
                log(|| tracing::warn!(%session, why, "session with ZooKeeper has died; another is opened"));
                self.inner.send_event(DiscoveryEvent::Lost);
                return Some(LeaveReason::Lost);
            }
        }
        None
    }

    fn enter(&mut self, state: SessionState) -> Option<LeaveReason> {
        match state {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                self.is_connected = true;
                // Resets a refusal of another session, too.
                self.inner.shared.lock().open();
                (self.give_up_at, self.opening, self.hold_until) = (None, None, None);
                self.session.set_last_activity(Instant::now());
                self.inner.send_event(DiscoveryEvent::Connected);
                return None;
            }
            SessionState::Disconnected => {
                self.is_connected = false;
                self.give_up_at = Some(Instant::now() + REPLACE_AFTER);
                self.inner.send_event(DiscoveryEvent::Lost);
                return (!self.session.is_resumable()).then_some(LeaveReason::Lost);
            }
            SessionState::Expired => self.inner.send_event(DiscoveryEvent::Expired),
            _ => self.inner.send_event(DiscoveryEvent::Lost),
        }
        Some(LeaveReason::Lost)
    }

    /// Sends reads, up to the window.
    fn send(&mut self) {
        if !self.is_connected || self.hold_until.is_some_and(|hold| hold > Instant::now()) {
            return;
        }
        self.hold_until = None;
        self.send_steps();
        if !self.nodes.has_steps() {
            self.send_rechecks();
            // Nodes without a watch must be read again.
            self.send_steps();
        }
    }

    fn send_steps(&mut self) {
        while self.session.calls() < WINDOW {
            if let Some((node, step)) = self.nodes.next_change() {
                self.send_step(node, step);
            } else if let Some(reply) = self.topic_requests.pop_front() {
                let call = Call::Names { path: self.inner.layout.topics(), watch: false };
                self.session.send(PendingCall::Topics(reply), 0, call);
            } else if let Some((node, reply)) = self.barriers.pop_front() {
                match self.nodes.path(node) {
                    Some(path) => {
                        let call = Call::Names { path, watch: false };
                        self.session.send(PendingCall::Barrier(node, reply), node, call);
                    }
                    // The node has gone meanwhile; the caller asks again.
                    None => drop(reply),
                }
            } else if let Some((node, step)) = self.nodes.next_unread() {
                self.send_step(node, step);
            } else {
                break;
            }
        }
    }

    fn send_step(&mut self, node: NodeId, step: Step) {
        if let Some(call) = self.call(node, step) {
            self.session.send(PendingCall::Node(node, step), node, call);
        }
    }

    /// Records that a call was answered or failed.
    pub(super) fn record_reply(&mut self, is_failure: bool) {
        if is_failure {
            let pause = BACKOFF_MS[self.failures.min(BACKOFF_MS.len() - 1)];
            self.failures += 1;
            self.hold_until = Some(Instant::now() + Duration::from_millis(pause));
        } else {
            self.failures = 0;
            (self.was_answered, self.has_grace) = (true, true);
        }
    }

    /// Leaves a session whose server has not responded for too long. Single calls are never abandoned: the
    /// reply may contain a watcher, and dropping that costs as much as dropping a watcher.
    fn check_silence(&mut self) -> Option<LeaveReason> {
        let limit = self.inner.config.call_timeout;
        let silent = self.session.silent_since().filter(|_| self.is_connected)?;
        if silent + limit > Instant::now() {
            return None;
        }
        if std::mem::take(&mut self.has_grace) {
            let now = Instant::now();
            self.session.set_last_activity(now.checked_sub(limit.saturating_sub(GRACE)).unwrap_or(now));
            return None;
        }
        let hosts = self.inner.connector.hosts();
        log(|| tracing::warn!(hosts, ?limit, "ZooKeeper does not answer; another session is opened"));
        self.inner.send_event(DiscoveryEvent::Lost);
        Some(LeaveReason::Lost)
    }

    /// The time at which the task must act even if no event arrives.
    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let silence = self.session.silent_since().filter(|_| self.is_connected);
        let silence = silence.map(|since| since + self.inner.config.call_timeout);
        let is_idle = self.is_connected && self.hold_until.is_none() && !self.nodes.has_steps();
        let recheck = self.recheck.next().filter(|_| is_idle);
        let lasting = self.inner.reports.lock().due();
        let hold = self.hold_until.filter(|_| self.is_connected);
        let times = [silence, recheck, lasting, self.give_up_at, hold];
        let next = times.into_iter().flatten().min();
        next.map_or_else(|| after(Duration::MAX), |next| next.max(now))
    }

    /// Reports transient faults that have lasted.
    fn report_overdue(&self) {
        if self.inner.reports.lock().due().is_some_and(|due| due <= Instant::now()) {
            let lasting = self.inner.reports.lock().take_overdue();
            lasting.into_iter().for_each(|entry| self.inner.notices.push(Notice::BadEntry(entry)));
            self.inner.notices.deliver(&self.inner.events);
        }
    }
}
