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
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
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
