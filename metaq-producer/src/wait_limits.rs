//! The limits of what may wait for one broker, so that it doesn't take the room of all.
//!
//! An accepted message keeps its room while it waits. Messages that insist on a broker that is away or slow would fill the
//! room, and none could be accepted for the brokers that work. A message that can't be handed to a connection at once is
//! therefore accepted only if three times what waits for its broker, and all that waits, fit into the room together: one such
//! broker takes a quarter of it at most, and several leave something to the others. Else the message waits outside, without
//! room, until those of its queue have left.
//!
//! Each queue may hold one message whatever else waits, so that somebody goes when what the queue waits for comes.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use metaq_protocol::BrokerId;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::{
    panics,
    permits::Share,
    wait_queue::{WaitQueues, WaitReason},
};

pub(crate) struct WaitLimits {
    room: Load,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    all: Load,
    groups: BTreeMap<Group, Waiting>,
    queues: HashMap<QueueKey, Queue, foldhash::fast::FixedState>,
    /// The number of who came to wait outside last.
    last: u64,
    is_closed: bool,
}

/// The broker that messages wait for; none if it can be any of the topic.
type Group = Option<BrokerId>;

/// The queues of a topic, by their address, and the one of them.
type QueueKey = (usize, WaitReason);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    messages: usize,
    bytes: usize,
}

/// What waits for one broker.
#[derive(Default)]
struct Waiting {
    load: Load,
    /// Who waits outside, by their numbers, and for which queue.
    outside: BTreeMap<u64, QueueKey>,
}

#[derive(Default)]
struct Queue {
    /// How many permits there are for it.
    permits: usize,
    /// Who waits outside, by their numbers.
    outside: BTreeMap<u64, Outside>,
}

/// Somebody who waits outside.
struct Outside {
    share: Share,
    granted: oneshot::Sender<()>,
}

/// A message may wait in a queue as long as it is held.
pub(crate) struct WaitPermit {
    limits: Arc<WaitLimits>,
    waits: Arc<WaitQueues>,
    reason: WaitReason,
    share: Share,
}

/// Somebody who counts as waiting within from now on, and is to be told so when no lock is held.
struct Grant {
    key: QueueKey,
    outside: Outside,
}

impl Load {
    fn of(share: Share) -> Self {
        Self { messages: 1, bytes: share.bytes() }
    }

    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Self) {
        self.messages -= other.messages;
        self.bytes -= other.bytes;
    }
}

impl WaitReason {
    fn group(self) -> Group {
        match self {
            Self::NoBroker | Self::AnyCapacity(_) => None,
            Self::Away(broker) | Self::Capacity(broker, _) => Some(broker),
            Self::Turn(partition) => Some(partition.broker),
        }
    }
}

fn key(waits: &Arc<WaitQueues>, reason: WaitReason) -> QueueKey {
    (Arc::as_ptr(waits).addr(), reason)
}

impl WaitLimits {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Arc<Self> {
        let room = Load { messages: max_messages, bytes: max_bytes };
        Arc::new(Self { room, inner: Mutex::default() })
    }

    /// A permit for a new message, unless the limit is reached or others wait outside for the same.
    pub(crate) fn try_enter(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        share: Share,
    ) -> Option<WaitPermit> {
        if !self.inner.lock().try_enter(self.room, key(waits, reason), share) {
            return None;
        }
        Some(self.permit(waits, reason, share))
    }

    /// A permit for a message that was accepted before.
    pub(crate) fn enter(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        share: Share,
    ) -> WaitPermit {
        self.inner.lock().enter(key(waits, reason), share);
        self.permit(waits, reason, share)
    }

    /// Waits for a permit; none when the producer was closed.
    pub(crate) async fn enter_when_free(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        share: Share,
    ) -> Option<WaitPermit> {
        let key = key(waits, reason);
        let (sender, granted) = oneshot::channel();
        let number = self.inner.lock().wait_outside(key, Outside { share, granted: sender })?;
        let mut place = PlaceOutside { limits: self, key, number, share, granted };
        // There may be a place since it was refused one.
        self.let_in(key);
        (&mut place.granted).await.ok()?;
        Some(self.permit(waits, reason, share))
    }

