//! The thread that sends what is buffered.

use std::{
    fmt,
    future::pending,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant as StdInstant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use metaq_producer::{
    Message, Outcome, Producer, PublishError, SendError, SendErrorKind, SendReceipt, Status, Topic,
    error::PublishErrorKind,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    buffer::{Buffer, Taken},
    panics::{contain, forget},
    suppression::own_this_thread,
};

/// The name of the thread.
const NAME: &str = "metaq-tracing";

/// The number of events that are being sent at a time.
const MAX_SENDING: usize = 512;

/// The first pause after events could not be sent, and the longest one, which doubles grow to. While brokers
/// are away, the producer waits for them besides.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
        let (ending, ended) = oneshot::channel();
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            own_this_thread();
            self.work_until_shutdown(&runtime);
            // What resolves names may not return.
            runtime.shutdown_background();
            drop(ending);
        })?;
        Ok(Running { thread, ended })
    }

    fn work_until_shutdown(&self, runtime: &Runtime) {
        // Selectors and transports are code of the program's.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.run()))) {
            forget(panic);
            if self.buffer.is_closed() {
                break;
            }
            contain(|| runtime.block_on(sleep(PAUSE)));
        }
        self.buffer.close();
        self.buffer.drop_waiting();
    }

    /// Sends what comes until a shutdown is over.
    async fn run(&self) {
        let mut sending = FuturesUnordered::new();
        let mut deadline = self.deadline.clone();
        let end = async {
            // Without a guard it is over.
            let end = deadline.wait_for(Option::is_some).await.ok().and_then(|end| *end);
            self.buffer.close();
            sleep_until(end.map_or_else(Instant::now, Instant::from_std)).await;
        };
        tokio::select! {
            () = self.work(&mut sending, |taken| self.send(taken)) => {}
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
    async fn work<F>(&self, sending: &mut FuturesUnordered<F>, send: impl Fn(Taken) -> F)
    where
        F: Future<Output = Sent>,
    {
        let mut condition = Condition::default();
        let mut publishing = None;
        loop {
            if condition.may_try() {
                if !condition.is_published && publishing.is_none() {
                    publishing = Some(Box::pin(self.producer.publish_topic(&self.topic)));
                }
                while condition.is_published
                    && sending.len() < MAX_SENDING
                    && let Some(taken) = self.buffer.take()
                {
                    sending.push(send(taken));
                }
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
            let paused_until = condition.pause_until;
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
                () = pause => {
                    condition.pause_until = None;
                    true
                }
                () = self.buffer.changed.notified() => true,
            };
            if !is_open {
                return;
            }
        }
    }

    async fn send(&self, taken: Taken) -> Sent {
        let (payload, key) = taken.content();
        let mut message = Message::new(self.topic.clone(), payload);
        if let Some(attribute) = &self.attribute {
            message.set_attribute(attribute);
        }
        if let Some(key) = key {
            message = message.with_key(key);
        }
        let outcome = self.producer.send(message).await;
        (taken, outcome)
    }

    /// Counts an event that has its outcome, or has it wait again. False if the producer is closed.
    fn settle(&self, (taken, outcome): Sent, condition: &mut Condition) -> bool {
        match outcome {
            Ok(_) => {
                taken.sent();
                condition.succeeded(self);
            }
            Err(error) if error.kind() == SendErrorKind::Closed => {
                taken.dropped_at_shutdown();
                return false;
            }
            Err(error) if is_passing(&error) => {
                taken.put_back();
                condition.is_published &= error.kind() != SendErrorKind::NotPublished;
                condition.failed(self, &error);
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

/// Whether events can be sent, as far as it is known.
#[derive(Debug, Default)]
struct Condition {
    is_published: bool,
    /// Nothing is tried before.
    pause_until: Option<Instant>,
    /// The pause before that; zero after a success.
    pause: Duration,
    /// The number of events that had been dropped when a line said that events wait.
    reported: Option<u64>,
    has_lost: bool,
}

impl Condition {
    fn may_try(&self) -> bool {
        self.pause_until.is_none()
    }

    fn succeeded(&mut self, worker: &Worker) {
        self.pause = Duration::ZERO;
        self.pause_until = None;
        if let Some(before) = self.reported.take() {
            let dropped = worker.buffer.counts.full.get() - before;
            let topic = &worker.topic;
            contain(|| tracing::info!(%topic, dropped, "log events are sent again"));
        }
    }

    fn failed(&mut self, worker: &Worker, error: &dyn fmt::Display) {
        // What fails at the same time is one failure.
        if self.may_try() {
            self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
            self.pause_until = Some(Instant::now() + self.pause);
        }
        if self.reported.is_none() {
            self.reported = Some(worker.buffer.counts.full.get());
            let topic = &worker.topic;
            contain(|| tracing::warn!(%topic, %error, "log events can't be sent now, and are buffered"));
        }
    }

    fn lost(&mut self, worker: &Worker, error: &SendError) {
        if !std::mem::replace(&mut self.has_lost, true) {
            let (topic, outcome) = (&worker.topic, error.outcome().as_str());
            contain(|| {
                tracing::warn!(%topic, outcome, %error, "a log event failed; further ones are counted only");
            });
        }
    }
}
