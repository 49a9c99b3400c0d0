//! Sending at a rate, whatever becomes of the messages before.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering, mpsc},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use metaq_producer::SendHandle;
use tokio::sync::Notify;

use super::{Benchmark, closed_loop::Outcome, figures::Tally};

/// The shortest pause between two wake-ups of the sending task.
const MIN_PAUSE: Duration = Duration::from_micros(50);

/// The most messages that are sent before completions are looked at.
const BATCH: usize = 64;

/// A message in flight, and the time at which it was due.
struct Timed {
    due: Instant,
    handle: SendHandle,
}

impl Future for Timed {
    type Output = (Instant, Outcome);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let due = self.due;
        Pin::new(&mut self.handle).poll(context).map(|outcome| (due, outcome))
    }
}

/// A thread that wakes the sending task whenever a message is due, since the timers of the runtime have a
/// resolution of a millisecond. It ends when this is dropped.
struct Pacer {
    due: Arc<Notify>,
    _stop: mpsc::Sender<()>,
}

impl Pacer {
    fn start(pause: Duration) -> io::Result<Self> {
        let due = Arc::new(Notify::new());
        let (stop, stopped) = mpsc::channel();
        let waked = Arc::clone(&due);
        thread::Builder::new().name("pacer".to_owned()).spawn(move || {
            let mut next = Instant::now();
            loop {
                next = (next + pause).max(Instant::now());
                let wait = next.saturating_duration_since(Instant::now());
                if stopped.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
                waked.notify_one();
            }
        })?;
        Ok(Self { due, _stop: stop })
    }
}

/// Sends `messages` messages, `rate` each second. Latencies count from when each was due.
///
/// # Errors
/// When no thread can be started.
pub(super) async fn send(
    benchmark: &Benchmark,
    messages: u64,
    rate: f64,
    tally: &mut Tally,
) -> io::Result<()> {
    let interval = Duration::from_secs_f64(1.0 / rate);
    // Rare messages are waited for in portions, so that a signal is seen.
    let pacer = Pacer::start(interval.clamp(MIN_PAUSE, Duration::from_millis(100)))?;
    let due_time = |number: u64| Duration::try_from_secs_f64(number as f64 / rate).unwrap_or(Duration::MAX);
    let mut sending = FuturesUnordered::<Timed>::new();
    let (started, mut sent) = (Instant::now(), 0);
    let mut completed = benchmark.progress.completed.load(Ordering::Relaxed);
    loop {
        let is_over = sent >= messages || benchmark.progress.is_stopped.load(Ordering::Relaxed);
        if is_over && sending.is_empty() {
            return Ok(());
        }
        let elapsed = started.elapsed();
        let mut batch = 0;
        while !is_over
            && batch < BATCH
            && sent < messages
            && sending.len() < benchmark.in_flight
            && due_time(sent) <= elapsed
        {
            let due = started + due_time(sent);
            let message = benchmark.message(sent);
            tally.sent_late(due.elapsed());
            (sent, batch) = (sent + 1, batch + 1);
            match benchmark.producer.enqueue(message).await {
                Ok(handle) => sending.push(Timed { due, handle }),
                Err(error) => {
                    completed += 1;
                    tally.failed(error);
                }
            }
        }
        let mut complete = |(due, outcome): (Instant, Outcome)| {
            completed += 1;
            match outcome {
                Ok(_) => tally.acknowledged(due.elapsed()),
                Err(error) => tally.failed(error),
            }
        };
        let more_is_due = !is_over && sending.len() < benchmark.in_flight && batch == BATCH;
        tokio::select! {
            biased;
            Some(done) = sending.next(), if !sending.is_empty() => complete(done),
            () = tokio::task::yield_now(), if more_is_due => {}
            () = pacer.due.notified(), if !more_is_due => {}
        }
        benchmark.progress.completed.store(completed, Ordering::Relaxed);
    }
}
