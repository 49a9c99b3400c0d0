//! The methods that send messages, wait for them, and take them back.

use std::{sync::Arc, time::Duration};

use metaq_protocol::Topic;
use tokio::time::Instant;

use super::Producer;
#[cfg(doc)]
use crate::{CloseReport, Outcome, ProducerConfig};
use crate::{
    Message, Partition, SendError, SendHandle, SendReceipt,
    send::{choice, unacknowledged::PendingMessage},
};

impl Producer {
    /// Sends a message and waits until it has its outcome, at most for the send timeout (3 s by default).
    ///
    /// It waits for capacity when too much is unacknowledged, or [too much
    /// waits](ProducerConfig::max_in_flight) for the same broker, and for a broker while none of the topic
    /// is connected. It is sent again only as [`RetryPolicy`](crate::RetryPolicy) says: by default never
    /// when it may be stored.
    ///
    /// # Errors
    /// [`SendError::outcome`] says whether the message may be stored; when it is certainly not, the error
    /// gives it back.
    ///
    /// # Cancel safety
    /// Dropping the future takes the message back if it was not handed to a connection yet; else it is still
    /// sent, and only its outcome is lost.
    ///
    /// ```
    /// # use metaq_producer::{Message, Outcome, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// match producer.send(Message::new(orders, "one coffee").with_attribute("table 7")).await {
    ///     Ok(receipt) => println!("stored in partition {} at {}", receipt.partition, receipt.offset),
    ///     Err(error) if error.outcome() == Outcome::Unknown => println!("may be stored: {error}"),
    ///     Err(error) => println!("not stored: {error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, message: Message) -> Result<SendReceipt, SendError> {
        self.inner.enqueue(message, self.inner.send_timeout).await?.that_cancels().await
    }

    /// [`send`](Self::send) with a timeout of its own.
    ///
    /// # Errors
    /// As for `send`.
    ///
    /// # Cancel safety
    /// As for `send`.
    pub async fn send_with_timeout(
        &self,
        message: Message,
        timeout: Duration,
    ) -> Result<SendReceipt, SendError> {
        self.inner.enqueue(message, timeout.into()).await?.that_cancels().await
    }

    /// Gives a message to the producer, and returns when there is capacity for it; the handle ends with its
    /// outcome. This way one task can have thousands of messages in flight. One that can't be sent at once is
    /// accepted as long as [not too much waits](ProducerConfig::max_in_flight) for the same broker.
    ///
    /// # Errors
    /// When the message can't be sent at all, or there is no capacity for it within the send timeout. Of kind
    /// [`NotConnected`](crate::SendErrorKind::NotConnected) when too many waited for a broker that is away.
    /// It was not sent then, and the error gives it back.
    ///
    /// # Cancel safety
    /// Dropping this future before it is done means that the message was not accepted. Those who wait for
    /// capacity are served in the order in which they came.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let first = producer.enqueue(Message::new(orders.clone(), "one coffee")).await?;
    /// let second = producer.enqueue(Message::new(orders, "one tea")).await?;
    /// // Both are in flight.
    /// let receipts = (first.await?, second.await?);
    /// println!("stored in {} and {}", receipts.0.partition, receipts.1.partition);
    /// # Ok(())
    /// # }
    /// ```
    // No future around another: a message would be moved once more.
    pub fn enqueue(
        &self,
        message: Message,
    ) -> impl Future<Output = Result<SendHandle, SendError>> + Send + '_ {
        self.inner.enqueue(message, self.inner.send_timeout)
    }

    /// [`enqueue`](Self::enqueue) with a timeout of its own, which is for everything until the outcome.
    ///
    /// # Errors
    /// As for `enqueue`.
    ///
    /// # Cancel safety
    /// As for `enqueue`.
    pub async fn enqueue_with_timeout(
        &self,
        message: Message,
        timeout: Duration,
    ) -> Result<SendHandle, SendError> {
        self.inner.enqueue(message, timeout.into()).await
    }

    /// Sends a message if it can be handed to a connection at once; the handle ends with its outcome. Never
    /// waits.
    ///
    /// # Errors
    /// Of kind [`Full`](crate::SendErrorKind::Full) when there is no capacity, or others wait for it, or,
    /// with [`ordered`](ProducerConfig::ordered), another message is under way in its partition; of kind
    /// [`NotConnected`](crate::SendErrorKind::NotConnected) when no broker of the topic is connected, also
    /// while it is being published by this message ([`auto_publish`](ProducerConfig::auto_publish)); and as
    /// for [`enqueue`](Self::enqueue). The error gives the message back.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, SendErrorKind, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// match producer.try_send(Message::new(orders, "one coffee")) {
    ///     Ok(handle) => println!("stored at {}", handle.await?.offset),
    ///     Err(error) if error.kind() == SendErrorKind::Full => println!("busy: {:?}", error.into_message()),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, mut message: Message) -> Result<SendHandle, SendError> {
        let inner = &self.inner;
        let started = Instant::now();
        inner.intercept(&mut message)?;
        let timeout = inner.send_timeout;
        let lookup = inner.topics.lookup();
        let published;
        let topic = match inner.check_published(&message, &lookup) {
            Ok(topic) => topic,
            Err(error) => match inner.publish(&message, error) {
                Ok(topic) => {
                    published = topic;
                    &published
                }
                Err(error) => return Err(error.with_message(message)),
            },
        };
        let share = match inner.capacity_now(&message, topic) {
            Ok(share) => share,
            Err(error) => return Err(error.with_message(message)),
        };
        let mut pending = PendingMessage { message, share, attempts_before: 0, started, timeout, rare: None };
        if inner.config.span_per_send {
            pending.begin_span(None);
        }
        let token = inner.submitter.send_now(topic, pending)?;
        Ok(SendHandle::new(Arc::clone(&inner.submitter.unacknowledged), token))
    }

    /// Sends all messages, as many at a time as there is capacity for, and returns their outcomes in the same
    /// order.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the messages that were accepted until then on their way.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let messages = ["one coffee", "one tea"].map(|order| Message::new(orders.clone(), order));
    /// for outcome in producer.send_all(messages).await {
    ///     println!("stored at {}", outcome?.offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_all(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<Result<SendReceipt, SendError>> {
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

    /// The partition that a message would go to if it were sent now: its
    /// [own](Message::with_partition), or what the topic's selector answers. Nothing is sent or counted, and
    /// interceptors don't see the message.
    ///
    /// The partition's broker may be away, if the message would wait for it. The answer binds nothing: a
    /// selector that takes partitions in turn goes on by one, and answers something else when the message is
    /// sent. Give the partition to the message by [`Message::with_partition`] to have it go there.
    ///
    /// # Errors
    /// Of kind [`NotPublished`](crate::SendErrorKind::NotPublished) or
    /// [`Closed`](crate::SendErrorKind::Closed); of kind
    /// [`NotConnected`](crate::SendErrorKind::NotConnected) when there are no partitions to choose from,
    /// because no broker is connected; of kind [`NoPartition`](crate::SendErrorKind::NoPartition) when the
    /// selector refuses the message, or panics, or chooses a partition that the topic doesn't have.
    ///
    /// ```
    /// # use metaq_producer::{Message, Partition, Producer, Topic, selector::KeyHashSelector};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer =
    /// #     builder.transport(broker.transport()).selector(KeyHashSelector::new()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let message = Message::new(orders, "one coffee").with_key("table 7");
    /// let partition = producer.partition_for(&message)?;
    /// assert_eq!(producer.send(message).await?.partition, partition);
    /// # Ok(())
    /// # }
    /// ```
    pub fn partition_for(&self, message: &Message) -> Result<Partition, SendError> {
        let lookup = self.inner.topics.lookup();
        let topic = self.inner.find(message, &lookup)?;
        topic.ensure_followed();
        choice::partition_for(topic, message)
    }

    /// Waits until all messages that were accepted before the call have their outcome, and the [failure
    /// handler](crate::ProducerBuilder::failure_handler) has returned for those that failed. Messages that
    /// are accepted meanwhile aren't waited for. Nothing is hurried by it: messages never wait for others to
    /// be sent with.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let handle = producer.enqueue(Message::new(orders, "one coffee")).await?;
    /// producer.flush().await;
    /// // It has its outcome, so this doesn't wait.
    /// handle.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&self) {
        self.inner.unacknowledged().flush(|| self.inner.expire()).await;
    }

    /// Takes the messages to `topic` back that wait, and returns those that are certainly not stored, in the
    /// order in which they were offered. Nothing else changes: the topic stays published, and new messages
    /// are accepted.
    ///
    /// A message waits while its brokers are not connected or have no capacity, before another attempt, and,
    /// with [`ordered`](ProducerConfig::ordered), for its turn. The handle of one that is taken back ends
    /// with an error of kind [`Purged`](crate::SendErrorKind::Purged), whose outcome is
    /// [`NotSent`](Outcome::NotSent) for the messages that are returned. One that an earlier attempt may have
    /// stored is [`Unknown`](Outcome::Unknown), and is not returned.
    ///
    /// These are left alone: messages in flight, that is to say handed to a connection, also one that
    /// another thread is handing over during the call; messages that wait for capacity, which are not
    /// accepted yet and may be accepted into the capacity that becomes free; messages of transactions; and
    /// those to other topics, also if they go to the same brokers by way of the [default
    /// topic](ProducerConfig::default_topic).
    ///
    /// If the producer is being closed, messages that are returned here are not in the [`CloseReport`].
    #[must_use = "the messages are taken back, and are in nobody else's hands"]
    pub fn purge(&self, topic: &Topic) -> Vec<Message> {
        self.inner.unacknowledged().purge(topic)
    }
}
