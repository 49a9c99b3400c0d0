//! Accepting messages: what is checked, counted and taken before a message is the producer's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, timeout_at},
};

use crate::{
    Message, Outcome, SendError, SendHandle,
    flights::{Cargo, Millis, Offer},
    permits::Share,
    producer::Inner,
    route::TopicState,
    topics::Lookup,
};

impl Inner {
    /// The timeout in short; remembers the longest one.
    pub(crate) fn timeout(&self, timeout: Duration) -> Millis {
        let timeout = Millis::from(timeout);
        self.longest_timeout.fetch_max(Duration::from(timeout).as_millis() as u64, Ordering::AcqRel);
        timeout
    }

    /// Accepts a message, when there is room for it, and sends it.
    pub(crate) async fn enqueue(&self, message: Message, timeout: Millis) -> Result<SendHandle, SendError> {
        let started = Instant::now();
        let mut much_waits = false;
        let at_once = {
            let lookup = self.topics.lookup();
            match self.check(&message, &lookup) {
                Ok(topic) => match self.flights().permits.try_take(message.encoded_len()) {
                    Some(share) => {
                        Ok(self.launch(topic, message, share, started, timeout, &mut much_waits)?)
                    }
                    // Boxed: there are many futures of messages, and few of them wait for room.
                    None => {
                        Err(Box::pin(self.enqueue_when_free(Arc::clone(topic), message, started, timeout)))
                    }
                },
                Err(error) => return Err(error.with_message(message)),
            }
        };
        let handle = match at_once {
            Ok(handle) => handle,
            Err(when_free) => when_free.await?,
        };
        if much_waits {
            // Else a task that sends without ever waiting would keep its connections from writing on a runtime with one
            // thread, and everywhere fill memory with what waits.
            yield_now().await;
        }
        Ok(handle)
    }

    /// The same for a message that there is no room for at the moment.
    async fn enqueue_when_free(
        &self,
        topic: Arc<TopicState>,
        message: Message,
        started: Instant,
        timeout: Millis,
    ) -> Result<SendHandle, SendError> {
        match self.room(&message, &topic, started + timeout.into()).await {
            Ok(share) => self.launch(&topic, message, share, started, timeout, &mut false),
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
        let room = timeout_at(deadline, permits.take(message.encoded_len())).await;
        waiting.is_over = true;
        drop(waiting);
        let error = match room {
            Ok(Some(share)) => return Ok(share),
            Ok(None) => SendError::closed(&topic.topic),
            Err(_) => SendError::full(&topic.topic, &permits.describe()),
        };
        topic.counts.failed(Outcome::NotSent, None);
        Err(error)
    }

    /// Sends a message that has its share of the room, or keeps it until it can be sent. Says whether so much waits where it
    /// goes that it is worth a write, too.
    #[inline]
    fn launch(
        &self,
        topic: &Arc<TopicState>,
        message: Message,
        share: Share,
        started: Instant,
        timeout: Millis,
        much_waits: &mut bool,
    ) -> Result<SendHandle, SendError> {
        let mut offer = Offer {
            cargo: Some(Cargo { message, share, attempts_before: 0, started, timeout, more: None }),
            much_waits: false,
        };
        let token = self.launcher.launch_or_park(topic, &mut offer)?;
        *much_waits = offer.much_waits;
        Ok(SendHandle::new(Arc::clone(&self.launcher.flights), token))
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
