//! What messages are sent through, a producer or a spool, and what becomes of them.

use std::task::{Context, Poll, ready};

use futures_util::{FutureExt as _, future::BoxFuture};
use metaq_producer::{Message, Outcome, Producer, SendError, SendErrorKind, SendHandle, SendReceipt};
use metaq_spool::{Sent, SpoolHandle, SpoolId, SpoolSendError, SpoolSendErrorKind, SpoolingProducer};

use crate::report::describe_send_error;

/// What messages are sent through.
pub(super) enum Sender {
    Producer { producer: Producer, is_ordered: bool },
    Spool(SpoolingProducer),
}

/// A message that was accepted.
pub(super) enum Handle {
    Producer(SendHandle),
    Spool(SpoolHandle),
}

/// A message that is not accepted yet.
pub(super) type Offered = BoxFuture<'static, Result<Handle, Failed>>;

/// The state of a message that was handed over.
pub(super) enum HandedOver {
    /// The producer has it.
    Accepted(SendHandle),
    Waiting(Offered),
    Failed(Failed),
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

impl Sender {
    /// Hands a message over. One that is waiting has to be polled: its timeout begins then.
    #[inline]
    pub(super) fn hand_over(&self, message: Message) -> HandedOver {
        match self {
            Self::Producer { producer, is_ordered: false } => match producer.try_send(message) {
                Ok(handle) => HandedOver::Accepted(handle),
                Err(error) => match to_wait(&error) {
                    Some(message) => enqueue(producer.clone(), message),
                    None => HandedOver::Failed(Failed::Send(error)),
                },
            },
            // With an order, each message waits for the one before it.
            Self::Producer { producer, is_ordered: true } => enqueue(producer.clone(), message),
            Self::Spool(spool) => {
                let spool = spool.clone();
                let enqueued =
                    async move { spool.enqueue(message).await.map(Handle::Spool).map_err(Failed::Spool) };
                HandedOver::Waiting(enqueued.boxed())
            }
        }
    }

    /// The producer that sends the messages in the end.
    pub(super) fn producer(&self) -> &Producer {
        match self {
            Self::Producer { producer, .. } => producer,
            Self::Spool(spool) => spool.producer(),
        }
    }
}

fn enqueue(producer: Producer, message: Message) -> HandedOver {
    let enqueued = async move { producer.enqueue(message).await.map(Handle::Producer).map_err(Failed::Send) };
    HandedOver::Waiting(enqueued.boxed())
}

/// Returns the message of an error, if it was not sent because it has to wait.
fn to_wait(error: &SendError) -> Option<Message> {
    let waits = matches!(error.kind(), SendErrorKind::Full | SendErrorKind::NotConnected);
    if waits { error.message().cloned() } else { None }
}

/// Converts the outcome of a message that a producer has sent.
#[inline]
pub(super) fn acknowledged(result: Result<SendReceipt, SendError>) -> Result<Stored, Failed> {
    result.map(Stored::Acknowledged).map_err(Failed::Send)
}

impl Handle {
    /// Returns the outcome, if it is known. Otherwise the task is woken when it is.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Stored, Failed>> {
        Poll::Ready(match self {
            Self::Producer(handle) => acknowledged(ready!(handle.poll_unpin(context))),
            Self::Spool(handle) => match ready!(handle.poll_unpin(context)) {
                Ok(Sent::Stored(receipt)) => Ok(Stored::Acknowledged(receipt)),
                Ok(Sent::Spooled(id)) => Ok(Stored::Spooled(id)),
                Ok(other) => unreachable!("a message is stored or spooled, and not {other:?}"),
                Err(error) => Err(Failed::Spool(error)),
            },
        })
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
