//! Offering a message: without waiting, and without an error.

use tokio::time::Instant;

use super::{Inner, Producer};
use crate::{Message, Outcome, SendError, SendHandle, send::submit::NotAccepted};
#[cfg(doc)]
use crate::{ProducerConfig, failure::FailureHandler};

impl Producer {
    /// Gives a message to the producer for callers that must neither wait nor fail: what can't be taken or
    /// sent goes to the [failure handler](crate::ProducerBuilder::failure_handler), and not to the caller.
    /// True if the message was accepted; the handler may get it later all the same.
    ///
    /// A message that can't be sent at once is accepted as with [`enqueue`](Self::enqueue): it waits for its
    /// broker, its turn or another attempt within the [`send_timeout`](ProducerConfig::send_timeout), as long
    /// as [not too much waits](ProducerConfig::max_in_flight) for the same broker. Where `enqueue` would wait
    /// for capacity, the handler gets the message with an error of kind
    /// [`Full`](crate::SendErrorKind::Full), or [`NotConnected`](crate::SendErrorKind::NotConnected) when its
    /// broker is away.
    ///
    /// The handler gets each message that is not acknowledged once, also those that are waiting when the
    /// producer is [closed](Self::close) or dropped, which are in the [`CloseReport`](crate::CloseReport) as
    /// well; but not those that [`purge`](Self::purge) returns. Without a handler failures are
    /// [counted](Self::stats) only. [`FailureHandler`] says where it is called.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic, failure::DropCounter};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let builder = builder.transport(broker.transport());
    /// # let orders: Topic = "orders".parse()?;
    /// let dropped = DropCounter::new();
    /// let producer = builder.failure_handler(dropped.clone()).build()?;
    /// producer.publish_topic(&orders).await?;
    /// for n in 0..100 {
    ///     producer.offer(Message::new(orders.clone(), format!("coffee {n}")));
    /// }
    /// producer.flush().await;
    /// assert_eq!(dropped.total() + producer.stats().await.messages.acknowledged, 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn offer(&self, message: Message) -> bool {
        match self.inner.offer(message) {
            Ok(handle) => {
                handle.give_to_failure_handler();
                true
            }
            Err(error) => {
                self.inner.unacknowledged().failures.deliver_refused(error);
                false
            }
        }
    }
}

impl Inner {
    fn offer(&self, mut message: Message) -> Result<SendHandle, SendError> {
        let started = Instant::now();
        self.intercept(&mut message)?;
        let lookup = self.topics.lookup();
        let published;
        let topic = match self.check_published(&message, &lookup) {
            Ok(topic) => topic,
            Err(error) => match self.publish(&message, error) {
                Ok(topic) => {
                    published = topic;
                    &published
                }
                Err(error) => return Err(error.with_message(message)),
            },
        };
        let share = match self.capacity_now(&message, topic) {
            Ok(share) => share,
            Err(error) => return Err(error.with_message(message)),
        };
        match self.accept(topic, message, share, started, self.send_timeout, None, None) {
            Ok(handle) => Ok(handle),
            Err(NotAccepted::Refused(error)) => Err(error),
            Err(NotAccepted::HasToWaitOutside(message, reason, mut span)) => {
                topic.counts.failed(Outcome::NotSent, None);
                span.iter_mut().for_each(|span| span.end_refused());
                Err(reason.refusal(topic).with_message(message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ProducerConfig, failure::DropCounter};

    #[tokio::test]
    async fn a_message_purged_as_it_is_accepted_reaches_the_purger_alone() {
        let dropped = DropCounter::new();
        let config = ProducerConfig { auto_publish: true, ..ProducerConfig::default() };
        // Nothing listens there.
        let builder = Producer::builder().broker("meta://127.0.0.1:1".parse().unwrap()).config(config);
        let producer = builder.failure_handler(dropped.clone()).build().unwrap();
        let message = || Message::new("t".parse().unwrap(), "x");
        let handle = producer.inner.offer(message()).unwrap();
        assert_eq!(producer.purge(message().topic()), [message()]);
        handle.give_to_failure_handler();
        assert_eq!(dropped.total(), 0);
    }
}
