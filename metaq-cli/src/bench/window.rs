//! So many operations in flight, all the time, in one task.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

/// How many operations of one slot end in one go, when they end at once, before others get their turn.
const TURNS: usize = 2;

/// Keeps `size` operations in flight. `start` begins the next one, or says that there is none; `end` is told what came of
/// each, and how long it took from just before its start until its outcome was here. Returns when all have ended.
///
/// A slot keeps its place and its waker for all its operations, so that none of them allocates anything here, and only
/// those that were woken are looked at.
pub(crate) async fn drive<F: Future>(
    size: usize,
    mut start: impl FnMut() -> Option<F>,
    mut end: impl FnMut(Duration, F::Output),
) {
    let woken = Arc::new(Woken::all(size));
    let mut slots: Vec<_> = (0..size).map(|index| Slot::new(index, &woken)).collect();
    let mut busy = size;
    poll_fn(|context| {
        woken.task.register(context.waker());
        woken.any.swap(false, Ordering::AcqRel);
        for (word, bits) in woken.bits.iter().enumerate() {
            let mut bits = bits.swap(0, Ordering::AcqRel);
            while bits != 0 {
                let slot = &mut slots[word * WORD + bits.trailing_zeros() as usize];
                bits &= bits - 1;
                if slot.is_done {
                    continue;
                }
                slot.turn(&mut start, &mut end);
                if slot.is_done {
                    busy -= 1;
                }
            }
        }
        if busy == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A place for one operation after another.
struct Slot<F> {
    operation: Pin<Box<Option<F>>>,
    started: Instant,
    waker: Waker,
    /// Whether there is nothing more to start.
    is_done: bool,
}

impl<F: Future> Slot<F> {
    fn new(index: usize, woken: &Arc<Woken>) -> Self {
        let waker = Waker::from(Arc::new(SlotWaker { index, woken: Arc::clone(woken) }));
        Self { operation: Box::pin(None), started: Instant::now(), waker, is_done: false }
    }

    fn turn(&mut self, start: &mut impl FnMut() -> Option<F>, end: &mut impl FnMut(Duration, F::Output)) {
        for _ in 0..TURNS {
            let mut now = None;
            if let Some(operation) = self.operation.as_mut().as_pin_mut() {
                match operation.poll(&mut Context::from_waker(&self.waker)) {
                    Poll::Pending => return,
                    Poll::Ready(output) => {
                        let ended = Instant::now();
                        now = Some(ended);
                        end(ended - self.started, output);
                        self.operation.set(None);
                    }
                }
            }
            // The end of one is the start of the next: looking at the clock once more would be a part of what is measured.
            self.started = now.unwrap_or_else(Instant::now);
            let Some(operation) = start() else {
                self.is_done = true;
                return;
            };
            self.operation.set(Some(operation));
        }
        self.waker.wake_by_ref();
    }
}

const WORD: usize = u64::BITS as usize;

/// Which slots are to be looked at.
struct Woken {
    /// A bit for each slot.
    bits: Box<[AtomicU64]>,
    /// Whether any bit was set since the task looked.
    any: AtomicBool,
    task: AtomicWaker,
}

impl Woken {
    /// All of them, for the start.
    fn all(size: usize) -> Self {
        let bits = (0..size.div_ceil(WORD)).map(|word| {
            let count = WORD.min(size - word * WORD);
            AtomicU64::new(u64::MAX >> (WORD - count))
        });
        Self { bits: bits.collect(), any: AtomicBool::new(true), task: AtomicWaker::new() }
    }
}

struct SlotWaker {
    index: usize,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (word, bit) = (self.index / WORD, self.index % WORD);
        self.woken.bits[word].fetch_or(1 << bit, Ordering::AcqRel);
        // The task looks at the bits after it has taken this back.
        if !self.woken.any.swap(true, Ordering::AcqRel) {
            self.woken.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::{sync::Semaphore, task::yield_now};

    use super::*;

    /// Drives `count` operations, each of which waits as `wait` does; returns the most that were in flight, and the results.
    async fn run<F: Future>(size: usize, count: usize, wait: impl Fn(usize) -> F) -> (usize, Vec<usize>) {
        let (in_flight, most) = (Cell::new(0), Cell::new(0));
        let (mut next, ended) = (0..count, RefCell::new(Vec::new()));
        let (wait, in_flight, most) = (&wait, &in_flight, &most);
        let start = || {
            let n = next.next()?;
            in_flight.set(in_flight.get() + 1);
            most.set(most.get().max(in_flight.get()));
            Some(async move {
                wait(n).await;
                n
            })
        };
        let end = |_, n| {
            in_flight.set(in_flight.get() - 1);
            ended.borrow_mut().push(n);
        };
        drive(size, start, end).await;
        let mut ended = ended.into_inner();
        ended.sort_unstable();
        (most.get(), ended)
    }

    #[tokio::test]
    async fn as_many_are_in_flight_as_there_may_be_and_each_ends_once() {
        for (size, count) in [(1, 10), (63, 1000), (64, 1000), (65, 1000), (1024, 3000), (100, 7)] {
            let (most, ended) = run(size, count, |_| yield_now()).await;
            assert_eq!(most, size.min(count), "{size} of {count}");
            assert_eq!(ended, (0..count).collect::<Vec<_>>());
            let (_, ended) = run(size, count, |_| std::future::ready(())).await;
            assert_eq!(ended.len(), count, "when all end at once");
        }
    }

    #[tokio::test]
    async fn the_window_stays_full_behind_one_that_takes_long() {
        let last = Arc::new(Semaphore::new(0));
        let release = &*last;
        let wait = |n: usize| async move {
            if n == 0 {
                // Ends when 999 others have.
                release.acquire_many(999).await.unwrap().forget();
            } else {
                yield_now().await;
                release.add_permits(1);
            }
        };
        assert_eq!(run(3, 1000, wait).await.1.len(), 1000);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_wake_from_another_thread_is_not_lost() {
        let wait = |_| async { tokio::spawn(yield_now()).await.unwrap() };
        assert_eq!(run(200, 50_000, wait).await.1.len(), 50_000);
    }
}