    /// Refuses all who wait outside.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        inner.groups.values_mut().for_each(|group| group.outside.clear());
        let outside: Vec<_> =
            inner.queues.values_mut().map(|queue| std::mem::take(&mut queue.outside)).collect();
        drop(inner);
        // Wakes their tasks.
        panics::contain_each(outside.into_iter().flatten(), drop);
    }

    fn permit(self: &Arc<Self>, waits: &Arc<WaitQueues>, reason: WaitReason, share: Share) -> WaitPermit {
        WaitPermit { limits: Arc::clone(self), waits: Arc::clone(waits), reason, share }
    }

    /// Hands permits to those for whom there is a place now; `key` is the queue that has changed.
    fn let_in(self: &Arc<Self>, key: QueueKey) {
        let mut granted = self.inner.lock().grant(self.room, key);
        while let Some(Grant { key, outside }) = granted.pop() {
            let mut is_wanted = true;
            // Wakes a task.
            panics::contain(|| is_wanted = outside.granted.send(()).is_ok());
            if !is_wanted {
                let mut inner = self.inner.lock();
                inner.leave(key, outside.share);
                granted.extend(inner.grant(self.room, key));
            }
        }
    }
}

impl Inner {
    /// Whether a message may come to wait in the queue.
    fn has_place(&self, room: Load, (queue, reason): QueueKey, share: Share) -> bool {
        if self.queues.get(&(queue, reason)).is_none_or(|queue| queue.permits == 0) {
            return true;
        }
        let of_broker = self.groups.get(&reason.group()).map(|group| group.load).unwrap_or_default();
        let fits =
            |room: usize, of_broker: usize, all: usize, more: usize| 3 * of_broker + all + 4 * more <= room;
        fits(room.messages, of_broker.messages, self.all.messages, 1)
            && fits(room.bytes, of_broker.bytes, self.all.bytes, share.bytes())
    }

    /// Enters a new message if there is a place and nobody waits outside for it.
    fn try_enter(&mut self, room: Load, key: QueueKey, share: Share) -> bool {
        let has_outside = self.queues.get(&key).is_some_and(|queue| !queue.outside.is_empty());
        let enters = !has_outside && self.has_place(room, key, share);
        if enters {
            self.enter(key, share);
        }
        enters
    }

    fn enter(&mut self, key: QueueKey, share: Share) {
        let load = Load::of(share);
        self.all.add(load);
        self.groups.entry(key.1.group()).or_default().load.add(load);
        self.queues.entry(key).or_default().permits += 1;
    }

