//! Accepting messages: what is checked, counted and taken before a message is the producer's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{task::yield_now, time::Instant};

use crate::{
    Message, Outcome, SendError, SendHandle,
    deadline::{self, NotReached},
    flights::{Cargo, Millis, Offer},
    permits::Share,
    producer::Inner,
    route::TopicState,
    topics::Lookup,
};

impl Inner {
    /// Accepts a message, when there is room for it, and sends it.
    ///
    /// Nothing is awaited once it is accepted: whoever drops the future before it is done knows that it was not.
    // Not an `async fn`: it would move the message once more.
    #[expect(clippy::manual_async_fn, reason = "as said")]
    pub(crate) fn enqueue(
        &self,
        message: Message,
        timeout: Millis,
    ) -> impl Future<Output = Result<SendHandle, SendError>> + Send {
        async move {
            let started = Instant::now();
            if self.launcher.should_yield.load(Ordering::Relaxed) {
                self.launcher.should_yield.store(false, Ordering::Relaxed);
                // Else a task that sends without ever waiting would keep its connections from writing on a runtime with one
                // thread, and everywhere fill memory with what waits.
                let offered = Offered { inner: self, message: Some(&message) };
                yield_now().await;
                offered.checked();
            }
            let when_free = {
                let lookup = self.topics.lookup();
                match self.check(&message, &lookup) {
                    Ok(topic) => match self.flights().permits.try_take(message.encoded_len()) {
                        Some(share) => return self.launch(topic, message, share, started, timeout),
                        // Boxed: there are many futures of messages, and few of them wait for room.
                        None => {
                            Box::pin(self.enqueue_when_free(Arc::clone(topic), message, started, timeout))
                        }
                    },
                    Err(error) => return Err(error.with_message(message)),
                }
            };
            when_free.await
        }
    }

    /// The same for a message that there is no room for at the moment.
    async fn enqueue_when_free(
        &self,
        topic: Arc<TopicState>,
        message: Message,
        started: Instant,
        timeout: Millis,
    ) -> Result<SendHandle, SendError> {
        let until = deadline::at(started, Duration::from(timeout));
        match self.room(&message, &topic, until).await {
            Ok(share) => self.launch(&topic, message, share, started, timeout),
            Err(error) => Err(error.with_message(message)),
        }
    }

    /// Counts a message as offered, and finds its topic.
    pub(crate) fn check<'a>(
        &self,
        message: &Message,
        lookup: &'a Lookup,
    ) -> Result<&'a Arc<TopicState>, SendError> {
        let name = message.topic();
        let topic = lookup.find(name).or_else(|| lookup.find(self.config.default_topic.as_ref()?));
        let Some(topic) = topic.filter(|_| !self.closed.load(Ordering::Acquire)) else {
            self.topics.counts.unpublished.fetch_add(1, Ordering::Relaxed);
            let closed = self.closed.load(Ordering::Acquire);
            return Err(if closed { SendError::closed(name) } else { SendError::not_published(name) });
        };
        topic.counts.offered.fetch_add(1, Ordering::Relaxed);
        if message.encoded_len() > self.config.max_message_size {
            topic.counts.failed(Outcome::NotSent, None);
            return Err(SendError::too_large(name, message.encoded_len(), self.config.max_message_size));
        }
        Ok(topic)
    }

    /// Waits for room.
    async fn room(
        &self,
        message: &Message,
        topic: &TopicState,
        deadline: Instant,
    ) -> Result<Share, SendError> {
        let mut waiting = WaitingForRoom::new(topic);
        let permits = &self.flights().permits;
        let room = deadline::timeout_at(deadline, permits.take(message.encoded_len())).await;
        waiting.is_over = true;
        drop(waiting);
        let error = match room {
            Ok(Some(share)) => return Ok(share),
            Ok(None) => SendError::closed(&topic.topic),
            Err(NotReached::Elapsed) => SendError::full(&topic.topic, &permits.describe()),
            Err(NotReached::NoRuntime) => SendError::no_runtime(&topic.topic),
        };
        topic.counts.failed(Outcome::NotSent, None);
        Err(error)
    }

    /// Sends a message that has its share of the room, or keeps it until it can be sent.
    #[inline]
    fn launch(
        &self,
        topic: &Arc<TopicState>,
        message: Message,
        share: Share,
        started: Instant,
        timeout: Millis,
    ) -> Result<SendHandle, SendError> {
        let mut offer = Offer {
            cargo: Some(Cargo { message, share, attempts_before: 0, started, timeout, more: None }),
            much_waits: false,
        };
        let token = self.launcher.launch_or_park(topic, &mut offer)?;
        if offer.much_waits {
            self.launcher.should_yield.store(true, Ordering::Relaxed);
        }
        Ok(SendHandle::new(Arc::clone(&self.launcher.flights), token))
    }
}

/// Counts a message as offered and not sent if its owner goes away before it was checked.
struct Offered<'a> {
    inner: &'a Inner,
    message: Option<&'a Message>,
}

impl Offered<'_> {
    fn checked(mut self) {
        self.message = None;
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        let Some(message) = self.message else { return };
        let lookup = self.inner.topics.lookup();
        // What it says otherwise is counted already.
        if let Ok(topic) = self.inner.check(message, &lookup) {
            topic.counts.failed(Outcome::NotSent, None);
        }
    }
}

/// Counts a message as queued while it waits for room, and as not sent if its owner goes away meanwhile.
struct WaitingForRoom<'a> {
    topic: &'a TopicState,
    is_over: bool,
}

impl<'a> WaitingForRoom<'a> {
    fn new(topic: &'a TopicState) -> Self {
        topic.counts.queued.fetch_add(1, Ordering::Relaxed);
        Self { topic, is_over: false }
    }
}

impl Drop for WaitingForRoom<'_> {
    fn drop(&mut self) {
        self.topic.counts.queued.fetch_sub(1, Ordering::Relaxed);
        if !self.is_over {
            self.topic.counts.failed(Outcome::NotSent, None);
        }
    }
}
