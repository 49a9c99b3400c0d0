//! Accepting messages: what is checked, counted and taken before a message is the producer's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use metaq_protocol::Topic;
use tokio::{task::yield_now, time::Instant};

use super::Inner;
use crate::{
    Message, Outcome, SendError, SendErrorKind, SendHandle,
    deadline::{self, NotReached},
    panics::with_contained_waker,
    route::{topic_state::TopicState, topics::Lookup, wait_queue::WaitReason},
    send::{
        permits::Share,
        span::SendSpan,
        submit::NotAccepted,
        unacknowledged::{Millis, PendingMessage, Submission},
        wait_limits::WaitPermit,
    },
};

impl Inner {
    /// Accepts a message, when there is capacity for it, and sends it.
    ///
    /// Nothing is awaited once the message is accepted: a future that is dropped before it is done has not
    /// accepted it.
    // Not an `async fn`: it would move the message once more.
    #[expect(clippy::manual_async_fn, reason = "as said")]
    pub(crate) fn enqueue(
        &self,
        mut message: Message,
        timeout: Millis,
    ) -> impl Future<Output = Result<SendHandle, SendError>> + Send {
        async move {
            let started = Instant::now();
            self.intercept(&mut message)?;
            if self.submitter.should_yield.load(Ordering::Relaxed) {
                self.submitter.should_yield.store(false, Ordering::Relaxed);
                // Else a task that sends without ever waiting would keep its connections from writing on a
                // runtime with one thread, and everywhere fill memory with what waits.
                let offered = Offered { inner: self, message: Some(&message) };
                yield_now().await;
                offered.checked();
            }
            let when_free = {
                let lookup = self.topics.lookup();
                match self.check_published(&message, &lookup) {
                    Ok(topic) => match self.unacknowledged().permits.try_take(message.encoded_len()) {
                        Some(share) => match self.accept(topic, message, share, started, timeout, None, None)
                        {
                            Ok(handle) => return Ok(handle),
                            Err(NotAccepted::Refused(error)) => return Err(error),
                            Err(NotAccepted::HasToWaitOutside(message, reason, span)) => {
                                Box::pin(with_contained_waker(self.enqueue_when_free(
                                    Arc::clone(topic),
                                    message,
                                    started,
                                    timeout,
                                    Some((reason, span)),
                                )))
                            }
                        },
                        // Boxed: there are many futures of messages, and few of them wait for capacity.
                        None => Box::pin(with_contained_waker(self.enqueue_when_free(
                            Arc::clone(topic),
                            message,
                            started,
                            timeout,
                            None,
                        ))),
                    },
                    Err(error) => match self.publish(&message, error) {
                        Ok(topic) => Box::pin(with_contained_waker(
                            self.enqueue_when_free(topic, message, started, timeout, None),
                        )),
                        Err(error) => return Err(error.with_message(message)),
                    },
                }
            };
            when_free.await
        }
    }

    /// The same for a message that there is no capacity for at the moment, or that isn't to have any while it
    /// waits for `reason`.
    async fn enqueue_when_free(
        &self,
        topic: Arc<TopicState>,
        mut message: Message,
        started: Instant,
        timeout: Millis,
        mut outside: Option<(WaitReason, Option<Box<SendSpan>>)>,
    ) -> Result<SendHandle, SendError> {
        let until = deadline::at(started, Duration::from(timeout));
        let mut came = None;
        loop {
            let (permit, span) = match outside {
                Some((reason, span)) => {
                    match self.wait_outside(&message, &topic, reason, &mut came, until).await {
                        Ok(permit) => (Some(permit), span),
                        Err(error) => return Err(refused(error.with_message(message), span)),
                    }
                }
                None => (None, None),
            };
            let share = match self.capacity(&message, &topic, until).await {
                Ok(share) => share,
                Err(error) => return Err(refused(error.with_message(message), span)),
            };
            match self.accept(&topic, message, share, started, timeout, permit, span) {
                Ok(handle) => return Ok(handle),
                Err(NotAccepted::Refused(error)) => return Err(error),
                Err(NotAccepted::HasToWaitOutside(back, reason, span)) => {
                    (message, outside) = (back, Some((reason, span)));
                }
            }
        }
    }

    /// Shows a message that is offered to the interceptors.
    ///
    /// # Errors
    /// When one of them panics; the error gives the message back as it was.
    #[inline]
    pub(crate) fn intercept(&self, message: &mut Message) -> Result<(), SendError> {
        let intercepted = self.unacknowledged().interceptors.before(message);
        intercepted.map_err(|text| self.not_intercepted(message, text))
    }

