//! The messages of a transaction: how they are sent, and what their answers mean for it.

use std::sync::Arc;

use metaq_protocol::Partition;
use metaq_transport::Progress;
use tokio::time::Instant;

use super::{
    CountedMessage, NotBegun, Place, Put, State, Transaction, TransactionError, TransactionErrorKind,
    TransactionOutcome, TransactionReceipt, Unsendable, choose_on, expired, topic_of,
};
use crate::branch::{StepError, ends_connection, in_runtime, read_put};
use crate::{Message, deadline, route::topic_state::TopicState};

/// The number of messages that [`Transaction::send_all`] has in flight.
const WINDOW: usize = 256;

/// A message that was offered, and its topic.
type Offered = Result<(Arc<TopicState>, CountedMessage), Unsendable>;

impl Transaction {
    /// Sends a message as part of the transaction, and waits for the broker to take it, at most for the
    /// producer's send timeout, the beginning included where it is the first.
    ///
    /// Nothing is sent twice: unlike [`Producer::send`](crate::Producer::send) this doesn't follow the retry
    /// policy, except that the transaction begins at another broker where one can't be reached.
    ///
    /// # Errors
    /// [`TransactionError::outcome`] says whether the transaction goes on without the message: as long as the
    /// message is certainly not part of it. If that isn't certain the transaction is rolled back.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the message is part of the transaction. The next call waits
    /// for its answer first; without one, the transaction is rolled back.
    pub async fn send(&mut self, mut message: Message) -> Result<TransactionReceipt, TransactionError> {
        let offered = self.offer(&mut message);
        self.settle().await?;
        self.queue(&message, offered).await?;
        self.receipt().await
    }

