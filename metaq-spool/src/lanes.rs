//! Sending in order: one task for each queue that is in use, which handles its messages one after the other.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use metaq_producer::{Message, SendError, Topic};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    Sent,
    error::{SpoolSendError, SpoolSendErrorKind},
    handle::{SpoolHandle, ended},
    record::QueueKey,
    shared::{Driving, Shared, closed},
};

/// The messages that wait for the task of a queue.
const CAPACITY: usize = 1024;

/// The time after which a task without messages ends.
const IDLE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });

/// As many topics are kept although no task may have messages of them.
const KEPT: usize = if cfg!(test) { 8 } else { 1024 };

type Answer = oneshot::Sender<Result<Sent, SpoolSendError>>;

/// A message for the task of its queue. Counted as failed when it is dropped before it is counted otherwise.
struct Job {
    message: Option<Message>,
    answer: Option<Answer>,
    is_counted: bool,
    place: Place,
    driving: Driving,
}

impl Job {
    fn answer(mut self, outcome: Result<Sent, SpoolSendError>) {
        if outcome.is_ok() && !self.is_counted {
            self.driving.shared().count_stored();
            self.is_counted = true;
        }
        if let Some(answer) = self.answer.take() {
            crate::events::contain(|| drop(answer.send(outcome)));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_counted {
            self.driving.shared().count_failed();
        }
    }
}

/// The numbers of messages of a topic that tasks have.
#[derive(Debug, Default)]
struct TopicJobs {
    /// Those that are for one partition.
    placed: AtomicU64,
    /// Those for which no partition could be chosen.
    unplaced: AtomicU64,
}

impl TopicJobs {
    fn count(&self, key: &QueueKey) -> &AtomicU64 {
        if key.partition.is_some() { &self.placed } else { &self.unplaced }
    }
}

/// The topics that tasks have messages of, or had a moment ago.
#[derive(Debug)]
struct TopicTable {
    jobs: HashMap<Topic, Arc<TopicJobs>>,
    /// The number of topics from which on those are looked for that no task has messages of.
    looks_at: usize,
}

impl Default for TopicTable {
    fn default() -> Self {
        Self { jobs: HashMap::new(), looks_at: KEPT }
    }
}

impl TopicTable {
    fn jobs(&mut self, topic: &Topic) -> Arc<TopicJobs> {
        if let Some(jobs) = self.jobs.get(topic) {
            return Arc::clone(jobs);
        }
        if self.jobs.len() >= self.looks_at {
            // Others get at them only here, under the lock.
            self.jobs.retain(|_, jobs| Arc::strong_count(jobs) > 1);
            self.looks_at = (self.jobs.len() * 2).max(KEPT);
            self.jobs.shrink_to(self.looks_at);
        }
        Arc::clone(self.jobs.entry(topic.clone()).or_default())
    }
}

/// The queue of a message, which counts for it until this is dropped.
struct Place {
    key: QueueKey,
    jobs: Arc<TopicJobs>,
}

impl Place {
    fn new(key: QueueKey, jobs: &Arc<TopicJobs>) -> Self {
        jobs.count(&key).fetch_add(1, Ordering::AcqRel);
        Self { key, jobs: Arc::clone(jobs) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.jobs.count(&self.key).fetch_sub(1, Ordering::AcqRel);
    }
}

type Senders = Arc<Mutex<HashMap<QueueKey, mpsc::Sender<Job>>>>;

/// The tasks of all queues that are in use.
pub(crate) struct Lanes {
    senders: Senders,
    topics: Mutex<TopicTable>,
    runtime: Handle,
}

impl Lanes {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { senders: Arc::default(), topics: Mutex::default(), runtime }
    }

    /// The numbers of tasks and topics.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.senders.lock().len(), self.topics.lock().jobs.len())
    }

    /// Decides on the queue of a message: that of its partition, or of the one that the selector chooses now.
    /// While there are messages for which none could be chosen, others go behind them.
    fn place(&self, shared: &Arc<Shared>, message: Message) -> (Place, Message) {
        let key = QueueKey::of(&message);
        let jobs = self.topics.lock().jobs(&key.topic);
        if key.partition.is_some() {
            return (Place::new(key, &jobs), message);
        }
        // The selector is anybody's code, and runs under no lock.
        let chosen = shared.producer.partition_for(&message).ok();
        // In this order: a message goes from a task to the storage.
        let is_first = jobs.unplaced.load(Ordering::Acquire) == 0
            && !shared.storage.common.index.find(&key).is_some_and(|queue| queue.is_in_use());
        match chosen {
            Some(partition) if is_first => {
                let key = QueueKey { partition: Some(partition), ..key };
                (Place::new(key, &jobs), message.with_partition(partition))
            }
            _ => (Place::new(key, &jobs), message),
        }
    }

    /// The sender to the task of a queue, which is started if there is none.
    fn sender(&self, shared: &Arc<Shared>, place: &Place) -> mpsc::Sender<Job> {
        let mut senders = self.senders.lock();
        if let Some(sender) = senders.get(&place.key)
            && !sender.is_closed()
        {
            return sender.clone();
        }
        let (sender, jobs) = mpsc::channel(CAPACITY);
        senders.insert(place.key.clone(), sender.clone());
        drop(senders);
        let lane = Lane {
            shared: Arc::clone(shared),
            key: place.key.clone(),
            jobs,
            senders: Arc::clone(&self.senders),
        };
        self.runtime.spawn(lane.run());
        sender
    }

