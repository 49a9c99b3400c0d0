//! Those who wait without capacity until they may wait within.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};

use super::{Group, Inner, Load, Queue, QueueKey, WaitLimits, WaitPermit, Waiting, key};
use crate::{
    panics,
    route::wait_queue::{WaitQueues, WaitReason},
    send::{permits::Share, timers::Timer},
};

/// The least time that a task which is let in has to notice, while others wait for its place.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// A task that waits outside.
pub(super) struct Outside {
    share: Share,
    /// Tells when they were let in.
    granted: oneshot::Sender<Instant>,
}

/// A task that counts as waiting within and has not noticed yet.
pub(super) struct Untaken {
    key: QueueKey,
    share: Share,
    since: Instant,
}

/// A task to wake because it was let in, when no lock is held.
struct Grant {
    outside: Outside,
    at: Instant,
}

impl WaitLimits {
    /// Waits for a permit; none when the producer was closed. `came` is the number of a task that has waited
    /// outside before, for whatever reason: they keep their place by when they came.
    pub(crate) async fn enter_when_free(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        share: Share,
        came: &mut Option<u64>,
    ) -> Option<WaitPermit> {
        let key = key(waits, reason);
        loop {
            let (sender, granted) = oneshot::channel();
            let number = self.inner.lock().wait_outside(key, *came, Outside { share, granted: sender })?;
            *came = Some(number);
            let mut place = PlaceOutside { limits: self, key, number, granted };
            // There may be a place since it was refused one.
            self.let_in(key);
            // The runtime on which they are watched who were let in may not be driven any more.
            self.ensure_watched();
            let since = (&mut place.granted).await.ok()?;
            if self.inner.lock().notice(number, since) {
                return Some(self.permit(waits, reason, share));
            }
            // It noticed too late, and its place was given to another.
        }
    }

    /// Hands permits to the tasks for which there is a place now; `key` is the queue that has changed.
    pub(super) fn let_in(self: &Arc<Self>, key: QueueKey) {
        let mut inner = self.inner.lock();
        let mut granted = Vec::new();
        inner.grant(self.capacity, key, &mut granted);
        let watch = inner.watch();
        drop(inner);
        self.tell(granted, watch);
    }

    /// Lets others in for those who were let in and have not noticed in time: their tasks may not be run any
    /// more.
    pub(crate) fn pass_over_absent(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.is_watched = false;
        let mut granted = Vec::new();
        if inner.has_outside() {
            for key in inner.take_absent() {
                inner.grant(self.capacity, key, &mut granted);
            }
        }
        let watch = inner.watch();
        drop(inner);
        self.tell(granted, watch);
    }

    fn tell(&self, granted: Vec<Grant>, watch: Option<Instant>) {
        // Wakes the tasks. One that doesn't listen any more gives the place back.
        panics::contain_each(granted.into_iter(), |Grant { outside, at }| {
            let _ = outside.granted.send(at);
        });
        if let Some(at) = watch
            && let Some(submitter) = self.submitter.get()
            && !self.timers.set(at, Timer::Absent, submitter)
        {
            self.inner.lock().is_watched = false;
        }
    }

    fn ensure_watched(&self) {
        let is_watched = self.inner.lock().is_watched;
        if is_watched && let Some(submitter) = self.submitter.get() {
            self.timers.ensure_kept(submitter);
        }
    }
}

impl Inner {
    /// Someone waits outside from now on. Returns their number, or none when the producer was closed.
    fn wait_outside(&mut self, key: QueueKey, came: Option<u64>, outside: Outside) -> Option<u64> {
        if self.is_closed {
            return None;
        }
        let number = came.unwrap_or(self.last + 1);
        self.last = self.last.max(number);
        self.queues.entry(key).or_default().outside.insert(number, outside);
        self.groups.entry(key.1.group()).or_default().outside.insert(number, key);
        Some(number)
    }

    /// Someone doesn't wait outside any more.
    fn take_outside(&mut self, key: QueueKey, number: u64) -> Option<Outside> {
        let outside = self.queues.get_mut(&key)?.outside.remove(&number)?;
        if let Some(group) = self.groups.get_mut(&key.1.group()) {
            group.outside.remove(&number);
        }
        self.tidy(key);
        Some(outside)
    }

