//! The methods that send messages.

use std::sync::Arc;

use metaq_producer::Message;

use super::SpoolingProducer;
use crate::{
    error::SpoolSendError,
    handle::{Sent, SpoolHandle},
    shared::Shared,
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
        if shared.is_closed() {
            return refused(shared, Shared::closed(message));
        }
        if let Some(lanes) = &self.inner.lanes {
            let queued = lanes.enqueue(shared, message).await;
            return counted(shared, queued);
        }
        let is_pinned = message.partition().is_some();
        let kept = shared.options.spool_unknown.then(|| message.clone());
        let accepted = if shared.is_reachable(&message) {
            shared.producer.enqueue(message).await
        } else {
            // Waits for nothing: there is no broker to wait for.
            shared.producer.try_send(message)
        };
        let error = match accepted {
            Ok(handle) => {
                return accept(shared, SpoolHandle::live(handle, kept, is_pinned, Arc::clone(shared)));
            }
            Err(error) => error,
        };
        let (message, error) = match shared.to_spool(error, kept, is_pinned) {
            Ok(spooled) => spooled,
            Err(error) => return refused(shared, error),
        };
        match shared.storage.submit(message).await {
            Ok(pending) => accept(shared, SpoolHandle::writing(pending, Some(error), shared)),
            Err(failed) => refused(shared, failed.after(Some(error))),
        }
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
            return counted(shared, lanes.try_enqueue(shared, message));
        }
        let is_pinned = message.partition().is_some();
        let kept = shared.options.spool_unknown.then(|| message.clone());
        let error = match shared.producer.try_send(message) {
            Ok(handle) => {
                return accept(shared, SpoolHandle::live(handle, kept, is_pinned, Arc::clone(shared)));
            }
            Err(error) => error,
        };
        let (message, error) = match shared.to_spool(error, kept, is_pinned) {
            Ok(spooled) => spooled,
            Err(error) => return refused(shared, error),
        };
        match shared.storage.try_submit(message) {
            Ok(pending) => accept(shared, SpoolHandle::writing(pending, Some(error), shared)),
            Err(failed) => refused(shared, failed.after(Some(error))),
        }
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
        let mut outcomes = Vec::with_capacity(handles.len());
        for handle in handles {
            outcomes.push(match handle {
                Ok(handle) => handle.await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }
}

/// Counts a message whose handle counts its end.
fn accept(shared: &Shared, handle: SpoolHandle) -> Result<SpoolHandle, SpoolSendError> {
    shared.count_offered();
    Ok(handle)
}

/// Counts a message that was refused.
fn refused(shared: &Shared, error: SpoolSendError) -> Result<SpoolHandle, SpoolSendError> {
    shared.count_offered();
    shared.count_failed();
    Err(error)
}

/// Counts a message that the task of its queue has, or has refused.
fn counted(
    shared: &Shared,
    queued: Result<SpoolHandle, SpoolSendError>,
) -> Result<SpoolHandle, SpoolSendError> {
    match queued {
        Ok(handle) => Ok(handle),
        Err(error) => refused(shared, error),
    }
}
