//! The future of what becomes of a message.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use metaq_producer::{Message, SendError, SendHandle, SendReceipt, Topic};
use tokio::sync::{mpsc, oneshot};

use crate::{
    SpoolId,
    error::{SpoolSendError, SpoolSendErrorKind},
    shared::{Driving, Shared},
    storage::Pending,
    unsettled::Half,
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
}

/// Small, since handles of most messages have the first state alone.
enum State {
    /// On its way to a broker.
    Live(SendHandle, Arc<Shared>, Awaited),
    Rare(Box<Rare>, Awaited),
    Done,
}

/// Set when the handle was polled and the message had no outcome.
type Awaited = Option<Half>;

enum Rare {
    /// On its way to a broker, with a copy that is spooled although the message may be stored.
    Kept(SendHandle, Option<Message>, Arc<Shared>),
    /// On its way to the storage, since sending it failed so.
    Submitting(BoxFuture<'static, Result<Pending, SpoolSendError>>, Option<SendError>, Arc<Shared>),
    /// Being written by the storage, which counts it.
    Writing(BoxFuture<'static, Result<SpoolId, SpoolSendError>>, Arc<Shared>),
    /// With the task of its queue, which counts it.
    Queued(oneshot::Receiver<Result<Sent, SpoolSendError>>, Topic),
}

impl SpoolHandle {
    #[inline]
    pub(crate) fn live(handle: SendHandle, shared: Arc<Shared>) -> Self {
        Self { state: State::Live(handle, shared, None) }
    }

    /// A message whose copy is spooled if it may be stored.
    pub(crate) fn kept(handle: SendHandle, message: Message, shared: Arc<Shared>) -> Self {
        Self::rare(Rare::Kept(handle, Some(message), shared))
    }

    /// A message that is being written since sending it failed, if that was tried.
    pub(crate) fn writing(pending: Pending, error: Option<SendError>, shared: &Arc<Shared>) -> Self {
        Self::rare(Rare::writing(pending, error, Arc::clone(shared)))
    }

    pub(crate) fn queued(answer: oneshot::Receiver<Result<Sent, SpoolSendError>>, topic: Topic) -> Self {
        Self::rare(Rare::Queued(answer, topic))
    }

    fn rare(rare: Rare) -> Self {
        Self { state: State::Rare(Box::new(rare), None) }
    }
}

/// What polling a handle led to.
enum Step {
    Next(Rare),
    Done(Result<Sent, SpoolSendError>),
}

/// The step after the outcome of sending.
fn sent(outcome: Result<SendReceipt, SendError>, kept: Option<Message>, shared: &Arc<Shared>) -> Step {
    match outcome {
        Ok(receipt) => {
            shared.count_stored();
            Step::Done(Ok(Sent::Stored(receipt)))
        }
        Err(error) => match shared.to_spool(error, kept) {
            Ok((message, error)) => {
                let storage = Arc::clone(shared);
                let submitting = Box::pin(async move { storage.storage.submit(message).await });
                Step::Next(Rare::Submitting(submitting, Some(error), Arc::clone(shared)))
            }
            Err(error) => {
                shared.count_failed();
                Step::Done(Err(error))
            }
        },
    }
}

impl Rare {
    fn writing(pending: Pending, error: Option<SendError>, shared: Arc<Shared>) -> Self {
        let writing = async move { pending.outcome().await.map_err(|failed| failed.after(error)) };
        Self::Writing(Box::pin(writing), shared)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        Poll::Ready(match self {
            Self::Kept(handle, kept, shared) => sent(ready!(handle.poll_unpin(cx)), kept.take(), shared),
            Self::Submitting(submitting, error, shared) => match ready!(submitting.poll_unpin(cx)) {
                Ok(pending) => Step::Next(Self::writing(pending, error.take(), Arc::clone(shared))),
                Err(failed) => {
                    shared.count_failed();
                    Step::Done(Err(failed.after(error.take())))
                }
            },
            Self::Writing(writing, _) => Step::Done(ready!(writing.poll_unpin(cx)).map(Sent::Spooled)),
            Self::Queued(answer, topic) => {
                Step::Done(ready!(answer.poll_unpin(cx)).unwrap_or_else(|_| Err(ended_within(topic))))
            }
        })
    }
}

impl Future for SpoolHandle {
    type Output = Result<Sent, SpoolSendError>;

    /// # Panics
    /// When polled again after it was done.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.poll_state(cx);
        if polled.is_pending() {
            self.begin_awaited();
        }
        polled
    }
}

impl SpoolHandle {
    #[inline]
    fn poll_state(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, SpoolSendError>> {
        loop {
            let step = match &mut self.state {
                State::Live(handle, shared, _) => match ready!(handle.poll_unpin(cx)) {
                    Ok(receipt) => {
                        shared.count_stored();
                        Step::Done(Ok(Sent::Stored(receipt)))
                    }
                    failed => sent(failed, None, shared),
                },
                State::Rare(rare, _) => ready!(rare.poll(cx)),
                State::Done => panic!("polled after it was done"),
            };
            match step {
                Step::Next(next) => {
                    let awaited = self.awaited().and_then(|awaited| *awaited);
                    self.state = State::Rare(Box::new(next), awaited);
                }
                Step::Done(outcome) => {
                    self.end_awaited();
                    self.state = State::Done;
                    return Poll::Ready(outcome);
                }
            }
        }
    }
}

const ENDED: &str = "the tokio runtime on which the spool was opened has ended; open it again on another one";

/// The task of the message's queue has ended, with the spool or with the runtime that it ran on, and did not
/// take the message.
pub(crate) fn ended(shared: &Shared, message: Message) -> SpoolSendError {
    if shared.is_closed() {
        return Shared::closed(message);
    }
    SpoolSendError::new(SpoolSendErrorKind::Closed, ENDED, message)
}

/// That task has ended while it had the message, which may be stored or spooled.
fn ended_within(topic: &Topic) -> SpoolSendError {
    SpoolSendError::unknown(SpoolSendErrorKind::Closed, ENDED, topic)
}

impl Drop for SpoolHandle {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.state, State::Done) {
            self.abandon();
        }
    }
}