    fn leave(&mut self, key: QueueKey, share: Share) {
        let load = Load::of(share);
        self.all.subtract(load);
        if let Some(group) = self.groups.get_mut(&key.1.group()) {
            group.load.subtract(load);
        }
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.permits -= 1;
        }
        self.tidy(key);
    }

    /// Someone waits outside from now on. Returns their number, or none when the producer was closed.
    fn wait_outside(&mut self, key: QueueKey, outside: Outside) -> Option<u64> {
        if self.is_closed {
            return None;
        }
        self.last += 1;
        self.queues.entry(key).or_default().outside.insert(self.last, outside);
        self.groups.entry(key.1.group()).or_default().outside.insert(self.last, key);
        Some(self.last)
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

    /// Forgets what nobody waits for.
    fn tidy(&mut self, key: QueueKey) {
        if self.queues.get(&key).is_some_and(|queue| queue.permits == 0 && queue.outside.is_empty()) {
            self.queues.remove(&key);
        }
        let group = key.1.group();
        if self.groups.get(&group).is_some_and(|group| group.load.messages == 0 && group.outside.is_empty()) {
            self.groups.remove(&group);
        }
    }

    /// Counts those who wait outside and have a place now as waiting within, and returns them. The first places go to those
    /// who wait for the queue `key`, which has changed.
    fn grant(&mut self, room: Load, key: QueueKey) -> Vec<Grant> {
        let mut granted = Vec::new();
        while let Some((number, share)) = self.queues.get(&key).and_then(Queue::first_outside)
            && self.has_place(room, key, share)
        {
            self.grant_one(key, number, &mut granted);
        }
        // Of most groups nobody is outside.
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
                && self.has_place(room, key, share)
            {
                self.grant_one(key, number, &mut granted);
            }
        }
        // They are handed out from the end.
        granted.reverse();
        granted
    }

    fn grant_one(&mut self, key: QueueKey, number: u64, granted: &mut Vec<Grant>) {
        if let Some(outside) = self.take_outside(key, number) {
            self.enter(key, outside.share);
            granted.push(Grant { key, outside });
        }
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

impl WaitPermit {
    /// The message, which was accepted, waits for another reason from now on.
    pub(crate) fn change(&mut self, reason: WaitReason) {
        self.change_if(reason, |inner, new, share| {
            inner.enter(new, share);
            true
        });
    }

    /// The message, which is not accepted yet, has to wait for another reason. None if it may not.
    pub(crate) fn try_change(mut self, reason: WaitReason) -> Option<Self> {
        let room = self.limits.room;
        let is_changed = self.change_if(reason, |inner, new, share| inner.try_enter(room, new, share));
        is_changed.then_some(self)
    }

    fn change_if(
        &mut self,
        reason: WaitReason,
        enter: impl FnOnce(&mut Inner, QueueKey, Share) -> bool,
    ) -> bool {
        if reason == self.reason {
            return true;
        }
        let (old, new) = (key(&self.waits, self.reason), key(&self.waits, reason));
        {
            let mut inner = self.limits.inner.lock();
            inner.leave(old, self.share);
            if !enter(&mut inner, new, self.share) {
                inner.enter(old, self.share);
                return false;
            }
        }
        self.reason = reason;
        self.limits.let_in(old);
        true
    }
}

impl Drop for WaitPermit {
    fn drop(&mut self) {
        let key = key(&self.waits, self.reason);
        self.limits.inner.lock().leave(key, self.share);
        self.limits.let_in(key);
    }
}

/// A place outside, which is given up with it.
struct PlaceOutside<'a> {
    limits: &'a Arc<WaitLimits>,
    key: QueueKey,
    number: u64,
    share: Share,
    granted: oneshot::Receiver<()>,
}

impl Drop for PlaceOutside<'_> {
    fn drop(&mut self) {
        let Self { limits, key, number, share, .. } = *self;
        let was_outside = limits.inner.lock().take_outside(key, number).is_some();
        if !was_outside {
            // From here on it can't be told any more; if it was, and nobody took notice, the place is free again.
            self.granted.close();
            match self.granted.try_recv() {
                Ok(()) => limits.inner.lock().leave(key, share),
                Err(_) => return,
            }
        }
        // Of those behind it some may need less.
        limits.let_in(key);
    }
}

