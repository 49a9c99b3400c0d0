//! The messages that were sent and whose outcome is not known yet.
//!
//! Messages mostly complete in the order in which they were sent. So in general only the first one needs to
//! wake the task, which then takes one outcome after the other. One in the middle, the sentinel, wakes it,
//! too: when that has completed, those before it that have not are set aside, where each wakes the task by
//! itself. Where the first and the sentinel are both at a broker that stands still, a look at all of them
//! finds the outcomes of the others, every [`LOOK_INTERVAL`].
//!
//! A message that is sent through a spool is always set aside, as its handle has to be polled before it
//! is written to disk.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use metaq_producer::{SendError, SendHandle, SendReceipt};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::sending::{Failed, Handle, Offered, Stored, acknowledged};
use crate::input::Line;

/// How often all messages are looked at: the longest time by which an outcome is reported late.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A message that was sent.
pub(super) struct Sent {
    pub(super) line: u64,
    /// Its memory.
    pub(super) size: usize,
    /// The line, if it is to be kept until the outcome.
    pub(super) kept: Option<Line>,
}

/// The outcome of a message.
pub(super) struct Completed {
    pub(super) sent: Sent,
    pub(super) result: Result<Stored, Failed>,
}

/// A message with its handle, or with what yields one.
struct Waiting<P> {
    /// `None` once it was given out.
    sent: Option<Sent>,
    progress: P,
}

enum Progress {
    Offered(Offered),
    Accepted(Handle),
}

impl Waiting<SendHandle> {
    #[inline]
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<SendReceipt, SendError>> {
        self.progress.poll_unpin(context)
    }
}

impl Future for Waiting<Progress> {
    type Output = Option<Completed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Completed>> {
        let result = loop {
            match &mut self.progress {
                Progress::Offered(accepted) => match ready!(accepted.as_mut().poll(context)) {
                    Ok(handle) => self.progress = Progress::Accepted(handle),
                    Err(error) => break Err(error),
                },
                Progress::Accepted(handle) => break ready!(handle.poll(context)),
            }
        };
        Poll::Ready(self.sent.take().map(|sent| Completed { sent, result }))
    }
}

/// The messages in flight.
#[derive(Default)]
pub(super) struct InFlight {
    in_order: VecDeque<Waiting<SendHandle>>,
    /// The index of the sentinel in `in_order`; never 0.
    sentinel: Option<usize>,
    /// Those that others have overtaken, and those that were not accepted at once.
    aside: FuturesUnordered<Waiting<Progress>>,
    /// Outcomes that were found while others were set aside.
    found: VecDeque<Completed>,
    looks: Option<Interval>,
}

impl InFlight {
    /// The number of messages.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.aside.len() + self.found.len()
    }

    /// Adds a message that the producer has accepted.
    #[inline]
    pub(super) fn accepted(&mut self, sent: Sent, handle: SendHandle) {
        self.in_order.push_back(Waiting { sent: Some(sent), progress: handle });
    }

    /// Adds a message that the producer or the spool has not accepted yet. It is offered now, so that its
    /// timeout begins.
    pub(super) fn offer(&mut self, sent: Sent, mut offered: Offered) {
        let progress = match (&mut offered).now_or_never() {
            Some(Ok(Handle::Producer(handle))) => return self.accepted(sent, handle),
            Some(Ok(handle)) => Progress::Accepted(handle),
            Some(Err(error)) => {
                return self.found.push_back(Completed { sent, result: Err(error) });
            }
            None => Progress::Offered(offered),
        };
        self.aside.push(Waiting { sent: Some(sent), progress });
    }

    /// Returns the next outcome; `None` if no message is in flight.
    ///
    /// # Cancel safety
    /// No outcome is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Completed> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Returns an outcome, if there is one. Otherwise the task is woken when there is; `None` if no message
    /// is in flight.
    #[inline]
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Completed>> {
        if let Some(completed) = self.found.pop_front() {
            return Poll::Ready(Some(completed));
        }
        if let Some(first) = self.in_order.front_mut()
            && let Poll::Ready(result) = first.poll(context)
        {
            return Poll::Ready(self.take_first(result));
        }
        self.poll_others(context)
    }

    #[inline]
    fn take_first(&mut self, result: Result<SendReceipt, SendError>) -> Option<Completed> {
        let sent = self.in_order.pop_front().and_then(|first| first.sent);
        self.sentinel = self.sentinel.map(|at| at - 1).filter(|at| *at > 0);
        sent.map(|sent| Completed { sent, result: acknowledged(result) })
    }

    fn poll_others(&mut self, context: &mut Context<'_>) -> Poll<Option<Completed>> {
        if let Poll::Ready(Some(completed)) = self.aside.poll_next_unpin(context) {
            return Poll::Ready(completed);
        }
        if self.in_order.is_empty() {
            return if self.aside.is_empty() { Poll::Ready(None) } else { Poll::Pending };
        }
        if self.in_order.len() > 1 {
            let at = *self.sentinel.get_or_insert(self.in_order.len() / 2);
            if let Poll::Ready(result) = self.in_order[at].poll(context) {
                return Poll::Ready(self.pass(at, result, context));
            }
        }
        // Those behind the sentinel, and between it and the first.
        if self.in_order.len() > 2 {
            let looks = self.looks.get_or_insert_with(|| {
                let mut looks = interval(LOOK_INTERVAL);
                looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                looks
            });
            if looks.poll_tick(context).is_ready() {
                // Has it wake the task for the next time.
                let _ = looks.poll_tick(context);
                for at in 1..self.in_order.len() {
                    if let Poll::Ready(result) = self.in_order[at].poll(context) {
                        looks.reset_immediately();
                        return Poll::Ready(self.pass(at, result, context));
                    }
                }
            }
        }
        Poll::Pending
    }

    /// Takes the message at an index, which has this outcome, and sets those before it aside that have none.
    fn pass(
        &mut self,
        at: usize,
        result: Result<SendReceipt, SendError>,
        context: &mut Context<'_>,
    ) -> Option<Completed> {
        self.sentinel = None;
        for mut before in self.in_order.drain(..at) {
            match before.poll(context) {
                Poll::Ready(result) => {
                    self.found
                        .extend(before.sent.map(|sent| Completed { sent, result: acknowledged(result) }));
                }
                Poll::Pending => {
                    let Waiting { sent, progress } = before;
                    let progress = Progress::Accepted(Handle::Producer(progress));
                    self.aside.push(Waiting { sent, progress });
                }
            }
        }
        self.take_first(result)
    }

    /// Takes all messages, without their outcomes.
    pub(super) fn take_all(&mut self) -> Vec<Sent> {
        let this = std::mem::take(self);
        let in_order = this.in_order.into_iter().filter_map(|waiting| waiting.sent);
        let aside = this.aside.into_iter().filter_map(|waiting| waiting.sent);
        let found = this.found.into_iter().map(|completed| completed.sent);
        in_order.chain(aside).chain(found).collect()
    }
}
