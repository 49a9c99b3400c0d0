//! The effects that are run after the connection's lock is released.

use std::{cell::RefCell, collections::VecDeque, sync::Arc, task::Waker};

use bytes::Bytes;

use crate::{
    Completions, Reservation, TransportError, TransportErrorKind,
    contain::{Panicked, contain, log},
    in_flight_limit::{CapacityNotify, InFlightLimit},
    response::ResponseResult,
    shared::ConnectionShared,
    slots::{Caller, Completion, Notify, Released},
};

/// The listener that asked for capacity, its token, and what was granted.
type CapacityResult = (Arc<dyn Completions>, u64, Result<u32, TransportErrorKind>);

/// Waits for capacity that ended, and on which connections.
type CapacityResults = VecDeque<(Arc<ConnectionShared>, CapacityResult)>;

thread_local! {
    /// Waits for capacity that ended while this thread was telling of another; none while it isn't. Whoever is told may give
    /// the capacity back at once, and so may the next one: each within the call before, they would take up the whole stack.
    static NESTED_RESULTS: RefCell<Option<CapacityResults>> = const { RefCell::new(None) };
}

/// Collects under the lock what runs code of others, and runs it when the lock is released: completions, wakers, state
/// watchers, destructors.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    /// Whether the state has to be published before anything else is run.
    pub(crate) state_changed: bool,
    /// Whether the state has to be published after everything else was run.
    pub(crate) closed: bool,
    /// The listener of all that is in `completed`.
    listener: u8,
    completions: Option<Arc<dyn Completions>>,
    completed: Vec<(u64, ResponseResult)>,
    /// Completions for other listeners, which are rare: a connection usually has one.
    others: Vec<(u8, u64, ResponseResult)>,
    released: Vec<Released>,
    /// The listeners of `others` and `released`.
    listeners: Vec<(u8, Arc<dyn Completions>)>,
    /// Waits for capacity that ended.
    pub(crate) capacity: Vec<CapacityResult>,
    pub(crate) wakers: Vec<Waker>,
    garbage: Vec<Garbage>,
    /// The first panic of what was run.
    panicked: Option<Panicked>,
}

/// Values whose destructors may run code of others.
#[derive(Debug)]
#[expect(dead_code, reason = "they are dropped and nothing else")]
enum Garbage {
    Body(Bytes),
    Waker(Waker),
    Waiter(CapacityNotify),
    Caller(Caller),
    Error(TransportError),
}

impl Deferred {
    /// Adds a request that ended; heartbeats count for no bytes.
    #[inline(always)]
    pub(crate) fn add(&mut self, limit: &mut InFlightLimit, completion: Completion) {
        if completion.bytes > 0 {
            limit.free(completion.bytes);
        }
        match completion.notify {
            Notify::None => {}
            Notify::Waker(waker) => self.wakers.push(waker),
            Notify::Listener { listener, token, outcome } => {
                if self.completed.is_empty() {
                    self.listener = listener;
                }
                if self.listener == listener {
                    self.completed.push((token, outcome));
                } else {
                    self.others.push((listener, token, outcome));
                }
            }
        }
    }

    /// Adds a request that the broker is done with now.
    pub(crate) fn add_released(&mut self, released: Released) {
        self.released.push(released);
    }

    pub(crate) fn drop_body(&mut self, body: Bytes) {
        self.garbage.push(Garbage::Body(body));
    }

    pub(crate) fn drop_waker(&mut self, waker: Option<Waker>) {
        self.garbage.extend(waker.map(Garbage::Waker));
    }

    pub(crate) fn drop_waiter(&mut self, notify: Option<CapacityNotify>) {
        self.garbage.extend(notify.map(Garbage::Waiter));
    }

    pub(crate) fn drop_caller(&mut self, caller: Caller) {
        self.garbage.push(Garbage::Caller(caller));
    }

    pub(crate) fn drop_error(&mut self, error: Option<TransportError>) {
        self.garbage.extend(error.map(Garbage::Error));
    }

    /// Looks up who is notified, while the lock is still held.
    #[inline]
    pub(crate) fn resolve(&mut self, listeners: &[Arc<dyn Completions>]) {
        if !self.completed.is_empty() && self.completions.is_none() {
            self.completions = listeners.get(usize::from(self.listener)).cloned();
        }
        if !self.others.is_empty() || !self.released.is_empty() {
            self.resolve_others(listeners);
        }
    }