    /// Sends many messages as part of the transaction without waiting for each, and returns their receipts in
    /// the same order. The broker stores them in any order. Each has the producer's send timeout.
    ///
    /// # Errors
    /// As for [`send`](Self::send), with the first error. No more messages are sent then; those before it,
    /// and up to 255 after it, may be part of the transaction.
    ///
    /// # Cancel safety
    /// As for `send`.
    pub async fn send_all(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<Vec<TransactionReceipt>, TransactionError> {
        self.settle().await?;
        let (mut receipts, mut failed) = (Vec::new(), None);
        for mut message in messages {
            if self.unanswered() >= WINDOW {
                match self.receipt().await {
                    Ok(receipt) => receipts.push(receipt),
                    Err(error) => failed = Some(error),
                }
            }
            if failed.is_none() {
                let offered = self.offer(&mut message);
                failed = self.queue(&message, offered).await.err();
            }
            if failed.is_some() {
                break;
            }
        }
        while self.unanswered() > 0 {
            match self.receipt().await {
                Ok(receipt) => receipts.push(receipt),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(receipts), Err)
    }

    fn unanswered(&self) -> usize {
        self.open().map_or(0, |open| open.puts.len())
    }

    /// Counts a message as offered, and finds its topic.
    fn offer(&self, message: &mut Message) -> Offered {
        topic_of(&self.producer.inner, message)
    }

    /// Waits for what calls before this left unanswered.
    pub(super) async fn settle(&mut self) -> Result<(), TransactionError> {
        if let State::Over(_) = self.state {
            return Err(self.refusal());
        }
        match self.begun().await {
            // Nothing was sent in it yet: it begins again.
            Ok(()) | Err(NotBegun { elsewhere: true, .. }) => {}
            Err(NotBegun { error, .. }) => return Err(error),
        }
        while self.unanswered() > 0 {
            match self.receipt().await {
                Err(error) if error.outcome() != TransactionOutcome::Open => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands a message to the connection, after `BEGIN` where it is the first.
    async fn queue(&mut self, message: &Message, offered: Offered) -> Result<(), TransactionError> {
        let deadline = deadline::after(self.producer.inner.config.send_timeout);
        in_runtime().map_err(|step| self.not_sent(step))?;
        let (topic, mut counted) = match offered {
            Ok(offered) => offered,
            Err(unfit) => {
                let error = self.placed(TransactionError::unfit(unfit, TransactionOutcome::Open));
                return Err(self.ended_by(error));
            }
        };
        let Place { partition, counts, .. } = match &self.state {
            State::New => self.begin_for(&topic, message, deadline).await?,
            State::Over(_) => return Err(self.refusal()),
            State::Open(open) if open.is_lost() => return Err(self.lost()),
            State::Open(open) => choose_on(open.broker(), &topic, message)
                .map_err(|placement_error| self.placed(placement_error.into()))?,
        };
        let State::Open(open) = &mut self.state else { return Err(self.refusal()) };
        match open.branch.put(message, partition.index, deadline).await {
            Ok(answer) => {
                counted.submitted(counts);
                open.puts.push_back(Put { partition, answer, counted });
                Ok(())
            }
            Err(step) => Err(self.not_sent(step)),
        }
    }

    /// Waits for the answer to the first message that has none. There must be one.
    async fn receipt(&mut self) -> Result<TransactionReceipt, TransactionError> {
        let State::Open(open) = &mut self.state else { return Err(self.refusal()) };
        let Some(put) = open.puts.front_mut() else { return Err(self.refusal()) };
        let outcome = (&mut put.answer).await;
        let id = put.partition.broker;
        let received_at = outcome.as_ref().map(|answer| answer.received_at);
        let received_at = received_at.unwrap_or_else(|_| Instant::now());
        let outcome = read_put(outcome);
        if let Some(put) = open.puts.pop_front() {
            put.count(outcome.as_ref().map(|_| received_at));
        }
        match outcome {
            Ok(place) => {
                let partition = Partition::new(id.0, place.partition);
                let broker = open.broker().clone();
                self.messages += 1;
                Ok(TransactionReceipt { partition, message_id: place.message_id, broker })
            }
            // It went out on another connection than that on which the transaction began.
            Err(step) if step.is_not_started() && open.is_lost() => Err(self.lost()),
            Err(step) if step.is_not_started() => {
                let error = expired(open);
                Err(self.ended_by(error))
            }
            // The message is certainly not part of it (rule T-14).
            Err(step @ StepError::Refused(..)) => {
                Err(self.placed(TransactionError::step(step, TransactionOutcome::Open)))
            }
            Err(step) => Err(self.not_sent(step)),
        }
    }

    /// A message has no proper answer. The transaction goes on if the broker can't have seen it.
    pub(super) fn not_sent(&mut self, step: StepError) -> TransactionError {
        let goes_on = match &step {
            StepError::NoAnswer(error) => error.progress() == Progress::NotWritten && !ends_connection(error),
            StepError::NoRuntime => true,
            StepError::Refused(..) | StepError::Odd(_) => false,
        };
        if goes_on {
            return self.placed(TransactionError::step(step, TransactionOutcome::Open));
        }
        self.over(step)
    }

    /// The transaction is over by this failure, and nothing of it will be stored.
    pub(super) fn over(&mut self, step: StepError) -> TransactionError {
        let error = self.placed(TransactionError::step(step, TransactionOutcome::RolledBack));
        let has_begun = self.open().is_some_and(|open| open.registration.is_some());
        let error = if has_begun && error.kind() == TransactionErrorKind::ConnectionLost {
            error.left_behind(self.options.timeout())
        } else {
            error
        };
        self.ended_by(error)
    }

    /// The producer is closed, and its transactions with it.
    pub(super) fn closed(&mut self) -> TransactionError {
        let error = self.placed(TransactionError::unfit(Unsendable::Closed, TransactionOutcome::RolledBack));
        self.ended_by(error)
    }

    /// The transaction's connection is another than that on which it began.
    pub(super) fn lost(&mut self) -> TransactionError {
        let text = "its connection was lost";
        let kind = TransactionErrorKind::ConnectionLost;
        let error = self.placed(TransactionError::new(kind, TransactionOutcome::RolledBack, text));
        let error = error.left_behind(self.options.timeout());
        self.ended_by(error)
    }

    /// Ends the transaction, unless it goes on for all of this error.
    fn ended_by(&mut self, error: TransactionError) -> TransactionError {
        if error.outcome() == TransactionOutcome::RolledBack
            && let Some(open) = self.end(error.text())
        {
            open.roll_back_later(self.options.request_timeout());
        }
        error
    }

    fn placed(&self, error: TransactionError) -> TransactionError {
        match self.place() {
            Some((id, broker)) => error.of(id, broker),
            None => error,
        }
    }

    /// The error of a step that comes too late.
    pub(super) fn refusal(&self) -> TransactionError {
        let text = match &self.state {
            State::Over(over) => format!("it is over: {}", over.text),
            _ => "it is over".to_owned(),
        };
        self.placed(TransactionError::new(TransactionErrorKind::Over, TransactionOutcome::RolledBack, text))
    }
}
