//! The task that follows a topic: started when it is needed, and how far it has come.

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use metaq_discovery::Discovery;
use parking_lot::Mutex;
use tokio::{
    runtime::{self, Handle},
    sync::{Notify, watch},
    task::AbortHandle,
    time::sleep_until,
};

use crate::{
    PublishError, deadline,
    health::EventSender,
    route::{
        PublishObserver, RouteObserver, auto_publish::Start, follower::Follower, pool::Pool,
        topic_state::TopicState,
    },
};

/// The progress of the first publishing of a topic.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    Starting,
    Ready,
    Failed(PublishError),
}

/// The time limits of publishing a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishLimits {
    /// In all.
    pub(crate) total: Duration,
    /// Until a broker offers the topic, once the registry was read.
    pub(crate) topic: Duration,
}

/// The parts that a follower needs.
pub(crate) struct FollowerParts {
    pub(crate) discovery: Arc<dyn Discovery>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) observer: Weak<dyn RouteObserver>,
    /// Set once there is a producer.
    pub(crate) publish_observer: OnceLock<Weak<dyn PublishObserver>>,
    pub(crate) limits: PublishLimits,
    pub(crate) events: EventSender,
}

/// Keeps a task that follows a topic: started on the runtime of the caller when there is none or its runtime
/// has ended.
pub(crate) struct Followed {
    parts: Option<Arc<FollowerParts>>,
    task: Mutex<Option<Task>>,
    progress: watch::Sender<Progress>,
    start: Start,
    /// Ends the pause before the attempt.
    begin: Notify,
}

/// A task that follows a topic.
struct Task {
    handle: AbortHandle,
    runtime: runtime::Id,
    /// By the clock of the machine: that of the runtime may be paused.
    began: Instant,
}

/// The time that a task may take to report that it can't publish the topic in time.
const SLACK: Duration = Duration::from_millis(200);

impl Task {
    /// Whether it has not published its topic long after it should have failed to, so that its runtime isn't
    /// driven, and the caller is on another one.
    fn is_stuck(&self, limits: PublishLimits, pause: Duration) -> bool {
        self.began.elapsed() > limits.total.saturating_add(pause).saturating_add(SLACK)
            && Handle::try_current().is_ok_and(|runtime| runtime.id() != self.runtime)
    }
}

impl Followed {
    pub(super) fn new(parts: Arc<FollowerParts>, start: Start) -> Self {
        Self { parts: Some(parts), start, ..Self::without_parts() }
    }

    fn without_parts() -> Self {
        Self {
            parts: None,
            task: Mutex::default(),
            progress: watch::Sender::new(Progress::Starting),
            start: Start::default(),
            begin: Notify::new(),
        }
    }

    /// A topic that no task ever follows.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self::without_parts()
    }

    pub(super) fn start(&self) -> Start {
        self.start
    }

    /// Waits for the pause before the attempt, unless the program publishes the topic meanwhile.
    pub(super) async fn begin(&self) {
        if let Some(begin) = self.start.not_before {
            tokio::select! {
                () = sleep_until(begin) => {}
                () = self.begin.notified() => {}
            }
        }
    }

    /// Ends the pause before the attempt.
    pub(super) fn begin_now(&self) {
        self.begin.notify_one();
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Ready)
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Starting)
    }

    /// Why the topic could not be published, if so.
    pub(crate) fn failure(&self) -> Option<PublishError> {
        match &*self.progress.borrow() {
            Progress::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Starts the task, unless it runs; true if it did. One that publishes the topic on a runtime that isn't
    /// driven is replaced when its time is up. Outside of a runtime with timers nothing happens.
    pub(crate) fn ensure(&self, state: &Arc<TopicState>) -> bool {
        let Some(parts) = &self.parts else { return false };
        let is_stuck = |task: &Task| self.is_starting() && task.is_stuck(parts.limits, self.start.pause);
        let is_running = |task: &Option<Task>| {
            task.as_ref().is_some_and(|task| !task.handle.is_finished() && !is_stuck(task))
        };
        if is_running(&self.task.lock()) || matches!(*self.progress.borrow(), Progress::Failed(_)) {
            return false;
        }
        let Some(runtime) = deadline::runtime() else { return false };
        let follower = Follower::new(Arc::clone(state), Arc::clone(parts));
        let replaced = {
            let mut task = self.task.lock();
            if is_running(&task) {
                return false;
            }
            let handle = runtime.spawn(follower.run()).abort_handle();
            task.replace(Task { handle, runtime: runtime.id(), began: Instant::now() })
        };
        if let Some(replaced) = replaced {
            replaced.handle.abort();
        }
        if state.is_withdrawn() {
            self.stop();
        }
        true
    }

    pub(crate) fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.handle.abort();
        }
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("progress", &self.progress).finish_non_exhaustive()
    }
}