    #[cold]
    fn not_intercepted(&self, message: &Message, text: String) -> SendError {
        let lookup = self.topics.lookup();
        // `check` has counted its own errors.
        if let Ok(topic) = self.check(message, &lookup) {
            topic.counts.failed(Outcome::NotSent, None);
        }
        SendError::new(SendErrorKind::Interceptor, message.topic(), text).with_message(message.clone())
    }

    /// The topic whose brokers a message goes to.
    #[inline]
    pub(crate) fn find<'a>(
        &self,
        message: &Message,
        lookup: &'a Lookup,
    ) -> Result<&'a Arc<TopicState>, SendError> {
        let name = message.topic();
        let topic = lookup.find(name).or_else(|| lookup.find(self.config.default_topic.as_ref()?));
        topic.filter(|_| !self.closed.load(Ordering::Acquire)).ok_or_else(|| self.not_found(name))
    }

    #[cold]
    fn not_found(&self, name: &Topic) -> SendError {
        match self.closed.load(Ordering::Acquire) {
            true => SendError::closed(name),
            false => SendError::not_published(name),
        }
    }

    /// Counts a message as offered, and finds its topic.
    pub(crate) fn check<'a>(
        &self,
        message: &Message,
        lookup: &'a Lookup,
    ) -> Result<&'a Arc<TopicState>, SendError> {
        self.check_published(message, lookup).inspect_err(|error| self.count_unpublished(error))
    }

    /// The same, except that a message whose topic isn't published isn't counted yet:
    /// [`publish`](Self::publish) counts it.
    #[inline]
    pub(crate) fn check_published<'a>(
        &self,
        message: &Message,
        lookup: &'a Lookup,
    ) -> Result<&'a Arc<TopicState>, SendError> {
        let topic = self.find(message, lookup)?;
        self.check_size(message, topic)?;
        Ok(topic)
    }

    #[inline]
    fn check_size(&self, message: &Message, topic: &TopicState) -> Result<(), SendError> {
        topic.counts.offered.fetch_add(1, Ordering::Relaxed);
        let (size, limit) = (message.encoded_len(), self.config.max_message_size);
        if size > limit {
            topic.counts.failed(Outcome::NotSent, None);
            return Err(SendError::too_large(message.topic(), size, limit));
        }
        Ok(())
    }

    #[cold]
    fn count_unpublished(&self, error: &SendError) {
        if error.kind() != SendErrorKind::TooLarge {
            self.topics.counts.unpublished.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins to publish the topic that a message needs, if that is set and `error` says that it isn't
    /// published, and counts the message as offered.
    ///
    /// # Errors
    /// `error`, or why that can't be.
    #[cold]
    pub(crate) fn publish(&self, message: &Message, error: SendError) -> Result<Arc<TopicState>, SendError> {
        let begin = |error: SendError| match (self.config.auto_publish, error.kind()) {
            (true, SendErrorKind::NotPublished) => {
                // One that can't be sent publishes nothing.
                let (size, limit) = (message.encoded_len(), self.config.max_message_size);
                if size > limit {
                    self.topics.counts.unpublished.fetch_add(1, Ordering::Relaxed);
                    return Err(SendError::too_large(message.topic(), size, limit));
                }
                let topic = self.config.default_topic.as_ref().unwrap_or_else(|| message.topic());
                self.topics.publish_by_message(topic, self.config.max_auto_topics)
            }
            _ => Err(error),
        };
        let topic = begin(error).inspect_err(|error| self.count_unpublished(error))?;
        self.check_size(message, &topic)?;
        Ok(topic)
    }

    /// Takes capacity for a message without waiting.
    ///
    /// # Errors
    /// When there is none, or others wait for it. The message is counted as not sent then.
    #[inline]
    pub(crate) fn capacity_now(&self, message: &Message, topic: &TopicState) -> Result<Share, SendError> {
        let permits = &self.unacknowledged().permits;
        permits.try_take(message.encoded_len()).ok_or_else(|| {
            topic.counts.failed(Outcome::NotSent, None);
            // It may have been closed a moment ago, which gives no capacity to anybody.
            match self.closed.load(Ordering::Acquire) {
                true => SendError::closed(&topic.topic),
                false => SendError::full(&topic.topic, &permits.describe()),
            }
        })
    }

    /// Waits for capacity.
    async fn capacity(
        &self,
        message: &Message,
        topic: &TopicState,
        deadline: Instant,
    ) -> Result<Share, SendError> {
        let permits = &self.unacknowledged().permits;
        let share = async {
            permits.take(message.encoded_len()).await.ok_or_else(|| SendError::closed(&topic.topic))
        };
        let too_late = || SendError::full(&topic.topic, &permits.describe());
        counted_as_queued(topic, deadline, share, too_late).await
    }

    /// Waits without capacity until the message may wait within, for `reason`. `came` is its place in the
    /// queue, kept across calls.
    async fn wait_outside(
        &self,
        message: &Message,
        topic: &TopicState,
        reason: WaitReason,
        came: &mut Option<u64>,
        deadline: Instant,
    ) -> Result<WaitPermit, SendError> {
        let unacknowledged = self.unacknowledged();
        let share = unacknowledged.permits.share(message.encoded_len());
        let permit = async {
            tokio::select! {
                permit = unacknowledged.wait_limits.enter_when_free(&topic.waits, reason, share, came) => {
                    permit.ok_or_else(|| SendError::closed(&topic.topic))
                }
                // There is nothing to wait for any more.
                () = topic.withdrawn() => Err(self.submitter.withdrawn(topic)),
            }
        };
        counted_as_queued(topic, deadline, permit, || reason.error(topic)).await
    }

    /// Sends a message that has its share of the capacity, or keeps it until it can be sent. A message that
    /// is to wait outside has no share any more.
    // Inlined always: most messages have neither a permit nor a span, and nothing of these is left then.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a struct of them would be copied")]
    pub(super) fn accept(
        &self,
        topic: &Arc<TopicState>,
        message: Message,
        share: Share,
        started: Instant,
        timeout: Millis,
        permit: Option<WaitPermit>,
        span: Option<Box<SendSpan>>,
    ) -> Result<SendHandle, NotAccepted> {
        // Written out: a function that returned it would have the message copied twice, the second time by
        // loads that span two stores, which wait for both. The same if its address were taken before it is
        // here.
        let mut submission = Submission {
            pending: Some(PendingMessage {
                message,
                share,
                attempts_before: 0,
                started,
                timeout,
                rare: None,
            }),
            should_yield: false,
            permit,
        };
        if self.config.span_per_send
            && let Some(pending) = &mut submission.pending
        {
            pending.begin_span(span);
        }
        let token = self.submitter.send_or_wait(topic, &mut submission)?;
        if submission.should_yield {
            self.submitter.should_yield.store(true, Ordering::Relaxed);
        }
        Ok(SendHandle::new(Arc::clone(&self.submitter.unacknowledged), token))
    }
}

/// Ends the span of a message that was not accepted.
fn refused(error: SendError, span: Option<Box<SendSpan>>) -> SendError {
    if let Some(mut span) = span {
        span.end_refused();
    }
    error
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
        // `check` has counted its own errors.
        if let Ok(topic) = self.inner.check(message, &lookup) {
            topic.counts.failed(Outcome::NotSent, None);
        }
    }
}

