//! What the callers of a connection and its task share.

use std::{
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
};

use metaq_protocol::{BrokerAddr, Command, PutRef, VersionCommand};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use crate::{
    Completions, ConnectionState, ConnectionStats, PendingResponse, Progress, Ticket, TransportError,
    TransportErrorKind,
    ended::Ended,
    error::LossReason,
    outbox::Outbox,
    queued::{Queued, ToldPut},
    room::{Room, Turnstile},
    slots::{Outcome, Request, SlotKey, Slots},
};

/// The shared half of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) broker: BrokerAddr,
    pub(crate) shared: Mutex<Shared>,
    turnstile: Turnstile,
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
    pub(crate) room: Room,
    pub(crate) stats: ConnectionStats,
    /// Who is told of the ends of puts; as a rule there is one.
    listeners: Vec<Arc<dyn Completions>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Ready,
    Stalled,
    Closing { deadline: Instant },
    Closed,
}

/// So many requests are worth a write when the broker has nothing else to do: it works on them while more are made.
pub(crate) const FIRST_WRITE: usize = 32;

impl Link {
    pub(crate) fn new(broker: BrokerAddr, max_in_flight: usize, max_in_flight_bytes: usize) -> Self {
        Self {
            broker,
            shared: Mutex::new(Shared {
                phase: Phase::Connecting,
                slots: Slots::default(),
                outbox: Outbox::default(),
                next_frame: 0,
                idle_task: None,
                earliest_deadline: None,
                room: Room::new(max_in_flight, max_in_flight_bytes),
                stats: ConnectionStats::default(),
                listeners: Vec::new(),
            }),
            turnstile: Turnstile::default(),
            state: watch::Sender::new(ConnectionState::connecting(None)),
            close_requested: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        let shared = self.shared.lock();
        let (in_flight, in_flight_bytes) = shared.room.taken();
        ConnectionStats { in_flight, in_flight_bytes, ..shared.stats }
    }

    pub(crate) fn error(&self, kind: TransportErrorKind) -> TransportError {
        TransportError::new(kind, self.broker.clone())
    }

    pub(crate) fn submit(
        self: &Arc<Self>,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.queue(command, deadline, false).map(|(key, _)| self.pending(key))
    }

    fn pending(self: &Arc<Self>, key: SlotKey) -> PendingResponse {
        PendingResponse::of_slot(Arc::clone(self), key)
    }

    pub(crate) fn submit_put(
        self: &Arc<Self>,
        mut put: PutRef<'_>,
        deadline: Instant,
        ticket: Ticket<'_>,
    ) -> Result<bool, TransportError> {
        self.queue(ToldPut(&mut put, ticket), deadline, false).map(|(_, much_waits)| much_waits)
    }

    pub(crate) async fn submit_when_free(
        self: &Arc<Self>,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        let _waiting = Waiting::new(self);
        let queued = timeout_at(deadline, async {
            let _turn = self.turnstile.turn().await;
            loop {
                let mut freed = pin!(self.turnstile.freed());
                // From here on nothing is missed that ends.
                freed.as_mut().enable();
                match self.queue(&mut *command, deadline, true) {
                    Err(error) if error.kind() == TransportErrorKind::Full => freed.await,
                    queued => return queued.map(|(key, _)| self.pending(key)),
                }
            }
        });
        queued.await.unwrap_or_else(|_| Err(self.error(TransportErrorKind::TimedOut)))
    }

    /// Puts the request into the outbox if there is room; returns whether what waits there is worth a write, too. Who has
    /// waited may pass those who wait.
    fn queue(
        &self,
        mut queued: impl Queued,
        deadline: Instant,
        has_waited: bool,
    ) -> Result<(SlotKey, bool), TransportError> {
        let bytes = queued.bytes();
        let (key, much_waits, task) = {
            let mut shared = self.shared.lock();
            if let Some(kind) = shared.refusal() {
                drop(shared);
                return Err(self.not_accepted(kind));
            }
            let Some(bytes) = shared.room.take(bytes, has_waited) else {
                drop(shared);
                return Err(self.error(TransportErrorKind::Full));
            };
            let Some(key) = shared.push(&mut queued, deadline, bytes) else {
                shared.room.free(bytes);
                drop(shared);
                return Err(self.error(TransportErrorKind::Full));
            };
            shared.stats.requests += 1;
            shared.earliest_deadline =
                Some(shared.earliest_deadline.map_or(deadline, |earliest| earliest.min(deadline)));
            let much_waits = shared.outbox.is_worth_a_write() || shared.is_first_write(FIRST_WRITE);
            (key, much_waits, shared.idle_task.take())
        };
        if let Some(task) = task {
            task.wake();
        }
        Ok((key, much_waits))
    }

    /// An error of `kind` with the reason why there is no connection, where one is known.
    #[cold]
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
        if let Some(key) = shared.push(&mut &mut heartbeat, deadline, 0) {
            shared.slots.abandon(key);
        }
    }

    /// Tells everybody of all that ended; the lock must not be held.
    pub(crate) fn settle(&self, ended: &mut Ended) {
        if ended.requests > 0 {
            self.turnstile.tell();
        }
        ended.requests = 0;
        if !ended.told.is_empty() {
            self.tell(ended.listener, &mut ended.told);
        }
        for (listener, token, outcome) in ended.others.drain(..) {
            self.tell(listener, &mut vec![(token, outcome)]);
        }
        ended.wakers.drain(..).for_each(Waker::wake);
    }