    /// Counts those who wait outside and have a place now as waiting within. The first places go to those who
    /// wait for the queue `key`, which has changed.
    fn grant(&mut self, capacity: Load, key: QueueKey, granted: &mut Vec<Grant>) {
        while let Some((number, share)) = self.queues.get(&key).and_then(Queue::first_outside)
            && self.has_place(capacity, key, share)
        {
            self.grant_one(key, number, granted);
        }
        // Most groups have no task outside.
        let groups: SmallVec<[Group; 8]> = self
            .groups
            .iter()
            .filter(|(_, waiting)| !waiting.outside.is_empty())
            .map(|(group, _)| *group)
            .collect();
        for group in groups {
            while let Some((number, key)) = self.groups.get(&group).and_then(Waiting::first_outside)
                && let Some(share) =
                    self.queues.get(&key).and_then(|queue| Some(queue.outside.get(&number)?.share))
                && self.has_place(capacity, key, share)
            {
                self.grant_one(key, number, granted);
            }
        }
    }

    fn grant_one(&mut self, key: QueueKey, number: u64, granted: &mut Vec<Grant>) {
        if let Some(outside) = self.take_outside(key, number) {
            let (share, at) = (outside.share, Instant::now());
            self.enter(key, share);
            self.untaken.insert(number, Untaken { key, share, since: at });
            granted.push(Grant { outside, at });
        }
    }

    /// Someone has noticed that they were let in. False if others were let in for them.
    fn notice(&mut self, number: u64, since: Instant) -> bool {
        self.last_took = since.elapsed();
        self.untaken.remove(&number).is_some()
    }

    /// The time that those who are let in have to notice: as long as tasks take at the moment. It is measured
    /// by those who noticed, in time or too late, so that a busy runtime doesn't lose all its places.
    fn patience(&self) -> Duration {
        (2 * self.last_took).clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
    }

    fn has_outside(&self) -> bool {
        self.groups.values().any(|group| !group.outside.is_empty())
    }

    /// The time to look for tasks that have not noticed, if there may be any and no look is scheduled yet.
    fn watch(&mut self) -> Option<Instant> {
        if self.is_watched || self.untaken.is_empty() || !self.has_outside() {
            return None;
        }
        let first = self.untaken.values().map(|untaken| untaken.since).min()?;
        self.is_watched = true;
        Some(first + self.patience())
    }

    /// Doesn't count those any more who have not noticed in time. Returns the queues that have a place by
    /// that.
    fn take_absent(&mut self) -> Vec<QueueKey> {
        let (now, patience) = (Instant::now(), self.patience());
        let is_absent = |untaken: &Untaken| untaken.since + patience <= now;
        let absent = self.untaken.iter().filter(|(_, untaken)| is_absent(untaken));
        let numbers: Vec<u64> = absent.map(|(number, _)| *number).collect();
        let mut keys = Vec::new();
        for number in numbers {
            if let Some(Untaken { key, share, .. }) = self.untaken.remove(&number) {
                self.leave(key, share);
                keys.push(key);
            }
        }
        keys
    }
}

impl Waiting {
    /// The number of the first who waits outside, and for which queue.
    fn first_outside(&self) -> Option<(u64, QueueKey)> {
        self.outside.first_key_value().map(|(number, key)| (*number, *key))
    }
}

impl Queue {
    /// The number and the share of the first who waits outside.
    fn first_outside(&self) -> Option<(u64, Share)> {
        self.outside.first_key_value().map(|(number, outside)| (*number, outside.share))
    }
}

/// A place outside, which is given up with it.
struct PlaceOutside<'a> {
    limits: &'a Arc<WaitLimits>,
    key: QueueKey,
    number: u64,
    granted: oneshot::Receiver<Instant>,
}

impl Drop for PlaceOutside<'_> {
    fn drop(&mut self) {
        // From here on the other end wakes no task.
        self.granted.close();
        let mut inner = self.limits.inner.lock();
        let outside = inner.take_outside(self.key, self.number);
        let untaken = if outside.is_none() { inner.untaken.remove(&self.number) } else { None };
        if let Some(Untaken { key, share, .. }) = &untaken {
            inner.leave(*key, *share);
        }
        drop(inner);
        // Of those behind it some may need less.
        if outside.is_some() || untaken.is_some() {
            self.limits.let_in(self.key);
        }
    }
}
