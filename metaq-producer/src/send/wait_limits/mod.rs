//! The limits of what may wait for one broker, so that it doesn't take the room of all.
//!
//! An accepted message keeps its room while it waits. Messages that insist on a broker that is away or slow
//! would fill the room, and none could be accepted for the brokers that work. A message that can't be handed
//! to a connection at once is therefore accepted only if three times what waits for its broker, and all that
//! waits, fit into the room together: one such broker takes a quarter of it at most, and several leave
//! something to the others. Else the message waits outside, without room, until those of its queue have left.
//!
//! Each queue may hold one message whatever else waits, so that one goes when what the queue waits for comes.
//! A task that is let in and doesn't notice in time, because its task isn't run any more, loses the place to
//! the next.

mod outside;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use metaq_protocol::BrokerId;
use parking_lot::Mutex;

use outside::{Outside, Untaken};

use crate::{
    panics,
    route::wait_queue::{WaitQueues, WaitReason},
    send::{permits::Share, submit::Submitter, timers::Timers},
};

pub(crate) struct WaitLimits {
    room: Load,
    inner: Mutex<Inner>,
    timers: Arc<Timers>,
    /// The submitter that runs what is due.
    submitter: OnceLock<Weak<Submitter>>,
}

#[derive(Default)]
struct Inner {
    all: Load,
    groups: BTreeMap<Group, Waiting>,
    queues: HashMap<QueueKey, Queue, foldhash::fast::FixedState>,
    /// The number of who came to wait outside last.
    last: u64,
    /// Those who were let in and have not noticed yet, by their numbers.
    untaken: BTreeMap<u64, Untaken>,
    /// The time that the last one to be let in took to notice.
    last_took: Duration,
    /// Whether a timer is set that looks for those who don't notice.
    is_watched: bool,
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

/// The messages that wait for one broker.
#[derive(Default)]
struct Waiting {
    load: Load,
    /// Those who wait outside, by their numbers, and their queues.
    outside: BTreeMap<u64, QueueKey>,
}

#[derive(Default)]
struct Queue {
    /// The number of its permits.
    permits: usize,
    /// Those who wait outside, by their numbers.
    outside: BTreeMap<u64, Outside>,
}

/// A message may wait in a queue as long as it is held.
pub(crate) struct WaitPermit {
    limits: Arc<WaitLimits>,
    waits: Arc<WaitQueues>,
    reason: WaitReason,
    share: Share,
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
    /// Limits in proportion to the producer's limits of messages and bytes. `timers` watch the tasks that are
    /// let in.
    pub(crate) fn new(max_messages: usize, max_bytes: usize, timers: &Arc<Timers>) -> Arc<Self> {
        let room = Load { messages: max_messages, bytes: max_bytes };
        let (inner, submitter) = (Mutex::default(), OnceLock::new());
        Arc::new(Self { room, inner, timers: Arc::clone(timers), submitter })
    }

    /// Sets the submitter that runs timers.
    pub(crate) fn set_submitter(&self, submitter: Weak<Submitter>) {
        let _ = self.submitter.set(submitter);
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
}

impl Inner {
    /// Whether a message may come to wait in the queue.
    fn has_place(&self, room: Load, (queue, reason): QueueKey, share: Share) -> bool {
        if self.queues.get(&(queue, reason)).is_none_or(|queue| queue.permits == 0) {
            return true;
        }
        let of_broker = self.groups.get(&reason.group()).map(|group| group.load).unwrap_or_default();
        let fits =
            |room: usize, of_broker: usize, all: usize, rare: usize| 3 * of_broker + all + 4 * rare <= room;
        fits(room.messages, of_broker.messages, self.all.messages, 1)
            && fits(room.bytes, of_broker.bytes, self.all.bytes, share.bytes())
    }

    /// Enters a new message if there is a place and no task waits outside for it.
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

    /// Removes queues without waiters.
    fn tidy(&mut self, key: QueueKey) {
        if self.queues.get(&key).is_some_and(|queue| queue.permits == 0 && queue.outside.is_empty()) {
            self.queues.remove(&key);
        }
        let group = key.1.group();
        if self.groups.get(&group).is_some_and(|group| group.load.messages == 0 && group.outside.is_empty()) {
            self.groups.remove(&group);
        }
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

impl fmt::Debug for WaitPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitPermit").field("reason", &self.reason).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicBool, Ordering},
        },
        task::{Context, Wake, Waker},
        time::Duration,
    };

    use futures_util::{FutureExt as _, future::BoxFuture};
    use metaq_protocol::Partition;
    use tokio::time::timeout;

    use super::*;
    use crate::send::permits::Permits;

    const AWAY: WaitReason = WaitReason::Away(BrokerId(1));

    fn share(bytes: usize) -> Share {
        Permits::new(1, 1 << 20).share(bytes)
    }

    fn limits(messages: usize) -> Arc<WaitLimits> {
        WaitLimits::new(messages, 1 << 20, &Arc::default())
    }

    async fn enter_when_free(
        limits: &Arc<WaitLimits>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        share: Share,
    ) -> Option<WaitPermit> {
        limits.enter_when_free(waits, reason, share, &mut None).await
    }

    fn is_empty(limits: &WaitLimits) -> bool {
        let inner = limits.inner.lock();
        inner.all == Load::default()
            && inner.groups.is_empty()
            && inner.queues.is_empty()
            && inner.untaken.is_empty()
    }

