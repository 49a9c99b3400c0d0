//! The thread that sends what is buffered.
//!
//! `condition` is what it knows of brokers, with its pauses; `slots` are those of events that are being sent.

mod condition;
mod slots;

use std::{
    cell::Cell,
    future::pending,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant as StdInstant},
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use metaq_producer::{
    Message, Outcome, Producer, PublishError, SendError, SendErrorKind, SendReceipt, Status, Topic,
    error::PublishErrorKind,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    condition::Condition,
    slots::{Slot, Slots},
};
use crate::{
    buffer::{Buffer, Taken},
    panics::{contain, forget},
    suppression::own_this_thread,
};

/// The name of the thread.
const NAME: &str = "metaq-tracing";

/// The number of events that are being sent at a time, and of those besides that were delayed.
const MAX_SENDING: usize = 512;
const MAX_RETRYING: usize = 128;

/// The number of events besides that wait within the producer, while a broker of the topic is connected.
const MAX_WAITING: usize = 4096;

/// The pause after a panic.
const PAUSE: Duration = Duration::from_millis(100);

/// The time for what the producer has to do at the end, when all time is over.
const MOMENT: Duration = Duration::from_secs(1);

/// What the thread works with.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) producer: Producer,
    pub(crate) topic: Topic,
    pub(crate) attribute: Option<String>,
    pub(crate) buffer: Arc<Buffer>,
    /// The instant by which a shutdown that was asked for ends.
    pub(crate) deadline: watch::Receiver<Option<StdInstant>>,
}

/// The thread, seen from the guard.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) thread: thread::JoinHandle<()>,
    /// Ends with the thread.
    pub(crate) ended: oneshot::Receiver<()>,
}

/// The runtime of the thread. Its drop waits for nothing: what resolves names may not return, and where the
/// thread can't be started it is dropped in async code, in which a runtime that waits panics.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A send that is over.
type Sent = (Taken, Result<SendReceipt, SendError>);

