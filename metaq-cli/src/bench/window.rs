//! A window of operations in flight, which one task keeps full.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::task::yield_now;

/// The number of operations that share one reading of the clock, since reading it takes a tenth of the time
/// of a message. It is read before the first operation of a group starts, and after the last one of a group
/// completes, so no latency is recorded shorter than it was.
const GROUP: usize = 8;

/// A source of operations that also receives their outcomes.
pub(crate) trait Workload {
    /// One operation.
    type Operation: Future + Unpin;

    /// Starts the next operation. Returns `Err` with the outcome if it fails immediately, and `None` if none
    /// is left.
    fn start(&mut self) -> impl Future<Output = Option<Result<Self::Operation, OutcomeOf<Self>>>>;

    /// Receives the outcome of an operation. Returns whether its latency should be recorded.
    fn completed(&mut self, outcome: OutcomeOf<Self>) -> bool;

    /// Receives the latency of an operation, from just before its start until its outcome arrived.
    fn record_latency(&mut self, latency: Duration);
}

pub(crate) type OutcomeOf<W> = <<W as Workload>::Operation as Future>::Output;

/// Keeps `size` operations in flight. Returns when all have completed.
pub(crate) async fn drive<W: Workload>(size: usize, workload: &mut W) {
    let mut window = Window::new(size);
    let mut is_over = false;
    loop {
        let (mut started, mut in_group) = (Instant::now(), 0);
        while !is_over && window.in_flight() < size {
            if in_group == GROUP {
                (started, in_group) = (Instant::now(), 0);
            }
            in_group += 1;
            match workload.start().await {
                Some(Ok(operation)) => window.in_order.push_back(Started { operation, started }),
                Some(Err(output)) => {
                    if workload.completed(output) {
                        workload.record_latency(started.elapsed());
                    }
                    // Lets other tasks run, for instance the one that the next operation depends on.
                    yield_now().await;
                    in_group = GROUP;
                }
                None => is_over = true,
            }
        }
        if window.in_flight() == 0 {
            return;
        }
        poll_fn(|context| window.poll(context, workload)).await;
    }
}

/// The operations in flight.
///
/// Operations mostly complete in the order in which they started. So in general only the first one needs to
/// wake the task, which then polls each operation once. One in the middle, the sentinel, wakes the task, too:
/// when it has completed before the first one, the incomplete operations before it move to `overtaken`, where
/// they no longer delay the others.
struct Window<H: Future> {
    in_order: VecDeque<Started<H>>,
    /// The index of the sentinel in `in_order`; never 0.
    sentinel: Option<usize>,
    overtaken: Vec<Started<H>>,
    /// The start times of completed operations whose latency was not recorded yet.
    completed: Vec<Instant>,
}

struct Started<H> {
    operation: H,
    started: Instant,
}

impl<H: Future + Unpin> Started<H> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<H::Output> {
        Pin::new(&mut self.operation).poll(context)
    }
}

impl<H: Future + Unpin> Window<H> {
    fn new(size: usize) -> Self {
        let (in_order, completed) = (VecDeque::with_capacity(size), Vec::with_capacity(GROUP));
        Self { in_order, sentinel: None, overtaken: Vec::new(), completed }
    }

    fn in_flight(&self) -> usize {
        self.in_order.len() + self.overtaken.len()
    }

