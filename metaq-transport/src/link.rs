//! What the callers of a connection and its task share.

use std::{
    sync::Arc,
    task::{Poll, Waker},
};

use metaq_protocol::{BrokerAddr, Command, VersionCommand};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, timeout_at},
};

use crate::{
    ConnectionState, PendingResponse, Progress, Refused, TransportError, TransportErrorKind,
    error::LossReason,
    outbox::Outbox,
    slots::{Outcome, SlotKey, Slots},
};

/// A request counts at most for so many bytes at once; it keeps the semaphore's 32-bit counts from overflowing.
const MAX_COUNTED_BYTES: usize = u32::MAX as usize;

/// The shared half of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) broker: BrokerAddr,
    pub(crate) shared: Mutex<Shared>,
    room: Room,
    state: watch::Sender<ConnectionState>,
    /// Tells the task that is dialling or pausing that it shall close.
    pub(crate) close_requested: Notify,
}

/// What is under the lock, which nobody holds across an await or a system call.
#[derive(Debug)]
pub(crate) struct Shared {
    phase: Phase,
    pub(crate) slots: Slots,
    pub(crate) outbox: Outbox,
    next_frame: u64,
    /// Wakes the connection's task when it has nothing to do.
    pub(crate) idle_task: Option<Waker>,
    /// No deadline of an awaited answer is before this.
    pub(crate) earliest_deadline: Option<Instant>,
    /// How many requests of callers await their answers.
    in_flight: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Ready,
    Closing { deadline: Instant },
    Closed,
}

/// The limits of what is unanswered. A request holds its share until it has ended, whoever still waits for it.
#[derive(Debug)]
struct Room {
    requests: Semaphore,
    bytes: Semaphore,
    max_bytes: usize,
}

/// Collects what ends in one go, so that permits are returned once and wakers run without the lock.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    requests: usize,
    bytes: usize,
    wakers: Vec<Waker>,
}

impl Ended {
    /// One request ended that counted for `bytes`; heartbeats count for none.
    pub(crate) fn add(&mut self, bytes: usize, waker: Option<Waker>) {
        if bytes > 0 {
            self.requests += 1;
            self.bytes += bytes;
        }
        self.wakers.extend(waker);
    }
}

