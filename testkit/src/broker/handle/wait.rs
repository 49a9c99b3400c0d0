//! Waiting for messages and for conditions.

use std::{io, pin::pin};

use tokio::time::timeout;

use super::{broker::Broker, messages::Stored};

impl Broker {
    /// Waits until a topic holds at least `count` messages, readable or not. Returns all of them, as
    /// [`messages`](Self::messages) does.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # use tokio::io::AsyncWriteExt as _;
    /// # use metaq_testkit::Broker;
    /// let broker = Broker::builder().topic("orders", 1).start_without_port()?;
    /// # let mut stream = broker.connect();
    /// # stream.write_all(b"put orders 0 10 0 1\r\none coffee").await?;
    /// // … a service sends …
    /// let stored = broker.wait_for("orders", 1).await?;
    /// assert_eq!(stored[0].payload, "one coffee");
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `TimedOut` when there are fewer messages after the [wait timeout](crate::BrokerBuilder::wait_timeout);
    /// the error text contains their number.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&self, topic: impl AsRef<str>, count: usize) -> io::Result<Vec<Stored>> {
        let topic = topic.as_ref();
        let mut stored = Vec::new();
        let waited = self.wait(|broker| {
            stored = broker.messages(topic);
            stored.len() >= count
        });
        if waited.await {
            return Ok(stored);
        }
        let hint = if self.shared.topics.accepts(topic) { "" } else { ", which it does not have" };
        Err(self.timed_out(&format!("{} of {count} messages of the topic {topic}{hint}", stored.len())))
    }

    /// Waits until `condition` holds. It is evaluated immediately, and whenever the broker has answered
    /// requests, or a connection was made or has ended.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # use metaq_testkit::Broker;
    /// let broker = Broker::builder().topic("orders", 1).start_without_port()?;
    /// let stream = broker.connect();
    /// broker.wait_until(|broker| broker.open_connections() == 1).await?;
    /// drop(stream);
    /// broker.wait_until(|broker| broker.open_connections() == 0).await?;
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `TimedOut` when it doesn't hold after the [wait timeout](crate::BrokerBuilder::wait_timeout).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_until(&self, condition: impl FnMut(&Self) -> bool) -> io::Result<()> {
        if self.wait(condition).await {
            return Ok(());
        }
        Err(self.timed_out("not come to what was waited for"))
    }

    async fn wait(&self, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let reached = async {
            loop {
                let mut notified = pin!(self.shared.activity.notified());
                // Changes after the evaluation are not missed.
                notified.as_mut().enable();
                if condition(self) {
                    return;
                }
                notified.await;
            }
        };
        timeout(self.shared.settings.wait_timeout, reached).await.is_ok()
    }

    fn timed_out(&self, state: &str) -> io::Error {
        let (id, limit) = (self.id(), self.shared.settings.wait_timeout);
        let (accepted, open) = (self.accepted_connections(), self.open_connections());
        let text = format!(
            "after {limit:?}, broker {id} has {state}; {accepted} connections were made to it, {open} are open"
        );
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}
