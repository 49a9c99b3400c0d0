//! The future of what becomes of a message.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::FutureExt as _;
use metaq_producer::{Message, SendError, SendHandle, SendReceipt, Topic};
use tokio::sync::{mpsc, oneshot};

use crate::{
    SpoolId,
    error::{SpoolSendError, SpoolSendErrorKind},
    shared::{Driving, Shared},
    storage::Pending,
};

/// What became of a message that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sent {
    /// A broker has stored it.
    Stored(SendReceipt),
    /// It is on disk, and is sent when its broker is back.
    Spooled(SpoolId),
}

/// Ends with what became of a message that was accepted: stored, spooled, or neither, and then why.
///
/// The message belongs to the spool: it is sent, spooled if that fails, and counted, whether the handle is
/// polled or dropped. One that is kept and never polled is not spooled until one of both happens.
///
/// # Cancel safety
/// Dropping the handle loses the outcome, nothing else.
#[must_use = "the outcome of the message is lost without it"]
pub struct SpoolHandle {
    state: State,
    /// Set when a task of the spool takes it to its outcome.
    is_orphan: bool,
}

type Submitting = Pin<Box<dyn Future<Output = Result<Pending, SpoolSendError>> + Send>>;
type Writing = Pin<Box<dyn Future<Output = Result<SpoolId, SpoolSendError>> + Send>>;

enum State {
    /// On its way to a broker. A copy is kept when it is spooled although it may be stored.
    Live {
        handle: SendHandle,
        kept: Option<Message>,
        is_pinned: bool,
        shared: Arc<Shared>,
    },
    /// On its way to the storage, since sending it failed so.
    Submitting {
        submitting: Submitting,
        error: Option<SendError>,
        shared: Arc<Shared>,
    },
    /// Being written by the storage, which counts it.
    Writing {
        writing: Writing,
        shared: Arc<Shared>,
    },
    /// With the task of its queue, which counts it.
    Queued {
        answer: oneshot::Receiver<Result<Sent, SpoolSendError>>,
        topic: Topic,
    },
    Done,
}

impl SpoolHandle {
    fn new(state: State) -> Self {
        Self { state, is_orphan: false }
    }

    pub(crate) fn live(
        handle: SendHandle,
        kept: Option<Message>,
        is_pinned: bool,
        shared: Arc<Shared>,
    ) -> Self {
        Self::new(State::Live { handle, kept, is_pinned, shared })
    }

    /// A message that is being written since sending it failed, if that was tried.
    pub(crate) fn writing(pending: Pending, error: Option<SendError>, shared: &Arc<Shared>) -> Self {
        Self::new(State::writing(pending, error, Arc::clone(shared)))
    }

    pub(crate) fn queued(answer: oneshot::Receiver<Result<Sent, SpoolSendError>>, topic: Topic) -> Self {
        Self::new(State::Queued { answer, topic })
    }
}

impl State {
    fn writing(pending: Pending, error: Option<SendError>, shared: Arc<Shared>) -> Self {
        let writing = async move { pending.outcome().await.map_err(|failed| failed.after(error)) };
        Self::Writing { writing: Box::pin(writing), shared }
    }

    /// Begins to spool a message after this error, if that is what is done with it.
    fn after(
        error: SendError,
        kept: Option<Message>,
        is_pinned: bool,
        shared: Arc<Shared>,
    ) -> Result<Self, SpoolSendError> {
        let spooled = shared.to_spool(error, kept, is_pinned);
        let (message, error) = spooled.inspect_err(|_| shared.count_failed())?;
        let storage = Arc::clone(&shared);
        let submitting = Box::pin(async move { storage.storage.submit(message).await });
        Ok(Self::Submitting { submitting, error: Some(error), shared })
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        Poll::Ready(match self {
            Self::Live { handle, kept, is_pinned, shared } => match ready!(handle.poll_unpin(cx)) {
                Ok(receipt) => {
                    shared.count_stored();
                    Step::Done(Ok(Sent::Stored(receipt)))
                }
                Err(error) => {
                    let next = Self::after(error, kept.take(), *is_pinned, Arc::clone(shared));
                    next.map_or_else(|error| Step::Done(Err(error)), Step::Next)
                }
            },
            Self::Submitting { submitting, error, shared } => match ready!(submitting.poll_unpin(cx)) {
                Ok(pending) => Step::Next(Self::writing(pending, error.take(), Arc::clone(shared))),
                Err(failed) => {
                    shared.count_failed();
                    Step::Done(Err(failed.after(error.take())))
                }
            },
            Self::Writing { writing, .. } => Step::Done(ready!(writing.poll_unpin(cx)).map(Sent::Spooled)),
            Self::Queued { answer, topic } => {
                Step::Done(ready!(answer.poll_unpin(cx)).unwrap_or_else(|_| Err(ended(topic))))
            }
            Self::Done => panic!("polled after it was done"),
        })
    }
}

/// What polling a state led to.
enum Step {
    Next(State),
    Done(Result<Sent, SpoolSendError>),
}

impl Future for SpoolHandle {
    type Output = Result<Sent, SpoolSendError>;

    /// # Panics
    /// When polled again after it was done.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match ready!(self.state.poll_once(cx)) {
                Step::Next(state) => self.state = state,
                Step::Done(outcome) => {
                    self.state = State::Done;
                    return Poll::Ready(outcome);
                }
            }
        }
    }
}

/// The task of the message's queue has ended with the runtime that it ran on.
pub(crate) fn ended(topic: &Topic) -> SpoolSendError {
    let text = "the tokio runtime on which the spool was opened has ended; open it again on another one";
    SpoolSendError::without_message(SpoolSendErrorKind::Closed, text, topic)
}

impl Drop for SpoolHandle {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Done);
        let shared = match &state {
            State::Live { shared, .. } | State::Submitting { shared, .. } | State::Writing { shared, .. } => {
                Arc::clone(shared)
            }
            State::Queued { .. } | State::Done => return,
        };
        if self.is_orphan {
            // The runtime has ended. What is being written is counted where it is written.
            if !matches!(state, State::Writing { .. }) {
                shared.count_failed();
            }
            return;
        }
        let (orphan, driving) = (Self { state, is_orphan: true }, Driving::new(&shared));
        let orphan = async move {
            // Its outcome is counted, and of no interest to anybody.
            let _ = orphan.await;
            drop(driving);
        };
        if let Err(mpsc::error::SendError(orphan)) = shared.orphans.send(Box::pin(orphan)) {
            // Without the task only what is known by now counts.
            let _ = orphan.now_or_never();
        }
    }
}

impl fmt::Debug for SpoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Live { .. } => "live",
            State::Submitting { .. } => "submitting",
            State::Writing { .. } => "writing",
            State::Queued { .. } => "queued",
            State::Done => "done",
        };
        f.debug_struct("SpoolHandle").field("state", &state).finish_non_exhaustive()
    }
}
