//! The methods that send messages.

use std::sync::Arc;

use futures_util::future::join_all;
use metaq_producer::{Message, SendError, SendHandle};

use super::SpoolingProducer;
use crate::{
    error::SpoolSendError,
    handle::{Sent, SpoolHandle},
    shared::Shared,
    storage::Pending,
};

impl SpoolingProducer {
    /// Sends a message, or spools it if it can't be sent now, and waits until it is stored or spooled.
    ///
    /// # Errors
    /// When it is neither. [`SpoolSendError::outcome`] says whether it may be stored all the same; when it is
    /// certainly not, the error gives it back.
    ///
    /// # Cancel safety
    /// Dropping the future gives the message up if it was not accepted yet. Else it is still sent or spooled,
    /// and only its outcome is lost.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # use metaq_spool::{Sent, SpoolOptions, SpoolingProducer};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # let folder = tempfile::tempdir()?;
    /// let spool = SpoolingProducer::open(producer, SpoolOptions::new(folder.path())).await?;
    /// spool.publish_topic(&orders).await?;
    /// match spool.send(Message::new(orders, "one coffee")).await? {
    ///     Sent::Stored(receipt) => println!("stored in partition {}", receipt.partition),
    ///     Sent::Spooled(id) => println!("spooled as {id}"),
    ///     _ => {}
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, message: Message) -> Result<Sent, SpoolSendError> {
        self.enqueue(message).await?.await
    }

    /// Gives a message to the spool, and returns when there is capacity for it; the handle ends with what
    /// became of it.
    ///
    /// # Errors
    /// When the message is neither sent nor spooled: it has another error than those that pass, the spool is
    /// full, or was closed.
    ///
    /// # Cancel safety
    /// Dropping this future before it is done means that the message was not accepted.
    pub async fn enqueue(&self, message: Message) -> Result<SpoolHandle, SpoolSendError> {
        let shared = self.shared();
        if !shared.is_plain || !shared.is_healthy() || shared.is_closed() {
            return Box::pin(self.enqueue_with_care(message)).await;
        }
        // The way of nearly all messages.
        match shared.producer.enqueue(message).await {
            Ok(handle) => {
                shared.count_offered();
                Ok(SpoolHandle::live(handle, Arc::clone(shared)))
            }
            Err(error) => Box::pin(self.spool(error, None)).await,
        }
    }

    async fn enqueue_with_care(&self, message: Message) -> Result<SpoolHandle, SpoolSendError> {
        let shared = self.shared();
        if shared.is_closed() {
            return refused(shared, Shared::closed(message));
        }
        if let Some(lanes) = &self.inner.lanes {
            let queued = lanes.enqueue(shared, message).await;
            return queued.or_else(|error| refused(shared, error));
        }
        let kept = shared.options.spool_unknown.then(|| message.clone());
        let accepted = if shared.is_reachable(&message) {
            shared.producer.enqueue(message).await
        } else {
            // Waits for nothing: there is no broker to wait for.
            shared.producer.try_send(message)
        };
        match accepted {
            Ok(handle) => Ok(accepted_live(shared, handle, kept)),
            Err(error) => self.spool(error, kept).await,
        }
    }

    /// Spools a message that the producer did not accept, if that is what is done with it.
    async fn spool(&self, error: SendError, kept: Option<Message>) -> Result<SpoolHandle, SpoolSendError> {
        let shared = self.shared();
        let (message, error) = match shared.to_spool(error, kept) {
            Ok(spooled) => spooled,
            Err(error) => return refused(shared, error),
        };
        // Counted before the storage counts what becomes of it, and not if it is given up before.
        let submitted = shared.storage.submit_after(message, || shared.count_offered()).await;
        writing(shared, submitted, error)
    }

    /// Sends a message if it can be handed to a connection at once, and else spools it; the handle ends with
    /// what became of it. Never waits.
    ///
    /// # Errors
    /// As for [`enqueue`](Self::enqueue), and when too much waits to be written.
    pub fn try_send(&self, message: Message) -> Result<SpoolHandle, SpoolSendError> {
        let shared = self.shared();
        if shared.is_closed() {
            return refused(shared, Shared::closed(message));
        }
        if let Some(lanes) = &self.inner.lanes {
            return lanes.try_enqueue(shared, message).or_else(|error| refused(shared, error));
        }
        let kept = shared.options.spool_unknown.then(|| message.clone());
        let error = match shared.producer.try_send(message) {
            Ok(handle) => return Ok(accepted_live(shared, handle, kept)),
            Err(error) => error,
        };
        let (message, error) = match shared.to_spool(error, kept) {
            Ok(spooled) => spooled,
            Err(error) => return refused(shared, error),
        };
        shared.count_offered();
        writing(shared, shared.storage.try_submit(message), error)
    }

    /// Sends or spools all messages, as many at a time as there is capacity for, and returns what became of
    /// them in the same order.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the messages that were accepted until then on their way.
    pub async fn send_all(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<Result<Sent, SpoolSendError>> {
        let mut handles = Vec::new();
        for message in messages {
            handles.push(self.enqueue(message).await);
        }
        // Together: what could not be sent is written together.
        let outcomes = handles.into_iter().map(|handle| async {
            match handle {
                Ok(handle) => handle.await,
                Err(error) => Err(error),
            }
        });
        join_all(outcomes).await
    }
}

/// Counts a message that the producer has, whose handle counts its end.
fn accepted_live(shared: &Arc<Shared>, handle: SendHandle, kept: Option<Message>) -> SpoolHandle {
    shared.count_offered();
    match kept {
        Some(message) => SpoolHandle::kept(handle, message, Arc::clone(shared)),
        None => SpoolHandle::live(handle, Arc::clone(shared)),
    }
}

/// The handle of a message that was counted, and that the storage has, which counts its end.
fn writing(
    shared: &Arc<Shared>,
    submitted: Result<Pending, SpoolSendError>,
    error: SendError,
) -> Result<SpoolHandle, SpoolSendError> {
    match submitted {
        Ok(pending) => Ok(SpoolHandle::writing(pending, Some(error), shared)),
        Err(failed) => {
            shared.count_failed();
            Err(failed.after(Some(error)))
        }
    }
}

/// Counts a message that was refused.
fn refused(shared: &Shared, error: SpoolSendError) -> Result<SpoolHandle, SpoolSendError> {
    shared.count_offered();
    shared.count_failed();
    Err(error)
}