    fn tell(&self, listener: u8, told: &mut Vec<(u64, Outcome)>) {
        let listener = self.shared.lock().listeners.get(usize::from(listener)).cloned();
        if let Some(listener) = listener {
            listener.ended(told);
        }
        told.clear();
    }

    /// Requests are accepted from now on. False when the connection was closed meanwhile.
    pub(crate) fn set_ready(&self) -> bool {
        let mut shared = self.shared.lock();
        match shared.phase {
            Phase::Connecting => shared.stats.established += 1,
            Phase::Stalled => {}
            _ => return false,
        }
        shared.phase = Phase::Ready;
        self.state.send_replace(ConnectionState::Ready);
        true
    }

    /// The broker is silent and owes answers: what was not written is ended, and no more is accepted for now.
    pub(crate) fn set_stalled(&self, first_unwritten: u64) {
        let mut ended = Ended::default();
        {
            let shared = &mut *self.shared.lock();
            if shared.phase == Phase::Ready {
                shared.phase = Phase::Stalled;
                self.state.send_replace(ConnectionState::Stalled);
            }
            shared.outbox.remove_unwritten(|_| true);
            let error = |_| self.error(TransportErrorKind::Stalled);
            let Shared { slots, room, .. } = shared;
            slots.fail_unwritten(first_unwritten, error, |_, ending| ended.add(room, ending));
        }
        self.turnstile.tell();
        self.settle(&mut ended);
    }

    /// There is no connection: `error` says why the last attempt failed or the last connection was lost.
    pub(crate) fn set_connecting(&self, error: TransportError) {
        let mut shared = self.shared.lock();
        if matches!(shared.phase, Phase::Connecting | Phase::Ready | Phase::Stalled) {
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
            let shared = &mut *self.shared.lock();
            shared.outbox = Outbox::default();
            shared.earliest_deadline = None;
            let Shared { slots, room, .. } = shared;
            slots.fail_all(first_unwritten, error, |_, ending| ended.add(room, ending));
        }
        self.turnstile.tell();
        self.settle(&mut ended);
    }

    /// Accepts no more requests; the task closes when the outstanding ones have ended, or at `deadline`.
    pub(crate) fn request_close(&self, deadline: Instant) {
        let task = {
            let mut shared = self.shared.lock();
            match &mut shared.phase {
                Phase::Closing { deadline: earlier } => *earlier = deadline.min(*earlier),
                Phase::Closed => return,
                phase => *phase = Phase::Closing { deadline },
            }
            shared.idle_task.take()
        };
        self.turnstile.tell();
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
        self.fail_all(first_unwritten, TransportErrorKind::Closed, None);
        self.shared.lock().listeners.clear();
        self.state.send_replace(ConnectionState::Closed);
    }
}

impl Shared {
    fn refusal(&self) -> Option<TransportErrorKind> {
        match self.phase {
            Phase::Ready => None,
            Phase::Stalled => Some(TransportErrorKind::Stalled),
            Phase::Connecting => Some(TransportErrorKind::NotConnected),
            Phase::Closing { .. } | Phase::Closed => Some(TransportErrorKind::Closed),
        }
    }

    /// Whether so many requests wait, and the broker owes nothing else.
    fn is_first_write(&self, frames: usize) -> bool {
        self.outbox.frames() == frames && self.room.taken().0 == frames
    }

    /// Whether the broker owes nothing, and there is enough to have it begin.
    pub(crate) fn has_first_write(&self) -> bool {
        let frames = self.outbox.frames();
        frames >= FIRST_WRITE && self.is_first_write(frames)
    }

    #[inline]
    fn push(&mut self, queued: &mut impl Queued, deadline: Instant, bytes: u32) -> Option<SlotKey> {
        let told = match queued.ticket() {
            Some(ticket) => Some((self.listener(ticket.completions)?, ticket.token)),
            None => None,
        };
        let frame = self.next_frame;
        let key = self.slots.take(Request { deadline, frame, bytes, is_put: queued.is_put(), told })?;
        self.next_frame += 1;
        queued.push(&mut self.outbox, frame, key);
        Some(key)
    }

    /// The number of this listener; none when there are too many.
    fn listener(&mut self, completions: &Arc<dyn Completions>) -> Option<u8> {
        let known = self.listeners.iter().position(|known| Arc::ptr_eq(known, completions));
        let number = known.unwrap_or_else(|| {
            self.listeners.push(Arc::clone(completions));
            self.listeners.len() - 1
        });
        u8::try_from(number).ok()
    }

    /// Until when to wait for outstanding requests, when the connection is being closed and there are any.
    pub(crate) fn closing(&self) -> Option<Closing> {
        match self.phase {
            Phase::Closing { .. } if self.room.is_empty() => Some(Closing::Now),
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

/// One who waits for room: as long as there is one, nobody else takes any.
struct Waiting<'a>(&'a Link);

impl<'a> Waiting<'a> {
    fn new(link: &'a Link) -> Self {
        link.shared.lock().room.waiting += 1;
        Self(link)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.shared.lock().room.waiting -= 1;
    }
}
