//! Messages on their way: through a producer, or through a spool.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use metaq_producer::{Message, Outcome, Producer, SendError, SendHandle, SendReceipt};
use metaq_spool::{Sent, SpoolHandle, SpoolId, SpoolSendError, SpoolSendErrorKind, SpoolingProducer};

use crate::{input::Line, report::describe_send_error};

/// What messages are sent through.
#[derive(Clone)]
pub(super) enum Sender {
    Producer(Producer),
    Spool(SpoolingProducer),
}

/// The end of a message that is stored.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    /// By a broker.
    Acknowledged(SendReceipt),
    /// On disk.
    Spooled(SpoolId),
}

/// The end of a message that is not stored, or of which that isn't known.
#[derive(Debug)]
pub(super) enum Failed {
    Send(SendError),
    Spool(SpoolSendError),
}

/// A message whose outcome is not known yet; its output is the outcome.
pub(super) struct Sending {
    pub(super) line: u64,
    size: usize,
    /// The line, if it is to be kept until then.
    pub(super) kept: Option<Line>,
    progress: Progress,
}

enum Progress {
    /// The producer has not accepted it yet.
    Offered(BoxFuture<'static, Result<Handle, Failed>>),
    Accepted(Handle),
}

enum Handle {
    Producer(SendHandle),
    Spool(SpoolHandle),
}

/// The outcome of the message of one line.
pub(super) struct Completed {
    pub(super) line: u64,
    pub(super) size: usize,
    pub(super) kept: Option<Line>,
    pub(super) result: Result<Stored, Failed>,
}

impl Sending {
    /// The message of a line; `size` is the memory that it takes.
    pub(super) fn new(sender: &Sender, line: u64, message: Message, size: usize, kept: Option<Line>) -> Self {
        let accepted = match sender.clone() {
            Sender::Producer(producer) => {
                async move { producer.enqueue(message).await.map(Handle::Producer).map_err(Failed::Send) }
                    .boxed()
            }
            Sender::Spool(spool) => {
                async move { spool.enqueue(message).await.map(Handle::Spool).map_err(Failed::Spool) }.boxed()
            }
        };
        Self { line, size, kept, progress: Progress::Offered(accepted) }
    }
}

impl Future for Sending {
    type Output = Completed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed> {
        let result = loop {
            match &mut self.progress {
                Progress::Offered(accepted) => match ready!(accepted.as_mut().poll(context)) {
                    Ok(handle) => self.progress = Progress::Accepted(handle),
                    Err(error) => break Err(error),
                },
                Progress::Accepted(Handle::Producer(handle)) => {
                    break ready!(handle.poll_unpin(context)).map(Stored::Acknowledged).map_err(Failed::Send);
                }
                Progress::Accepted(Handle::Spool(handle)) => match ready!(handle.poll_unpin(context)) {
                    Ok(Sent::Stored(receipt)) => break Ok(Stored::Acknowledged(receipt)),
                    Ok(Sent::Spooled(id)) => break Ok(Stored::Spooled(id)),
                    Ok(other) => unreachable!("a message is stored or spooled, and not {other:?}"),
                    Err(error) => break Err(Failed::Spool(error)),
                },
            }
        };
        let (line, size, kept) = (self.line, self.size, self.kept.take());
        Poll::Ready(Completed { line, size, kept, result })
    }
}

impl Failed {
    /// The kind as a word for machines.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Send(error) => error.kind().as_str(),
            Self::Spool(error) => match (error.kind(), error.send_error()) {
                (SpoolSendErrorKind::Send, Some(error)) => error.kind().as_str(),
                (SpoolSendErrorKind::Full, _) => "spool-full",
                (SpoolSendErrorKind::Store, _) => "spool-store",
                (SpoolSendErrorKind::Closed, _) => "spool-closed",
                (kind, _) => kind.as_str(),
            },
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Send(error) => error.outcome(),
            Self::Spool(error) => error.outcome(),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Send(error) => describe_send_error(error),
            Self::Spool(error) => match (error.kind(), error.send_error()) {
                (SpoolSendErrorKind::Send, Some(error)) => describe_send_error(error),
                // The text has the error before it.
                _ => error.to_string(),
            },
        }
    }

    /// Whether the disk of the spool has failed.
    pub(super) fn is_of_disk(&self) -> bool {
        matches!(self, Self::Spool(error) if error.kind() == SpoolSendErrorKind::Store)
    }
}