    #[test]
    fn one_broker_takes_a_quarter_and_several_leave_something() {
        let (limits, waits) = (limits(64), Arc::default());
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
    fn blocked_callers_enter_in_order_of_arrival() {
        let (limits, waits, others) = (limits(4), Arc::default(), Arc::default());
        let one = limits.try_enter(&waits, AWAY, share(1)).unwrap();
        let mut first = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
        let mut second = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
        let mut gone = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
        let mut third = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
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
        let mut late = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
        assert!((&mut late).now_or_never().is_none());
        limits.close();
        assert!(late.now_or_never().unwrap().is_none());
        assert!(enter_when_free(&limits, &waits, AWAY, share(1)).now_or_never().unwrap().is_none());
        drop((second, third));
        assert!(is_empty(&limits));
    }

    #[test]
    fn requeued_waiter_keeps_its_place_by_arrival() {
        let (limits, waits) = (limits(4), Arc::default());
        let full = WaitReason::Capacity(BrokerId(1), 0);
        let away = limits.try_enter(&waits, AWAY, share(1)).unwrap();
        let within = limits.try_enter(&waits, full, share(1)).unwrap();
        let mut came = None;
        let mut first = limits.enter_when_free(&waits, AWAY, share(1), &mut came).boxed();
        assert!((&mut first).now_or_never().is_none());
        let mut second = enter_when_free(&limits, &waits, full, share(1)).boxed();
        assert!((&mut second).now_or_never().is_none());
        drop(away);
        let permit = (&mut first).now_or_never().unwrap().unwrap();
        drop(first);
        assert!(permit.try_change(full).is_none(), "others wait outside for that");
        let mut first = limits.enter_when_free(&waits, full, share(1), &mut came).boxed();
        assert!((&mut first).now_or_never().is_none());
        drop(within);
        assert!((&mut second).now_or_never().is_none());
        drop(first.now_or_never().unwrap().unwrap());
        drop(second.now_or_never().unwrap().unwrap());
        assert!(is_empty(&limits));
    }

    /// Looks whether the limits are locked when it wakes.
    struct Looks {
        limits: Arc<WaitLimits>,
        has_met_the_lock: AtomicBool,
    }

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            if self.limits.inner.try_lock().is_none() {
                self.has_met_the_lock.store(true, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn nobody_is_woken_under_the_lock() {
        let (limits, waits) = (limits(4), Arc::default());
        let looks = Arc::new(Looks { limits: Arc::clone(&limits), has_met_the_lock: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&looks));
        let poll = |future: &mut BoxFuture<'_, Option<WaitPermit>>| {
            future.poll_unpin(&mut Context::from_waker(&waker)).is_pending()
        };
        for ends in ["given up", "let in", "let in and given up", "closed"] {
            let within = limits.try_enter(&waits, AWAY, share(1));
            let mut outside = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
            assert!(poll(&mut outside));
            match ends {
                "given up" => drop(outside),
                "let in" => {
                    drop(within);
                    assert!(outside.now_or_never().unwrap().is_some());
                }
                "let in and given up" => {
                    drop(within);
                    drop(outside);
                }
                _ => {
                    limits.close();
                    assert!(outside.now_or_never().unwrap().is_none());
                }
            }
            assert!(!looks.has_met_the_lock.load(Ordering::Relaxed), "{ends}");
        }
        assert!(is_empty(&limits));
    }

    #[tokio::test(start_paused = true)]
    async fn unpolled_caller_loses_its_place_and_keeps_its_number() {
        let (limits, waits) = (limits(4), Arc::default());
        let within = limits.try_enter(&waits, AWAY, share(1));
        let mut absent = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
        let mut second = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
        let mut third = enter_when_free(&limits, &waits, AWAY, share(1)).boxed();
        for waiting in [&mut absent, &mut second, &mut third] {
            assert!(waiting.now_or_never().is_none());
        }
        drop(within);
        limits.pass_over_absent();
        assert!((&mut second).now_or_never().is_none(), "the first has some time");
        tokio::time::advance(Duration::from_millis(10)).await;
        limits.pass_over_absent();
        let second = second.now_or_never().unwrap().unwrap();
        assert!((&mut absent).now_or_never().is_none(), "there is no place now");
        drop(second);
        assert!((&mut third).now_or_never().is_none());
        drop(absent.now_or_never().unwrap().unwrap());
        drop(third.now_or_never().unwrap().unwrap());
        assert!(is_empty(&limits));
    }

    /// Threads that enter, wait, change, give up and leave at the same time.
    #[test]
    fn nothing_is_lost_between_threads() {
        const THREADS: usize = 4;
        let limits = limits(16);
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
                            match rng.u8(..5) {
                                4 => limits.pass_over_absent(),
                                0 => held.extend(limits.try_enter(waits, reason, share)),
                                1 => held.push(limits.enter(waits, reason, share)),
                                2 => {
                                    // Given up at any point.
                                    let mut waiting = enter_when_free(limits, waits, reason, share).boxed();
                                    if let Some(permit) = (&mut waiting).now_or_never() {
                                        held.extend(permit);
                                    } else {
                                        std::thread::yield_now();
                                        held.extend((&mut waiting).now_or_never().flatten());
                                    }
                                }
                                _ => {
                                    held.clear();
                                    // No place is held for ever, so this one gets its turn as well.
                                    drop(enter_when_free(limits, waits, reason, share).await.unwrap());
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