    /// Ready when at least one operation has completed. Operations behind the sentinel don't wake the task.
    fn poll(&mut self, context: &mut Context<'_>, workload: &mut impl Workload<Operation = H>) -> Poll<()> {
        let before = self.in_flight();
        self.poll_overtaken(context, workload);
        self.poll_first(context, workload);
        while self.poll_sentinel(context, workload) {
            self.poll_first(context, workload);
        }
        self.record_latencies(workload);
        if self.in_flight() < before { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Removes completed operations from the front.
    fn poll_first(&mut self, context: &mut Context<'_>, workload: &mut impl Workload<Operation = H>) {
        let mut done = 0;
        while let Some(first) = self.in_order.get_mut(done)
            && let Poll::Ready(output) = first.poll(context)
        {
            done += 1;
            let started = first.started;
            self.complete(started, output, workload);
        }
        self.in_order.drain(..done);
        self.sentinel =
            self.sentinel.and_then(|sentinel| sentinel.checked_sub(done)).filter(|sentinel| *sentinel > 0);
    }

    /// If the sentinel has completed, removes all operations up to it, and moves the incomplete ones to
    /// `overtaken`. Returns whether it had.
    fn poll_sentinel(
        &mut self,
        context: &mut Context<'_>,
        workload: &mut impl Workload<Operation = H>,
    ) -> bool {
        if self.in_order.len() < 2 {
            return false;
        }
        let at = *self.sentinel.get_or_insert(self.in_order.len() / 2);
        let sentinel = &mut self.in_order[at];
        let Poll::Ready(output) = sentinel.poll(context) else { return false };
        let started = sentinel.started;
        self.complete(started, output, workload);
        let passed: Vec<_> = self.in_order.drain(..=at).take(at).collect();
        for mut operation in passed {
            match operation.poll(context) {
                Poll::Ready(output) => self.complete(operation.started, output, workload),
                Poll::Pending => self.overtaken.push(operation),
            }
        }
        self.sentinel = None;
        true
    }

    fn poll_overtaken(&mut self, context: &mut Context<'_>, workload: &mut impl Workload<Operation = H>) {
        let mut at = 0;
        while let Some(operation) = self.overtaken.get_mut(at) {
            match operation.poll(context) {
                Poll::Ready(output) => {
                    let started = self.overtaken.swap_remove(at).started;
                    self.complete(started, output, workload);
                }
                Poll::Pending => at += 1,
            }
        }
    }

    fn complete(&mut self, started: Instant, output: H::Output, workload: &mut impl Workload<Operation = H>) {
        if workload.completed(output) {
            self.completed.push(started);
            if self.completed.len() >= GROUP {
                self.record_latencies(workload);
            }
        }
    }

    fn record_latencies(&mut self, workload: &mut impl Workload<Operation = H>) {
        if !self.completed.is_empty() {
            let now = Instant::now();
            self.completed.drain(..).for_each(|started| workload.record_latency(now - started));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        sync::Arc,
    };

    use tokio::{sync::Semaphore, task::yield_now};

    use super::*;

    /// Workload of three functions: one starts operations, one receives outcomes, one receives latencies.
    struct Calls<S, E, T>(S, E, T);

    impl<O, S, E, T> Workload for Calls<S, E, T>
    where
        O: Future + Unpin,
        S: FnMut() -> Option<Result<O, O::Output>>,
        E: FnMut(O::Output),
        T: FnMut(Duration),
    {
        type Operation = O;

        async fn start(&mut self) -> Option<Result<O, O::Output>> {
            self.0()
        }

        fn completed(&mut self, outcome: O::Output) -> bool {
            self.1(outcome);
            true
        }

        fn record_latency(&mut self, latency: Duration) {
            self.2(latency);
        }
    }

    /// Drives `count` operations, each of which awaits `wait`. Returns the peak number in flight, and the
    /// sorted results.
    async fn run<F: Future>(size: usize, count: usize, wait: impl Fn(usize) -> F) -> (usize, Vec<usize>) {
        let (in_flight, most) = (Cell::new(0), Cell::new(0));
        let (mut next, completed) = (0..count, RefCell::new(Vec::new()));
        let (wait, in_flight, most) = (&wait, &in_flight, &most);
        let start = || {
            let n = next.next()?;
            in_flight.set(in_flight.get() + 1);
            most.set(most.get().max(in_flight.get()));
            Some(Ok(Box::pin(async move {
                wait(n).await;
                n
            })))
        };
        let end = |n| {
            in_flight.set(in_flight.get() - 1);
            completed.borrow_mut().push(n);
        };
        drive(size, &mut Calls(start, end, |_| {})).await;
        let mut completed = completed.into_inner();
        completed.sort_unstable();
        (most.get(), completed)
    }

    #[tokio::test]
    async fn the_window_is_filled_and_each_operation_completes_once() {
        for (size, count) in [(1, 10), (63, 1000), (64, 1000), (65, 1000), (1024, 3000), (100, 7)] {
            let (most, completed) = run(size, count, |_| yield_now()).await;
            assert_eq!(most, size.min(count), "{size} of {count}");
            assert_eq!(completed, (0..count).collect::<Vec<_>>());
            let (_, completed) = run(size, count, |_| std::future::ready(())).await;
            assert_eq!(completed.len(), count, "when all complete immediately");
        }
    }

    #[tokio::test]
    async fn the_window_stays_full_behind_a_slow_operation() {
        let last = Arc::new(Semaphore::new(0));
        let release = &*last;
        let wait = |n: usize| async move {
            if n == 0 {
                // Completes after 999 others.
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

    #[tokio::test]
    async fn latencies_are_never_recorded_too_short() {
        let (mut left, mut shortest) = (2000, Duration::MAX);
        let nap = Duration::from_millis(2);
        let start = || {
            left = (left > 0).then(|| left - 1)?;
            Some(Ok(Box::pin(tokio::time::sleep(nap))))
        };
        drive(100, &mut Calls(start, |()| {}, |time| shortest = shortest.min(time))).await;
        assert!(shortest >= nap, "{shortest:?}");
    }

    #[tokio::test]
    async fn an_immediate_failure_is_reported_and_takes_no_slot() {
        let (mut n, mut failed, mut done) = (0, 0, 0);
        let start = || {
            n += 1;
            match n {
                1000.. => None,
                _ if n % 3 == 0 => Some(Err(Err(()))),
                _ => Some(Ok(Box::pin(async {
                    yield_now().await;
                    Ok(())
                }))),
            }
        };
        let end = |result: Result<(), ()>| if result.is_ok() { done += 1 } else { failed += 1 };
        drive(4, &mut Calls(start, end, |_| {})).await;
        assert_eq!((failed, done), (333, 666));
    }
}