    /// Gives a message to the task of its queue; waits while too many are before it.
    pub(crate) async fn enqueue(
        &self,
        shared: &Arc<Shared>,
        message: Message,
    ) -> Result<SpoolHandle, SpoolSendError> {
        let (place, message) = self.place(shared, message);
        let sender = self.sender(shared, &place);
        match sender.reserve().await {
            Ok(permit) => {
                let (job, handle) = job(shared, place, message);
                permit.send(job);
                Ok(handle)
            }
            Err(_) => Err(ended(shared, message)),
        }
    }

    /// The same without waiting.
    pub(crate) fn try_enqueue(
        &self,
        shared: &Arc<Shared>,
        message: Message,
    ) -> Result<SpoolHandle, SpoolSendError> {
        let (place, message) = self.place(shared, message);
        let sender = self.sender(shared, &place);
        match sender.try_reserve() {
            Ok(permit) => {
                let (job, handle) = job(shared, place, message);
                permit.send(job);
                Ok(handle)
            }
            Err(mpsc::error::TrySendError::Full(())) => {
                let text = "too many messages are before it in its queue; wait with send or enqueue";
                Err(SpoolSendError::new(SpoolSendErrorKind::Full, text, message))
            }
            Err(mpsc::error::TrySendError::Closed(())) => Err(ended(shared, message)),
        }
    }
}

fn job(shared: &Arc<Shared>, place: Place, message: Message) -> (Job, SpoolHandle) {
    let (answer, receiver) = oneshot::channel();
    let handle = SpoolHandle::queued(receiver, message.topic().clone());
    shared.count_offered();
    let (message, answer) = (Some(message), Some(answer));
    (Job { message, answer, is_counted: false, place, driving: Driving::new(shared) }, handle)
}

/// The task of one queue.
struct Lane {
    shared: Arc<Shared>,
    key: QueueKey,
    jobs: mpsc::Receiver<Job>,
    senders: Senders,
}

impl Lane {
    async fn run(mut self) {
        let mut closing = self.shared.closing.subscribe();
        // What is being written; the order is decided when it is handed over.
        let mut written = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = written.next(), if !written.is_empty() => {}
                job = self.jobs.recv() => {
                    let Some(job) = job else { break };
                    let mut handled = std::pin::pin!(self.handle(job));
                    let writing = loop {
                        tokio::select! {
                            biased;
                            // Those before it are not kept waiting for their outcome.
                            Some(()) = written.next(), if !written.is_empty() => {}
                            writing = &mut handled => break writing,
                        }
                    };
                    written.extend(writing);
                }
                () = tokio::time::sleep(IDLE), if written.is_empty() => {
                    if self.leave() {
                        return;
                    }
                }
                () = closed(&mut closing), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
        while written.next().await.is_some() {}
        self.leave();
    }

    /// Takes the lane out of the table if no message is on its way to it.
    fn leave(&mut self) -> bool {
        let mut senders = self.senders.lock();
        // In this order: a sender puts its message into the channel before it is dropped, and no new one is
        // made without the lock.
        if senders.get(&self.key).is_some_and(|sender| sender.strong_count() > 1) || !self.jobs.is_empty() {
            return false;
        }
        senders.remove(&self.key);
        if senders.capacity() > KEPT && senders.len() * 4 < senders.capacity() {
            senders.shrink_to(KEPT);
        }
        true
    }

    /// Sends a message, or spools it behind others or since it can't be sent; then the rest of that is
    /// returned.
    async fn handle(&self, mut job: Job) -> Option<impl Future<Output = ()> + use<>> {
        let message = job.message.take()?;
        let index = &self.shared.storage.common.index;
        let is_behind = index.find(&self.key).is_some_and(|queue| queue.is_in_use());
        // One without a partition may belong behind any message of the topic that has one.
        let may_be_behind = self.key.partition.is_none()
            && (job.place.jobs.placed.load(Ordering::Acquire) > 0 || index.holds_placed(&self.key.topic));
        let (message, error) = if is_behind || may_be_behind {
            (message, None)
        } else {
            match self.send(message).await {
                Ok(sent) => {
                    job.answer(Ok(sent));
                    return None;
                }
                Err(Ok((message, error))) => (message, Some(error)),
                Err(Err(error)) => {
                    job.answer(Err(error));
                    return None;
                }
            }
        };
        match self.shared.storage.submit(message).await {
            Ok(pending) => {
                // The storage counts what becomes of it.
                job.is_counted = true;
                Some(async move {
                    let outcome = pending.outcome().await.map(Sent::Spooled);
                    job.answer(outcome.map_err(|failed| failed.after(error)));
                })
            }
            Err(failed) => {
                job.answer(Err(failed.after(error)));
                None
            }
        }
    }

    /// Sends a message; the error has the message if it is to be spooled.
    async fn send(&self, message: Message) -> Result<Sent, Result<(Message, SendError), SpoolSendError>> {
        let shared = &self.shared;
        let kept = shared.options.spool_unknown.then(|| message.clone());
        let accepted = if shared.is_reachable(&message) {
            shared.producer.enqueue(message).await
        } else {
            shared.producer.try_send(message)
        };
        let outcome = match accepted {
            Ok(handle) => handle.await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(receipt) => Ok(Sent::Stored(receipt)),
            Err(error) => match shared.to_spool(error, kept) {
                Ok(spooled) => Err(Ok(spooled)),
                Err(error) => Err(Err(error)),
            },
        }
    }
}