impl SpoolHandle {
    /// The shared state, unless another task takes the message to its outcome.
    fn spool(&self) -> Option<&Arc<Shared>> {
        match &self.state {
            State::Live(_, shared, _) => Some(shared),
            State::Rare(rare, _) => match &**rare {
                Rare::Kept(_, _, shared) | Rare::Submitting(_, _, shared) | Rare::Writing(_, shared) => {
                    Some(shared)
                }
                Rare::Queued(..) => None,
            },
            State::Done => None,
        }
    }

    #[inline]
    fn awaited(&mut self) -> Option<&mut Awaited> {
        match &mut self.state {
            State::Live(_, _, awaited) | State::Rare(_, awaited) => Some(awaited),
            State::Done => None,
        }
    }

    /// Counts the message as awaited, unless it is.
    #[inline]
    fn begin_awaited(&mut self) {
        if let Some(None) = self.awaited() {
            let half = self.spool().map(|shared| shared.awaited.begin());
            if let Some(awaited) = self.awaited() {
                *awaited = half;
            }
        }
    }

    /// The message has its outcome, or none is waited for any more.
    #[inline]
    fn end_awaited(&mut self) {
        if let Some(half) = self.awaited().and_then(Option::take)
            && let Some(shared) = self.spool()
        {
            shared.awaited.end(half);
        }
    }

    /// Has a task of the spool go on with the message, which is counted as before.
    #[cold]
    fn abandon(&mut self) {
        let Some(shared) = self.spool().map(Arc::clone) else { return };
        let state = std::mem::replace(&mut self.state, State::Done);
        let mut orphan = Orphan(Self { state });
        let driving = Driving::new(&shared);
        let orphan = async move {
            // Its outcome is counted, and of no interest to anybody.
            let _ = (&mut orphan.0).await;
            drop(driving);
        };
        if let Err(mpsc::error::SendError(orphan)) = shared.orphans.send(Box::pin(orphan)) {
            // Without the task only what is known by now counts.
            let _ = orphan.now_or_never();
        }
    }
}

/// A handle that a task takes to its outcome.
struct Orphan(SpoolHandle);

impl Drop for Orphan {
    /// Counts a message whose task has ended with its runtime. What is being written is counted where it is
    /// written.
    fn drop(&mut self) {
        match &self.0.state {
            State::Live(_, shared, _) => shared.count_failed(),
            State::Rare(rare, _) => match &**rare {
                Rare::Kept(_, _, shared) | Rare::Submitting(_, _, shared) => shared.count_failed(),
                Rare::Writing(..) | Rare::Queued(..) => {}
            },
            State::Done => {}
        }
        self.0.end_awaited();
        // It is not left to another task.
        self.0.state = State::Done;
    }
}

impl fmt::Debug for SpoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_done = matches!(self.state, State::Done);
        f.debug_struct("SpoolHandle").field("done", &is_done).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_small_and_can_cross_threads() {
        fn check<T: Send>() {}
        check::<SpoolHandle>();
        assert!(size_of::<SpoolHandle>() <= 32, "{}", size_of::<SpoolHandle>());
    }
}
