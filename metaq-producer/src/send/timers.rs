//! Timers: for the next attempts of messages, and for their ends.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Handle, Id},
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{SendError, deadline, panics, send::submit::Submitter, token::Token};

/// The action of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The next attempt of a message.
    Attempt(Token),
    /// The deadline of a message that waits, with its number of attempts: a timer that was set for one wait
    /// isn't taken for another.
    Deadline(Token, u32),
    /// Another look for capacity on a connection that can't announce it.
    Capacity(u64),
    /// The end of waiting for the late answer to a message in a partition that is sent to in order.
    LateAnswer(Token),
    /// A look for tasks that were let in to wait, and don't notice.
    Absent,
}

/// The time for which a keeper stays when there is nothing to do, so that not every message that waits starts
/// another.
const LINGER: Duration = Duration::from_secs(1);

/// The timers of a producer.
///
/// They are kept by a task on each runtime that has set one lately. So a caller that sets a timer on a
/// runtime that is driven can rely on it, whatever becomes of other runtimes.
#[derive(Default)]
pub(crate) struct Timers {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    timers: BTreeSet<(Instant, Timer)>,
    /// The runtimes that have a keeper.
    keepers: Vec<Id>,
}

impl Inner {
    /// Removes the timers of messages that wait, and returns the messages. The next task that keeps time
    /// handles the others.
    fn take_of_waiting(&mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.timers.retain(|(_, timer)| match timer {
            Timer::Attempt(token) | Timer::Deadline(token, _) => {
                tokens.push(*token);
                false
            }
            Timer::Capacity(_) | Timer::LateAnswer(_) | Timer::Absent => true,
        });
        tokens
    }
}

impl Timers {
    /// Sets a timer. False if there is no task to keep it: it isn't set then.
    #[must_use]
    pub(crate) fn set(self: &Arc<Self>, at: Instant, timer: Timer, submitter: &Weak<Submitter>) -> bool {
        let new_keeper = self.new_keeper();
        let new_keeper = {
            let mut inner = self.inner.lock();
            let new_keeper = new_keeper.filter(|runtime| !inner.keepers.contains(&runtime.id()));
            if new_keeper.is_none() && inner.keepers.is_empty() {
                return false;
            }
            inner.timers.insert((at, timer));
            inner.keepers.extend(new_keeper.as_ref().map(Handle::id));
            if inner.timers.first().is_some_and(|(first, _)| *first == at) {
                drop(inner);
                self.changed.notify_waiters();
            }
            new_keeper
        };
        if let Some(runtime) = new_keeper {
            self.start_keeper(&runtime, submitter);
        }
        true
    }

    /// Has timers kept on the caller's runtime, too, if any are set.
    pub(crate) fn ensure_kept(self: &Arc<Self>, submitter: &Weak<Submitter>) {
        let Some(runtime) = self.new_keeper() else { return };
        {
            let mut inner = self.inner.lock();
            if inner.timers.is_empty() || inner.keepers.contains(&runtime.id()) {
                return;
            }
            inner.keepers.push(runtime.id());
        }
        self.start_keeper(&runtime, submitter);
    }

    /// The caller's runtime, if it has no keeper, and can have one.
    fn new_keeper(&self) -> Option<Handle> {
        let id = Handle::try_current().ok()?.id();
        // Not under the lock: it may panic, for which there are hooks.
        if self.inner.lock().keepers.contains(&id) { None } else { deadline::runtime() }
    }

    fn start_keeper(self: &Arc<Self>, runtime: &Handle, submitter: &Weak<Submitter>) {
        let (timers, submitter) = (Arc::clone(self), Weak::clone(submitter));
        let keeper = Keeper { timers, submitter, runtime: runtime.id(), has_left: false };
        drop(runtime.spawn(keeper.run()));
    }

    pub(crate) fn cancel(&self, at: Instant, timer: Timer) {
        self.inner.lock().timers.remove(&(at, timer));
    }

    /// The timers that are due.
    fn due(&self, now: Instant) -> Vec<Timer> {
        let mut inner = self.inner.lock();
        let mut due = Vec::new();
        while let Some((at, timer)) = inner.timers.first().copied()
            && at <= now
        {
            inner.timers.pop_first();
            due.push(timer);
        }
        due
    }

    /// Has every keeper look whether it is still needed.
    pub(crate) fn stop(&self) {
        self.inner.lock().timers.clear();
        self.changed.notify_waiters();
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("set", &self.inner.lock().timers.len()).finish_non_exhaustive()
    }
}

/// The task that keeps timers on one runtime.
struct Keeper {
    timers: Arc<Timers>,
    submitter: Weak<Submitter>,
    runtime: Id,
    has_left: bool,
}

impl Keeper {
    async fn run(mut self) {
        let timers = Arc::clone(&self.timers);
        loop {
            let mut changed = std::pin::pin!(timers.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let first = self.timers.inner.lock().timers.first().map(|(at, _)| *at);
            let until = first.unwrap_or_else(|| deadline::after(LINGER));
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(until) => {
                    if first.is_none() && self.leave() {
                        return;
                    }
                }
            }
            let Some(submitter) = self.submitter.upgrade() else { return };
            for timer in self.timers.due(Instant::now()) {
                // Whatever a waker or a selector does, the others go on.
                panics::contain(|| submitter.due(timer));
            }
            if submitter.unacknowledged.is_closed() && self.leave() {
                return;
            }
        }
    }

    /// Leaves if there is nothing to do.
    fn leave(&mut self) -> bool {
        let mut inner = self.timers.inner.lock();
        self.has_left = inner.timers.is_empty();
        if self.has_left {
            inner.keepers.retain(|id| *id != self.runtime);
        }
        self.has_left
    }
}

impl Drop for Keeper {
    /// However it ends, also when its runtime is shut down under it: what waits isn't forgotten.
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        let abandoned = {
            let mut inner = self.timers.inner.lock();
            inner.keepers.retain(|id| *id != self.runtime);
            // At once: others may set timers from now on, and keep them.
            if inner.keepers.is_empty() { inner.take_of_waiting() } else { Vec::new() }
        };
        let Some(submitter) = self.submitter.upgrade() else { return };
        for token in abandoned {
            panics::contain(|| submitter.unacknowledged.fail_one_waiting(token, SendError::runtime_ended));
        }
    }
}