    #[cold]
    fn resolve_others(&mut self, listeners: &[Arc<dyn Completions>]) {
        let others = self.others.iter().map(|(listener, ..)| *listener);
        for listener in others.chain(self.released.iter().map(|released| released.listener)) {
            if self.listeners.iter().all(|(known, _)| *known != listener)
                && let Some(completions) = listeners.get(usize::from(listener))
            {
                self.listeners.push((listener, Arc::clone(completions)));
            }
        }
    }

    /// Runs everything. The lock must not be held. Panics are contained; the first is kept.
    #[inline]
    pub(crate) fn run(&mut self, shared: &Arc<ConnectionShared>) {
        if self.state_changed {
            self.state_changed = false;
            shared.publish();
        }
        if !self.completed.is_empty() {
            let completions = self.completions.take();
            let completed = &mut self.completed;
            let ended = contain(|| {
                if let Some(completions) = completions {
                    completions.completed(completed);
                }
                completed.clear();
            });
            self.completed.clear();
            self.note(ended);
        }
        let rare = !self.others.is_empty()
            || !self.released.is_empty()
            || !self.capacity.is_empty()
            || !self.garbage.is_empty();
        if rare {
            self.run_rare(shared);
        }
        for waker in self.wakers.drain(..) {
            if let Err(panicked) = contain(|| waker.wake()) {
                // It was woken, whatever came of that: nothing that the connection does depends on it.
                log!(error, broker = %shared.broker, %panicked, "a waker panicked");
            }
        }
        if self.closed {
            self.closed = false;
            shared.publish();
        }
    }

    #[cold]
    fn run_rare(&mut self, shared: &Arc<ConnectionShared>) {
        let listeners = std::mem::take(&mut self.listeners);
        let find =
            |listener: u8| listeners.iter().find(|(known, _)| *known == listener).map(|(_, found)| found);
        for (listener, token, outcome) in std::mem::take(&mut self.others) {
            if let Some(completions) = find(listener) {
                let ended = contain(|| completions.completed(&mut vec![(token, outcome)]));
                self.note(ended);
            }
        }
        let released = std::mem::take(&mut self.released);
        for (listener, completions) in &listeners {
            let of_listener = released.iter().filter(|released| released.listener == *listener);
            let mut tokens: Vec<_> = of_listener.map(|released| released.token).collect();
            if !tokens.is_empty() {
                let notified = contain(|| completions.released(&mut tokens));
                self.note(notified);
            }
        }
        if !self.capacity.is_empty() {
            self.notify_capacity(shared);
        }
        let dropped = contain(|| drop(listeners));
        self.note(dropped);
        for garbage in std::mem::take(&mut self.garbage) {
            let dropped = contain(|| drop(garbage));
            self.note(dropped);
        }
    }

    /// Tells of waits for capacity that ended, one after another, also if telling ends more of them on this thread.
    fn notify_capacity(&mut self, shared: &Arc<ConnectionShared>) {
        let mut ended: VecDeque<_> =
            std::mem::take(&mut self.capacity).into_iter().map(|one| (Arc::clone(shared), one)).collect();
        let is_within = NESTED_RESULTS.try_with(|within| match &mut *within.borrow_mut() {
            Some(within) => {
                within.append(&mut ended);
                true
            }
            within => {
                *within = Some(VecDeque::new());
                false
            }
        });
        if is_within == Ok(true) {
            return;
        }
        loop {
            while let Some((of, (completions, token, result))) = ended.pop_front() {
                let result = match result {
                    Ok(bytes) => Ok(Reservation::on_connection(Arc::clone(&of), bytes)),
                    Err(kind) => Err(of.refusal_error(kind)),
                };
                let notified = contain(|| {
                    completions.capacity(token, result);
                    drop(completions);
                });
                if Arc::ptr_eq(&of, shared) {
                    self.note(notified);
                }
            }
            // A thread that is about to end has no such place any more.
            let more = NESTED_RESULTS.try_with(|within| {
                let mut within = within.borrow_mut();
                let more = within.take().filter(|more| !more.is_empty());
                if more.is_some() {
                    *within = Some(VecDeque::new());
                }
                more
            });
            match more {
                Ok(Some(more)) => ended = more,
                _ => return,
            }
        }
    }

    fn note(&mut self, result: Result<(), Panicked>) {
        if let Err(panicked) = result {
            self.panicked.get_or_insert(panicked);
        }
    }

    /// The text of the first panic since the last call.
    #[inline]
    pub(crate) fn take_panicked(&mut self) -> Option<Panicked> {
        self.panicked.take()
    }
}