impl Worker {
    /// Starts the thread, with a runtime of its own.
    pub(crate) fn start(self) -> io::Result<Running> {
        // Threads that resolve names are its own, too.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name(NAME)
            .on_thread_start(own_this_thread)
            .build()?;
        let runtime = OwnRuntime(Some(runtime));
        let (ending, ended) = oneshot::channel();
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            own_this_thread();
            if let Some(runtime) = &runtime.0 {
                self.work_until_shutdown(runtime);
            }
            drop(runtime);
            drop(ending);
        })?;
        Ok(Running { thread, ended })
    }

    fn work_until_shutdown(&self, runtime: &Runtime) {
        // Selectors and transports are code of the program's.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.run()))) {
            forget(panic);
            if self.deadline.borrow().is_some_and(|end| end <= StdInstant::now()) {
                break;
            }
            contain(|| runtime.block_on(sleep(PAUSE)));
        }
        self.buffer.close();
        self.buffer.drop_waiting();
    }

    /// Sends what comes until a shutdown is over.
    async fn run(&self) {
        let (slots, without_slot) = ([Slots::new(MAX_SENDING), Slots::new(MAX_RETRYING)], Cell::new(0));
        let mut sending = FuturesUnordered::new();
        let mut deadline = self.deadline.clone();
        let end = async {
            // Without a guard it is over.
            let end = deadline.wait_for(Option::is_some).await.ok().and_then(|end| *end);
            self.buffer.close();
            sleep_until(end.map_or_else(Instant::now, Instant::from_std)).await;
        };
        tokio::select! {
            () = self.work(&slots, &mut sending, |taken, slot| self.send(taken, slot, &without_slot)) => {}
            () = end => {}
        }
        self.buffer.close();
        let end = self.deadline.borrow().map_or_else(Instant::now, Instant::from_std);
        // Every message has its outcome then.
        self.producer.close(end.saturating_duration_since(Instant::now())).await;
        let rest = async {
            while let Some((taken, outcome)) = sending.next().await {
                match outcome {
                    Ok(_) => taken.sent(),
                    Err(error) if error.outcome() == Outcome::NotSent => taken.dropped_at_shutdown(),
                    Err(error) => taken.failed(error.outcome()),
                }
            }
        };
        let _ = timeout(MOMENT, rest).await;
        self.buffer.drop_waiting();
    }

    /// Sends what comes until the buffer is closed and empty, or the producer is closed.
    async fn work<'s, F>(
        &self,
        [first, again]: &'s [Slots; 2],
        sending: &mut FuturesUnordered<F>,
        send: impl Fn(Taken, Slot<'s>) -> F,
    ) where
        F: Future<Output = Sent>,
    {
        let mut condition = Condition::default();
        let mut publishing = None;
        loop {
            if condition.pause.is_over() {
                if !condition.is_published && publishing.is_none() {
                    publishing = Some(Box::pin(self.producer.publish_topic(&self.topic)));
                }
                while condition.is_published
                    && let Some(slot) = first.take()
                    && let Some(taken) = self.buffer.take()
                {
                    sending.push(send(taken, slot));
                }
            }
            while condition.is_published
                && condition.retry_pause.is_over()
                && let Some(slot) = again.take()
                && let Some(taken) = self.buffer.take_delayed()
            {
                sending.push(send(taken, slot));
            }
            if self.buffer.is_closed() && self.buffer.is_empty() {
                return;
            }
            let published = async {
                match &mut publishing {
                    Some(publishing) => publishing.await,
                    None => pending().await,
                }
            };
            let paused_until = condition.paused_until();
            let pause = async {
                match paused_until {
                    Some(end) => sleep_until(end).await,
                    None => pending().await,
                }
            };
            let is_open = tokio::select! {
                Some(sent) = sending.next(), if !sending.is_empty() => self.settle(sent, &mut condition),
                published = published => {
                    publishing = None;
                    self.settle_publishing(published, &mut condition)
                }
                () = pause => true,
                () = self.buffer.changed.notified() => true,
            };
            if !is_open {
                return;
            }
        }
    }

    async fn send(&self, taken: Taken, slot: Slot<'_>, without_slot: &Cell<usize>) -> Sent {
        let (payload, key) = taken.content();
        let mut message = Message::new(self.topic.clone(), payload);
        if let Some(attribute) = &self.attribute {
            message.set_attribute(attribute);
        }
        if let Some(key) = key {
            message = message.with_key(key);
        }
        let send = self.producer.send(message);
        let freed = || self.buffer.changed.notify_one();
        let outcome = slot.hold(send, without_slot, || self.waiting(), freed).await;
        (taken, outcome)
    }

    /// The number of events that wait within the producer while others can be sent.
    fn waiting(&self) -> usize {
        if !self.is_connected() {
            return 0;
        }
        let stats = self.producer.stats().now_or_never();
        let queued = stats.map_or(0, |stats| stats.messages.queued);
        usize::try_from(queued).unwrap_or(MAX_WAITING).min(MAX_WAITING)
    }

    /// Whether a broker of the topic is connected.
    fn is_connected(&self) -> bool {
        !self.producer.partitions(&self.topic).is_empty()
    }

    /// Counts an event that has its outcome, or has it wait again. False if the producer is closed.
    fn settle(&self, (taken, outcome): Sent, condition: &mut Condition) -> bool {
        match outcome {
            Ok(_) => {
                let was_delayed = taken.is_retried();
                taken.sent();
                condition.succeeded(self, was_delayed);
            }
            Err(error) if error.kind() == SendErrorKind::Closed => {
                taken.dropped_at_shutdown();
                return false;
            }
            Err(error) if is_passing(&error) => {
                condition.is_published &= error.kind() != SendErrorKind::NotPublished;
                if taken.is_retried() || self.is_connected() {
                    taken.delay();
                    condition.delayed(self, &error);
                } else {
                    taken.put_back();
                    condition.failed(self, &error);
                }
            }
            Err(error) => {
                taken.failed(error.outcome());
                condition.lost(self, &error);
            }
        }
        true
    }

    /// The same for an attempt to publish the topic.
    fn settle_publishing(&self, published: Result<(), PublishError>, condition: &mut Condition) -> bool {
        match published {
            Ok(()) => condition.is_published = true,
            Err(error) if error.kind() == PublishErrorKind::Closed => return false,
            Err(error) => condition.failed(self, &error),
        }
        true
    }
}

/// Whether what prevented an event from being sent passes, so that it is sent again. It is certainly not
/// stored.
fn is_passing(error: &SendError) -> bool {
    use SendErrorKind as Kind;
    if error.outcome() == Outcome::Unknown {
        return false;
    }
    match error.kind() {
        Kind::NotConnected | Kind::TimedOut | Kind::ConnectionLost | Kind::Full => true,
        Kind::NotPublished | Kind::NoRuntime => true,
        Kind::Rejected => {
            let passing = [Status::FORBIDDEN, Status::NOT_FOUND, Status::SERVICE_UNAVAILABLE];
            error.status().is_some_and(|status| passing.contains(&status))
        }
        _ => false,
    }
}
