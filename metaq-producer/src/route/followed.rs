//! The task that follows a topic: started when it is needed, and how far it has come.

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use metaq_discovery::Discovery;
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    PublishError, deadline,
    health::EventSender,
    route::{PublishObserver, RouteObserver, follower::Follower, pool::Pool, topic_state::TopicState},
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
    task: Mutex<Option<AbortHandle>>,
    progress: watch::Sender<Progress>,
}

impl Followed {
    pub(crate) fn new(parts: Arc<FollowerParts>) -> Self {
        Self { parts: Some(parts), task: Mutex::default(), progress: watch::Sender::new(Progress::Starting) }
    }

    /// A topic that no task ever follows.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self { parts: None, task: Mutex::default(), progress: watch::Sender::new(Progress::Starting) }
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

    /// Starts the task, unless it runs; true if it did. Outside of a runtime with timers nothing happens.
    pub(crate) fn ensure(&self, state: &Arc<TopicState>) -> bool {
        let Some(parts) = &self.parts else { return false };
        let is_running = |task: &Option<AbortHandle>| task.as_ref().is_some_and(|task| !task.is_finished());
        if is_running(&self.task.lock()) || matches!(*self.progress.borrow(), Progress::Failed(_)) {
            return false;
        }
        let Some(runtime) = deadline::runtime() else { return false };
        let follower = Follower::new(Arc::clone(state), Arc::clone(parts));
        {
            let mut task = self.task.lock();
            if is_running(&task) {
                return false;
            }
            *task = Some(runtime.spawn(follower.run()).abort_handle());
        }
        if state.is_withdrawn() {
            self.stop();
        }
        true
    }

    pub(crate) fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("progress", &self.progress).finish_non_exhaustive()
    }
}