impl fmt::Debug for WaitPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitPermit").field("reason", &self.reason).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, time::Duration};

    use futures_util::FutureExt as _;
    use metaq_protocol::Partition;
    use tokio::time::timeout;

    use super::*;
    use crate::permits::Permits;

    const AWAY: WaitReason = WaitReason::Away(BrokerId(1));

    fn share(bytes: usize) -> Share {
        Permits::new(1, 1 << 20).share(bytes)
    }

    fn is_empty(limits: &WaitLimits) -> bool {
        let inner = limits.inner.lock();
        inner.all == Load::default() && inner.groups.is_empty() && inner.queues.is_empty()
    }

    #[test]
    fn one_broker_takes_a_quarter_and_several_leave_something() {
        let (limits, waits) = (WaitLimits::new(64, 1 << 20), Arc::default());
        let enter = |reason| limits.try_enter(&waits, reason, share(1));
        let of_one: Vec<_> = std::iter::from_fn(|| enter(AWAY)).collect();
        assert_eq!(of_one.len(), 16);
        assert!(enter(WaitReason::Capacity(BrokerId(1), 0)).is_some(), "each queue may hold one");
        let of_more = |id| std::iter::from_fn(move || enter(WaitReason::Away(BrokerId(id))));
        let of_more: Vec<_> = (2..5).flat_map(of_more).collect();
        assert_eq!(64 - 16 - 1 - of_more.len(), 20, "four brokers leave a third");
        drop((of_one, of_more));
        let large: Vec<_> = std::iter::from_fn(|| limits.try_enter(&waits, AWAY, share(100 << 10))).collect();
        assert_eq!(large.len(), 2, "bytes count, too");
        drop(large);
        assert!(is_empty(&limits));
    }

    #[test]
    fn who_waits_outside_comes_in_when_one_leaves_in_the_order_in_which_they_came() {
        let (limits, waits, others) = (WaitLimits::new(4, 1 << 20), Arc::default(), Arc::default());
        let one = limits.try_enter(&waits, AWAY, share(1)).unwrap();
        let mut first = limits.enter_when_free(&waits, AWAY, share(1)).boxed();
        let mut second = limits.enter_when_free(&waits, AWAY, share(1)).boxed();
        let mut gone = limits.enter_when_free(&waits, AWAY, share(1)).boxed();
        let mut third = limits.enter_when_free(&waits, AWAY, share(1)).boxed();
        for waiting in [&mut first, &mut second, &mut gone, &mut third] {
            assert!(waiting.now_or_never().is_none());
        }
        assert!(limits.try_enter(&waits, AWAY, share(1)).is_none());
        assert!(limits.try_enter(&others, AWAY, share(1)).is_some(), "of another topic, one may wait");
        drop(one);
        assert!(limits.try_enter(&waits, AWAY, share(1)).is_none(), "nobody passes those outside");
        assert!((&mut second).now_or_never().is_none());
        // It was let in and doesn't know yet.
        drop(first);
        drop(gone);
        let second = second.now_or_never().unwrap().unwrap();
        assert!((&mut third).now_or_never().is_none());
        let mut second = second;
        second.change(WaitReason::Turn(Partition::new(2, 0)));
        let third = third.now_or_never().unwrap().unwrap();
        let mut late = limits.enter_when_free(&waits, AWAY, share(1)).boxed();
        assert!((&mut late).now_or_never().is_none());
        limits.close();
        assert!(late.now_or_never().unwrap().is_none());
        assert!(limits.enter_when_free(&waits, AWAY, share(1)).now_or_never().unwrap().is_none());
        drop((second, third));
        assert!(is_empty(&limits));
    }

    /// Threads that enter, wait, change, give up and leave at the same time.
    #[test]
    fn nothing_is_lost_between_threads() {
        const THREADS: usize = 4;
        let limits = WaitLimits::new(16, 1 << 20);
        let topics: [Arc<WaitQueues>; 2] = [Arc::default(), Arc::default()];
        let barrier = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (limits, topics, barrier) = (&limits, &topics, &barrier);
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let mut rng = fastrand::Rng::with_seed(thread as u64);
                    barrier.wait();
                    let course = async {
                        let mut held = Vec::new();
                        for _ in 0..5_000 {
                            let waits = &topics[rng.usize(..2)];
                            let reason = WaitReason::Away(BrokerId(rng.i32(..2)));
                            let share = share(rng.usize(1..100_000));
                            match rng.u8(..4) {
                                0 => held.extend(limits.try_enter(waits, reason, share)),
                                1 => held.push(limits.enter(waits, reason, share)),
                                2 => {
                                    // Given up at any point.
                                    let mut waiting = limits.enter_when_free(waits, reason, share).boxed();
                                    if let Some(permit) = (&mut waiting).now_or_never() {
                                        held.extend(permit);
                                    } else {
                                        std::thread::yield_now();
                                        held.extend((&mut waiting).now_or_never().flatten());
                                    }
                                }
                                _ => {
                                    held.clear();
                                    // Nobody holds anything for ever, so it comes to this one, too.
                                    drop(limits.enter_when_free(waits, reason, share).await.unwrap());
                                }
                            }
                            if held.len() > 3 {
                                held[0].change(reason);
                                held.remove(rng.usize(..held.len()));
                            }
                        }
                    };
                    let ended = runtime.block_on(async { timeout(Duration::from_secs(60), course).await });
                    ended.expect("everybody is let in");
                });
            }
        });
        assert!(is_empty(&limits));
    }
}
