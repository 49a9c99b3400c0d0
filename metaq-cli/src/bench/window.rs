//! So many operations in flight, all the time, in one task.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::task::yield_now;

/// How many operations share a look at the clock, since one takes as long as a tenth of a message does. It comes before the
/// first of those that start, and after the last of those that have ended: no time is told shorter than it was.
const GROUP: usize = 8;

/// What is done, and the account of what became of it.
pub(crate) trait Load {
    /// One operation.
    type Operation: Future + Unpin;

    /// Begins the next one, or says how it failed at once, or that there is none.
    fn start(&mut self) -> impl Future<Output = Option<Result<Self::Operation, OutcomeOf<Self>>>>;

    /// One has ended so; whether it is to be told how long it took.
    fn ended(&mut self, outcome: OutcomeOf<Self>) -> bool;

    /// One took so long, from before its start until its outcome was here.
    fn took(&mut self, latency: Duration);
}

pub(crate) type OutcomeOf<L> = <<L as Load>::Operation as Future>::Output;

/// Keeps `size` operations in flight. Returns when all have ended.
pub(crate) async fn drive<L: Load>(size: usize, load: &mut L) {
    let mut window = Window::new(size);
    let mut is_over = false;
    loop {
        let (mut started, mut in_group) = (Instant::now(), 0);
        while !is_over && window.in_flight() < size {
            if in_group == GROUP {
                (started, in_group) = (Instant::now(), 0);
            }
            in_group += 1;
            match load.start().await {
                Some(Ok(operation)) => window.in_order.push_back(Started { operation, started }),
                Some(Err(output)) => {
                    if load.ended(output) {
                        load.took(started.elapsed());
                    }
                    // Others have to get on, for instance whoever can let the next one succeed.
                    yield_now().await;
                    in_group = GROUP;
                }
                None => is_over = true,
            }
        }
        if window.in_flight() == 0 {
            return;
        }
        poll_fn(|context| window.poll(context, load)).await;
    }
}

/// What is in flight.
///
/// Outcomes mostly come in the order of the starts. So it is mostly enough that the first operation wakes the task, which
/// then looks at each once. One in the middle wakes it, too, as a scout: when it has ended and the first has not, those before
/// it that have not ended are put aside, and hold the others up no longer.
struct Window<H: Future> {
    in_order: VecDeque<Started<H>>,
    /// Where the scout is among them; not the first.
    scout: Option<usize>,
    aside: Vec<Started<H>>,
    /// When those were started that have ended, and of which was not told yet how long they took.
    ended: Vec<Instant>,
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
        let (in_order, ended) = (VecDeque::with_capacity(size), Vec::with_capacity(GROUP));
        Self { in_order, scout: None, aside: Vec::new(), ended }
    }

    fn in_flight(&self) -> usize {
        self.in_order.len() + self.aside.len()
    }

    /// Ready when at least one has ended. The task is woken when another one has, but for those behind the scout.
    fn poll(&mut self, context: &mut Context<'_>, load: &mut impl Load<Operation = H>) -> Poll<()> {
        let before = self.in_flight();
        self.poll_aside(context, load);
        self.poll_first(context, load);
        while self.poll_scout(context, load) {
            self.poll_first(context, load);
        }
        self.tell(load);
        if self.in_flight() < before { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes from the front what has ended.
    fn poll_first(&mut self, context: &mut Context<'_>, load: &mut impl Load<Operation = H>) {
        let mut done = 0;
        while let Some(first) = self.in_order.get_mut(done)
            && let Poll::Ready(output) = first.poll(context)
        {
            done += 1;
            let started = first.started;
            self.has_ended(started, output, load);
        }
        self.in_order.drain(..done);
        self.scout = self.scout.and_then(|scout| scout.checked_sub(done)).filter(|scout| *scout > 0);
    }

    /// Takes all up to the scout, if it has ended, and puts aside what has not; whether it had.
    fn poll_scout(&mut self, context: &mut Context<'_>, load: &mut impl Load<Operation = H>) -> bool {
        if self.in_order.len() < 2 {
            return false;
        }
        let at = *self.scout.get_or_insert(self.in_order.len() / 2);
        let scout = &mut self.in_order[at];
        let Poll::Ready(output) = scout.poll(context) else { return false };
        let started = scout.started;
        self.has_ended(started, output, load);
        let overtaken: Vec<_> = self.in_order.drain(..=at).take(at).collect();
        for mut overtaken in overtaken {
            match overtaken.poll(context) {
                Poll::Ready(output) => self.has_ended(overtaken.started, output, load),
                Poll::Pending => self.aside.push(overtaken),
            }
        }
        self.scout = None;
        true
    }

    fn poll_aside(&mut self, context: &mut Context<'_>, load: &mut impl Load<Operation = H>) {
        let mut at = 0;
        while let Some(operation) = self.aside.get_mut(at) {
            match operation.poll(context) {
                Poll::Ready(output) => {
                    let started = self.aside.swap_remove(at).started;
                    self.has_ended(started, output, load);
                }
                Poll::Pending => at += 1,
            }
        }
    }

    fn has_ended(&mut self, started: Instant, output: H::Output, load: &mut impl Load<Operation = H>) {
        if load.ended(output) {
            self.ended.push(started);
            if self.ended.len() >= GROUP {
                self.tell(load);
            }
        }
    }

    fn tell(&mut self, load: &mut impl Load<Operation = H>) {
        if !self.ended.is_empty() {
            let now = Instant::now();
            self.ended.drain(..).for_each(|started| load.took(now - started));
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

    /// Calls a function for the next operation, another with what has ended, and another with how long each took.
    struct Calls<S, E, T>(S, E, T);

    impl<O, S, E, T> Load for Calls<S, E, T>
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

        fn ended(&mut self, outcome: O::Output) -> bool {
            self.1(outcome);
            true
        }

        fn took(&mut self, latency: Duration) {
            self.2(latency);
        }
    }

    /// Drives `count` operations, each of which waits as `wait` does; returns the most that were in flight, and the results,
    /// sorted.
    async fn run<F: Future>(size: usize, count: usize, wait: impl Fn(usize) -> F) -> (usize, Vec<usize>) {
        let (in_flight, most) = (Cell::new(0), Cell::new(0));
        let (mut next, ended) = (0..count, RefCell::new(Vec::new()));
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
            ended.borrow_mut().push(n);
        };
        drive(size, &mut Calls(start, end, |_| {})).await;
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

    #[tokio::test]
    async fn times_are_never_shorter_than_they_were() {
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
    async fn what_fails_at_once_is_told_and_takes_no_place() {
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
