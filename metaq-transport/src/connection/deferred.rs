//! Effects that run after the connection's lock is released.

use std::{cell::RefCell, collections::VecDeque, sync::Arc, task::Waker};

use bytes::Bytes;

use super::{
    Caller, Completion, Completions, ConnectionShared, InFlightLimit, Notify, Released, Reservation,
    in_flight_limit::CapacityNotify,
};
use crate::{
    TransportError, TransportErrorKind,
    panics::{Panicked, catch, log},
    response::ResponseResult,
};

/// The listener that waited for capacity, its token, and the number of reserved bytes.
type CapacityResult = (Arc<dyn Completions>, u64, Result<u32, TransportErrorKind>);

/// Waits for capacity that have completed, each with its connection.
type CapacityResults = VecDeque<(Arc<ConnectionShared>, CapacityResult)>;

thread_local! {
    /// The waits that completed while this thread notifies a listener of another one; none while it doesn't.
    ///
    /// A listener may give the capacity back at once, which completes the next wait. Notified from within,
    /// the next listeners would exhaust the stack.
    static NESTED_RESULTS: RefCell<Option<CapacityResults>> = const { RefCell::new(None) };
}

/// Collects, under the lock, what runs user code, and runs it when the lock is released.
///
/// User code is listeners, wakers, watchers of the state, and the destructors of values that users have
/// passed in.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    /// Set if the state has to be published before anything else is run.
    pub(crate) state_changed: bool,
    /// Set if the state has to be published after everything else was run.
    pub(crate) closed: bool,
    /// The number of the listener for `completed`.
    listener: u8,
    completions: Option<Arc<dyn Completions>>,
    completed: Vec<(u64, ResponseResult)>,
    /// Outcomes for other listeners. They are rare: a connection usually has one listener.
    others: Vec<(u8, u64, ResponseResult)>,
    released: Vec<Released>,
    /// The listeners for `others` and `released`.
    listeners: Vec<(u8, Arc<dyn Completions>)>,
    /// Waits for capacity that have completed.
    pub(crate) capacity: Vec<CapacityResult>,
    pub(crate) wakers: Vec<Waker>,
    garbage: Vec<Garbage>,
    /// The first panic of what was run.
    panicked: Option<Panicked>,
}

/// Values whose destructors may run user code.
#[derive(Debug)]
#[expect(dead_code, reason = "the values are only dropped")]
enum Garbage {
    Body(Bytes),
    Waker(Waker),
    Waiter(CapacityNotify),
    Caller(Caller),
    Error(TransportError),
}

impl Deferred {
    /// Adds a request that has completed. Heartbeats count for no bytes.
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

    /// Adds a request that timed out before, and that the broker is done with now.
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

    /// Looks up the listeners that are to be notified, while the lock is still held.
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

    /// Runs everything that was collected. The lock must not be held. Panics are caught, and the first is
    /// kept.
    #[inline]
    pub(crate) fn run(&mut self, shared: &Arc<ConnectionShared>) {
        if self.state_changed {
            self.state_changed = false;
            shared.publish();
        }
        if !self.completed.is_empty() {
            let completions = self.completions.take();
            let completed = &mut self.completed;
            let result = catch(|| {
                if let Some(completions) = completions {
                    completions.completed(completed);
                }
                completed.clear();
            });
            self.completed.clear();
            self.note(result);
        }
        let rare = !self.others.is_empty()
            || !self.released.is_empty()
            || !self.capacity.is_empty()
            || !self.garbage.is_empty();
        if rare {
            self.run_rare(shared);
        }
        for waker in self.wakers.drain(..) {
            if let Err(panicked) = catch(|| waker.wake()) {
                // The panic is only logged: nothing that the connection does depends on the waker.
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
                let result = catch(|| completions.completed(&mut vec![(token, outcome)]));
                self.note(result);
            }
        }
        let released = std::mem::take(&mut self.released);
        for (listener, completions) in &listeners {
            let of_listener = released.iter().filter(|released| released.listener == *listener);
            let mut tokens: Vec<_> = of_listener.map(|released| released.token).collect();
            if !tokens.is_empty() {
                let notified = catch(|| completions.released(&mut tokens));
                self.note(notified);
            }
        }
        if !self.capacity.is_empty() {
            self.notify_capacity(shared);
        }
        let dropped = catch(|| drop(listeners));
        self.note(dropped);
        for garbage in std::mem::take(&mut self.garbage) {
            let dropped = catch(|| drop(garbage));
            self.note(dropped);
        }
    }

    /// Notifies the listeners of completed waits one after another, even if a notification completes more
    /// waits on this thread.
    fn notify_capacity(&mut self, shared: &Arc<ConnectionShared>) {
        let mut completed: VecDeque<_> =
            std::mem::take(&mut self.capacity).into_iter().map(|one| (Arc::clone(shared), one)).collect();
        let is_nested = NESTED_RESULTS.try_with(|nested| match &mut *nested.borrow_mut() {
            Some(nested) => {
                nested.append(&mut completed);
                true
            }
            nested => {
                *nested = Some(VecDeque::new());
                false
            }
        });
        if is_nested == Ok(true) {
            return;
        }
        loop {
            while let Some((of, (completions, token, result))) = completed.pop_front() {
                let result = match result {
                    Ok(bytes) => Ok(Reservation::on_connection(Arc::clone(&of), bytes)),
                    Err(kind) => Err(of.refusal_error(kind)),
                };
                let notified = catch(|| {
                    completions.capacity(token, result);
                    drop(completions);
                });
                if Arc::ptr_eq(&of, shared) {
                    self.note(notified);
                }
            }
            // Fails on a thread that is about to end.
            let more = NESTED_RESULTS.try_with(|nested| {
                let mut nested = nested.borrow_mut();
                let more = nested.take().filter(|more| !more.is_empty());
                if more.is_some() {
                    *nested = Some(VecDeque::new());
                }
                more
            });
            match more {
                Ok(Some(more)) => completed = more,
                _ => return,
            }
        }
    }

    /// Keeps the first panic.
    fn note(&mut self, result: Result<(), Panicked>) {
        if let Err(panicked) = result {
            self.panicked.get_or_insert(panicked);
        }
    }

    /// Takes the first panic since the last call.
    #[inline]
    pub(crate) fn take_panicked(&mut self) -> Option<Panicked> {
        self.panicked.take()
    }
}