/// Waits until the deadline. Meanwhile the message counts as queued, and as not sent if this fails or its
/// owner goes away.
async fn counted_as_queued<T>(
    topic: &TopicState,
    deadline: Instant,
    wait: impl Future<Output = Result<T, SendError>>,
    too_late: impl FnOnce() -> SendError,
) -> Result<T, SendError> {
    let mut queued = Queued::new(topic);
    let ended = match deadline::timeout_at(deadline, wait).await {
        Ok(ended) => ended,
        Err(NotReached::Elapsed) => Err(too_late()),
        Err(NotReached::NoRuntime) => Err(SendError::no_runtime(&topic.topic)),
    };
    queued.is_not_sent = ended.is_err();
    ended
}

/// Counts a message as queued, and afterwards as not sent unless `is_not_sent` was reset.
struct Queued<'a> {
    topic: &'a TopicState,
    is_not_sent: bool,
}

impl<'a> Queued<'a> {
    fn new(topic: &'a TopicState) -> Self {
        topic.counts.queued.fetch_add(1, Ordering::Relaxed);
        Self { topic, is_not_sent: true }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.topic.counts.queued.fetch_sub(1, Ordering::Relaxed);
        if self.is_not_sent {
            self.topic.counts.failed(Outcome::NotSent, None);
        }
    }
}
