//! Accepting messages: what is checked, counted and taken before a message is the producer's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::{
    Message, Outcome, SendError, SendHandle,
    flights::{Cargo, Millis, Offer},
    permits::Share,
    producer::Inner,
    route::TopicState,
    topics::Lookup,
};

/// A message that was accepted, and how many bytes wait to be written where it goes.
pub(crate) type Accepted = (SendHandle, usize);

/// What came of a message that was to be accepted.
pub(crate) enum Acceptance {
    Accepted(Accepted),
    /// There is no room for it at the moment.
    Full(Message, Arc<TopicState>),
    Refused(SendError),
}

impl Inner {
    /// Remembers the longest timeout.
    pub(crate) fn timeout(&self, timeout: Duration) -> Millis {
        let timeout = Millis::from(timeout);
        let millis = Duration::from(timeout).as_millis() as u64;
        if millis > self.longest_timeout.load(Ordering::Relaxed) {
            self.longest_timeout.fetch_max(millis, Ordering::AcqRel);
        }
        timeout
    }

    /// Takes a message and sends it, if there is room.
    #[inline]
    pub(crate) fn accept(&self, message: Message, started: Instant, timeout: Millis) -> Acceptance {
        let lookup = self.topics.lookup();
        let topic = match self.check(&message, &lookup) {
            Ok(topic) => topic,
            Err(error) => return Acceptance::Refused(error.with_message(message)),
        };
        match self.flights().permits.try_take(message.encoded_len()) {
            Some(share) => match self.launch(topic, message, share, started, timeout) {
                Ok(accepted) => Acceptance::Accepted(accepted),
                Err(error) => Acceptance::Refused(error),
            },
            None => Acceptance::Full(message, Arc::clone(topic)),
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
    pub(crate) async fn room(
        &self,
        message: &Message,
        topic: &TopicState,
        deadline: Instant,
    ) -> Result<Share, SendError> {
        let permits = &self.flights().permits;
        let error = match timeout_at(deadline, permits.take(message.encoded_len())).await {
            Ok(Some(share)) => return Ok(share),
            Ok(None) => SendError::closed(&topic.topic),
            Err(_) => SendError::full(&topic.topic, &permits.describe()),
        };
        topic.counts.failed(Outcome::NotSent, None);
        Err(error)
    }

    #[inline]
    pub(crate) fn launch(
        &self,
        topic: &Arc<TopicState>,
        message: Message,
        share: Share,
        started: Instant,
        timeout: Millis,
    ) -> Result<Accepted, SendError> {
        let mut offer: Offer =
            Cargo { message, share, attempts_before: 0, started, timeout, more: None }.into();
        let token = self.launcher.launch_or_park(topic, &mut offer)?;
        Ok((SendHandle::new(Arc::clone(&self.launcher.flights), token), offer.waiting))
    }
}

/// Counts a message as queued while it waits for room, and as not sent if its owner goes away meanwhile.
pub(crate) struct WaitingForRoom<'a> {
    topic: &'a TopicState,
    pub(crate) is_over: bool,
}

impl<'a> WaitingForRoom<'a> {
    pub(crate) fn new(topic: &'a TopicState) -> Self {
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
