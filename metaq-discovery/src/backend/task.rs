//! Background tasks that are restarted after a panic, and after the end of the runtime on which they ran.

use std::{
    future::Future,
    panic::catch_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    DiscoveryError, DiscoveryErrorKind,
    panics::{catch, log},
};

/// The backoff after panics doubles from the first to the last.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A task that has run for this long is restarted with the initial backoff again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The Tokio runtime of the caller.
///
/// # Errors
/// When there is none, or it has no timers.
pub(crate) fn runtime() -> Result<Handle, DiscoveryError> {
    let refused = |text: &str| DiscoveryError::new(DiscoveryErrorKind::NoRuntime, text);
    let handle = Handle::try_current().map_err(|_| {
        refused("there is no Tokio runtime here; call this from a task, or within Runtime::block_on")
    })?;
    // Tokio has no other way to detect this.
    catch_unwind(|| drop(sleep(Duration::ZERO))).map_err(|_| {
        refused("the Tokio runtime has no timers; build it with enable_all, or enable_time and enable_io")
    })?;
    Ok(handle)
}

/// Runs the future that `run` returns until it completes without a panic. Calls `panicked` with the message
/// of each panic.
pub(crate) async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    mut run: impl FnMut() -> F,
    panicked: impl Fn(&str),
) {
    let mut pause = INITIAL_BACKOFF;
    loop {
        let started = Instant::now();
        let Err(panic) = catch(run()).await else { return };
        log(|| tracing::error!(task = name, panic, "background task panicked and is started again"));
        log(|| panicked(&panic));
        if started.elapsed() >= STABLE_AFTER {
            pause = INITIAL_BACKOFF;
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    }
}

/// Ensures that at most one instance of a task runs.
#[derive(Debug, Default)]
pub(crate) struct TaskSlot {
    running: watch::Sender<bool>,
}

/// Frees the slot when it is dropped: at the end of the task, or with the runtime.
#[derive(Debug)]
struct RunningGuard(watch::Sender<bool>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl TaskSlot {
    fn try_start(&self) -> Option<RunningGuard> {
        let started = self.running.send_if_modified(|running| !std::mem::replace(running, true));
        started.then(|| RunningGuard(self.running.clone()))
    }

    /// Starts the task on the caller's runtime unless it runs. The task is restarted after a panic, and when
    /// it has completed although it is still `needed`. Returns a receiver that holds whether the task runs.
    ///
    /// # Errors
    /// When the task doesn't run, and there is no runtime to start it on.
    pub(crate) fn ensure_running<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        mut run: impl FnMut() -> F + Send + 'static,
        panicked: impl Fn(&str) + Send + Sync + 'static,
        needed: impl Fn() -> bool + Send + 'static,
    ) -> Result<watch::Receiver<bool>, DiscoveryError> {
        let is_running = self.running.subscribe();
        loop {
            if *is_running.borrow() {
                return Ok(is_running);
            }
            let runtime = runtime()?;
            // Another caller was faster, but its start may have failed since.
            let Some(running) = self.try_start() else { continue };
            let slot = Self { running: self.running.clone() };
            let (mut running, has_run) = (Some(running), Arc::new(AtomicBool::new(false)));
            let runs = Arc::clone(&has_run);
            runtime.spawn(async move {
                runs.store(true, Ordering::Release);
                while let Some(guard) = running.take() {
                    supervise(name, &mut run, &panicked).await;
                    drop(guard);
                    // A caller may have relied on the task while it was about to complete.
                    if needed() {
                        running = slot.try_start();
                    }
                }
            });
            // A runtime that is shutting down drops spawned tasks. The task may also have completed by now.
            let is_started = *is_running.borrow() || has_run.load(Ordering::Acquire);
            return if is_started { Ok(is_running) } else { Err(runtime_ended()) };
        }
    }

    /// Waits until the task doesn't run.
    #[cfg(feature = "zookeeper")]
    pub(crate) async fn stopped(&self) {
        // Never an error: `self` holds the sender.
        let _ = self.running.subscribe().wait_for(|running| !running).await;
    }

    /// Whether the task runs.
    #[cfg(test)]
    pub(crate) fn is_running(&self) -> bool {
        *self.running.borrow()
    }
}

/// The error for callers that rely on a task that can't be started.
pub(crate) fn runtime_ended() -> DiscoveryError {
    let text =
        "the Tokio runtime that followed the registry has shut down; watch the topic again on another one";
    DiscoveryError::new(DiscoveryErrorKind::NoRuntime, text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn a_task_is_restarted_on_the_next_runtime() {
        let (slot, starts) = (TaskSlot::default(), Arc::new(AtomicUsize::new(0)));
        let run = || {
            let starts = Arc::clone(&starts);
            let run = move || {
                starts.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>()
            };
            slot.ensure_running("test", run, |_| {}, || true)
        };
        assert_eq!(run().unwrap_err().kind(), DiscoveryErrorKind::NoRuntime);
        for round in 1..=3 {
            block_on(async {
                drop((run().unwrap(), run().unwrap()));
                tokio::task::yield_now().await;
                assert!(slot.is_running());
            });
            assert_eq!((starts.load(Ordering::Relaxed), slot.is_running()), (round, false));
        }
    }

    /// The tasks complete immediately, and are restarted by themselves and by all other threads.
    #[test]
    fn ensure_running_succeeds_while_the_task_completes() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let (runtime, slot) = (runtime.unwrap(), TaskSlot::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _entered = runtime.enter();
                    for _ in 0..2_000 {
                        let left = AtomicUsize::new(3);
                        let needed = move || left.fetch_sub(1, Ordering::Relaxed) > 1;
                        slot.ensure_running("test", || async {}, |_| {}, needed).unwrap();
                    }
                });
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_contained_and_reported() {
        let (left, reported) = (AtomicUsize::new(3), std::cell::RefCell::new(Vec::new()));
        let run = || async {
            assert!(left.fetch_sub(1, Ordering::Relaxed) == 1, "out of order");
        };
        supervise("test", run, |panic| reported.borrow_mut().push(panic.to_owned())).await;
        assert_eq!(*reported.borrow(), ["out of order", "out of order"]);
    }

    #[test]
    fn a_runtime_without_timers_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(async { super::runtime() }).unwrap_err();
        assert!(error.to_string().contains("enable_time"), "{error}");
    }
}