impl Link {
    pub(crate) fn new(broker: BrokerAddr, max_in_flight: usize, max_in_flight_bytes: usize) -> Self {
        let max_bytes = max_in_flight_bytes.clamp(1, Semaphore::MAX_PERMITS.min(MAX_COUNTED_BYTES));
        Self {
            broker,
            shared: Mutex::new(Shared {
                phase: Phase::Connecting,
                slots: Slots::default(),
                outbox: Outbox::default(),
                next_frame: 0,
                idle_task: None,
                earliest_deadline: None,
                in_flight: 0,
            }),
            room: Room {
                requests: Semaphore::new(max_in_flight),
                bytes: Semaphore::new(max_bytes),
                max_bytes,
            },
            state: watch::Sender::new(ConnectionState::connecting(None)),
            close_requested: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(crate) fn error(&self, kind: TransportErrorKind) -> TransportError {
        TransportError::new(kind, self.broker.clone())
    }

    /// What a frame of `len` bytes counts for: a frame larger than the whole limit may still go alone.
    fn counted(&self, len: usize) -> u32 {
        len.clamp(1, self.room.max_bytes) as u32
    }

    pub(crate) fn submit(
        self: &Arc<Self>,
        command: Command,
        deadline: Instant,
    ) -> Result<PendingResponse, Box<Refused>> {
        let counted = self.counted(command.encoded_len());
        let (Ok(request), Ok(bytes)) =
            (self.room.requests.try_acquire(), self.room.bytes.try_acquire_many(counted))
        else {
            let kind = self.refusal().unwrap_or(TransportErrorKind::Full);
            return Err(Refused::new(self.error(kind), command));
        };
        let pending = self.queue(command, deadline, counted)?;
        request.forget();
        bytes.forget();
        Ok(pending)
    }

    pub(crate) async fn submit_when_free(
        self: &Arc<Self>,
        command: Command,
        deadline: Instant,
    ) -> Result<PendingResponse, Box<Refused>> {
        let counted = self.counted(command.encoded_len());
        let room = async {
            let request = self.room.requests.acquire().await;
            let bytes = self.room.bytes.acquire_many(counted).await;
            Some((request.ok()?, bytes.ok()?))
        };
        match timeout_at(deadline, room).await {
            Ok(Some((request, bytes))) => {
                let pending = self.queue(command, deadline, counted)?;
                request.forget();
                bytes.forget();
                Ok(pending)
            }
            Ok(None) => Err(Refused::new(self.error(TransportErrorKind::Closed), command)),
            Err(_) => Err(Refused::new(self.error(TransportErrorKind::TimedOut), command)),
        }
    }

    /// Why no request is accepted now, if none is.
    fn refusal(&self) -> Option<TransportErrorKind> {
        self.shared.lock().refusal()
    }

    /// Puts the command into the outbox; the caller holds the permits for it.
    fn queue(
        self: &Arc<Self>,
        mut command: Command,
        deadline: Instant,
        counted: u32,
    ) -> Result<PendingResponse, Box<Refused>> {
        let (key, task) = {
            let mut shared = self.shared.lock();
            if let Some(kind) = shared.refusal() {
                drop(shared);
                return Err(Refused::new(self.not_accepted(kind), command));
            }
            let Some(key) = shared.push(&mut command, deadline, counted as usize) else {
                drop(shared);
                return Err(Refused::new(self.error(TransportErrorKind::Full), command));
            };
            shared.in_flight += 1;
            shared.earliest_deadline =
                Some(shared.earliest_deadline.map_or(deadline, |earliest| earliest.min(deadline)));
            (key, shared.idle_task.take())
        };
        if let Some(task) = task {
            task.wake();
        }
        Ok(PendingResponse::of_slot(Arc::clone(self), key))
    }

    /// An error of `kind` with the reason why there is no connection, where one is known.
    fn not_accepted(&self, kind: TransportErrorKind) -> TransportError {
        let error = self.error(kind);
        match &*self.state.borrow() {
            ConnectionState::Connecting { last_error: Some(last) }
                if kind == TransportErrorKind::NotConnected =>
            {
                error.with_cause(last.clone())
            }
            _ => error,
        }
    }

    pub(crate) fn poll_outcome(&self, key: SlotKey, waker: &Waker) -> Poll<Outcome> {
        match self.shared.lock().slots.poll(key, waker) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }

    pub(crate) fn abandon(&self, key: SlotKey) {
        self.shared.lock().slots.abandon(key);
    }

    /// Queues a heartbeat, which no caller waits for and which counts for nothing.
    pub(crate) fn queue_heartbeat(&self, deadline: Instant) {
        let mut shared = self.shared.lock();
        let mut heartbeat = VersionCommand::default().into();
        if let Some(key) = shared.push(&mut heartbeat, deadline, 0) {
            shared.slots.abandon(key);
        }
    }

    /// Returns permits and wakes callers for all that ended; the lock must not be held.
    pub(crate) fn settle(&self, ended: &mut Ended) {
        if ended.requests > 0 {
            self.shared.lock().in_flight -= ended.requests;
            self.room.requests.add_permits(ended.requests);
            self.room.bytes.add_permits(ended.bytes);
        }
        ended.requests = 0;
        ended.bytes = 0;
        ended.wakers.drain(..).for_each(Waker::wake);
    }

    /// Requests are accepted from now on. False when the connection was closed meanwhile.
    pub(crate) fn set_ready(&self) -> bool {
        let mut shared = self.shared.lock();
        if shared.phase != Phase::Connecting {
            return false;
        }
        shared.phase = Phase::Ready;
        self.state.send_replace(ConnectionState::Ready);
        true
    }

    /// There is no connection: `error` says why the last attempt failed or the last connection was lost.
    pub(crate) fn set_connecting(&self, error: TransportError) {
        let mut shared = self.shared.lock();
        if matches!(shared.phase, Phase::Connecting | Phase::Ready) {
            shared.phase = Phase::Connecting;
            self.state.send_replace(ConnectionState::connecting(Some(error)));
        }
    }

    /// Ends everything outstanding with errors of `kind`: the connection it was on is gone. Frames from number
    /// `first_unwritten` on were not written.
    pub(crate) fn fail_all(
        &self,
        first_unwritten: u64,
        kind: TransportErrorKind,
        reason: Option<LossReason>,
    ) {
        let mut ended = Ended::default();
        let base = match reason {
            Some(reason) => self.error(kind).with_cause(reason),
            None => self.error(kind),
        };
        let error = |progress: Progress| base.clone().with_progress(progress);
        if kind == TransportErrorKind::Lost {
            self.set_connecting(base.clone());
        }
        {
            let mut shared = self.shared.lock();
            shared.outbox = Outbox::default();
            shared.earliest_deadline = None;
            shared.slots.fail_all(first_unwritten, error, |bytes, waker| ended.add(bytes, waker));
        }
        self.settle(&mut ended);
    }

    /// Accepts no more requests; the task closes when the outstanding ones have ended, or at `deadline`.
    pub(crate) fn request_close(&self, deadline: Instant) {
        let task = {
            let mut shared = self.shared.lock();
            match &mut shared.phase {
                Phase::Closing { deadline: earlier } => *earlier = deadline.min(*earlier),
                Phase::Closed => return,
                phase @ (Phase::Connecting | Phase::Ready) => *phase = Phase::Closing { deadline },
            }
            shared.idle_task.take()
        };
        self.close_requested.notify_one();
        if let Some(task) = task {
            task.wake();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Closing { .. } | Phase::Closed)
    }

    /// Closed for good: what is outstanding, waiting for room or yet to come fails.
    pub(crate) fn set_closed(&self, first_unwritten: u64) {
        self.shared.lock().phase = Phase::Closed;
        self.room.requests.close();
        self.room.bytes.close();
        self.fail_all(first_unwritten, TransportErrorKind::Closed, None);
        self.state.send_replace(ConnectionState::Closed);
    }
}

impl Shared {
    fn refusal(&self) -> Option<TransportErrorKind> {
        match self.phase {
            Phase::Ready => None,
            Phase::Connecting => Some(TransportErrorKind::NotConnected),
            Phase::Closing { .. } | Phase::Closed => Some(TransportErrorKind::Closed),
        }
    }

    fn push(&mut self, command: &mut Command, deadline: Instant, counted: usize) -> Option<SlotKey> {
        let frame = self.next_frame;
        let key = self.slots.take(deadline, frame, counted)?;
        self.next_frame += 1;
        command.set_opaque(key.opaque());
        self.outbox.push(frame, key.index, command);
        Some(key)
    }

    /// Until when to wait for outstanding requests, when the connection is being closed and there are any.
    pub(crate) fn closing(&self) -> Option<Closing> {
        match self.phase {
            Phase::Closing { .. } if self.in_flight == 0 => Some(Closing::Now),
            Phase::Closing { deadline } => Some(Closing::At(deadline)),
            _ => None,
        }
    }
}

/// When a connection that is being closed shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    Now,
    At(Instant),
}
