//! The steps of a transaction over one connection: what is asked, and how it ends.

use std::sync::Arc;

use bytes::Bytes;
use metaq_protocol::{
    Command, PutResponse, Response, Status, Token, TransactionAction, TransactionCommand, TransactionId,
};
use metaq_transport::{Connection, PendingResponse, ReceivedResponse, ResponseBody, TransportError};
use tokio::time::{Instant, timeout_at};

use crate::{Message, deadline};

/// A transaction at a broker.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) id: TransactionId,
    pub(crate) session: Token,
    /// The name of the producer, in an XA transaction.
    pub(crate) qualifier: Option<Token>,
    pub(crate) connection: Arc<dyn Connection>,
}

/// The reason why a step failed, or why its outcome is unknown.
#[derive(Debug)]
pub(crate) enum StepError {
    /// The broker answered so.
    Refused(Status, String),
    /// It answered, but what makes no sense.
    Odd(String),
    /// There is no answer.
    NoAnswer(TransportError),
    /// It was not submitted, because nothing can be waited for outside of a tokio runtime.
    NoRuntime,
}

/// Fails outside of a tokio runtime with timers, where a timer would panic.
pub(crate) fn in_runtime() -> Result<(), StepError> {
    deadline::runtime().map(|_| ()).ok_or(StepError::NoRuntime)
}

impl StepError {
    /// Whether the broker says that it has no such transaction (rules B-13 and B-22).
    pub(crate) fn is_not_started(&self) -> bool {
        matches!(self, Self::Refused(_, text) if text.contains("has not been started"))
    }
}

impl Branch {
    /// The command of a step. A timeout of 0 is none.
    pub(crate) fn command(&self, action: TransactionAction, seconds: i32) -> Result<Command, StepError> {
        let command = TransactionCommand::new(self.id.clone(), self.session.clone(), action);
        let command = command.with_timeout(seconds);
        match &self.qualifier {
            None => Ok(command.into()),
            Some(qualifier) => match command.with_qualifier(qualifier) {
                Ok(command) => Ok(command.into()),
                Err(error) => Err(StepError::Odd(error.to_string())),
            },
        }
    }

    /// Queues a step. Requests on a connection are answered in any order, so a caller that needs an order
    /// awaits the answer (protocol §1.2).
    pub(crate) async fn submit(
        &self,
        action: TransactionAction,
        seconds: i32,
        deadline: Instant,
    ) -> Result<PendingResponse, StepError> {
        in_runtime()?;
        let mut command = self.command(action, seconds)?;
        self.connection.submit_when_free(&mut command, deadline).await.map_err(StepError::NoAnswer)
    }

    /// Takes a step, and returns what the broker says to it.
    pub(crate) async fn step(
        &self,
        action: TransactionAction,
        seconds: i32,
        deadline: Instant,
    ) -> Result<Bytes, StepError> {
        read(self.submit(action, seconds, deadline).await?.await)
    }

    /// Queues a message of the transaction.
    pub(crate) async fn put(
        &self,
        message: &Message,
        partition: i32,
        deadline: Instant,
    ) -> Result<PendingResponse, StepError> {
        in_runtime()?;
        let put = message.as_put(partition).to_put().with_transaction(self.id.clone());
        self.connection.submit_when_free(&mut put.into(), deadline).await.map_err(StepError::NoAnswer)
    }

    /// Waits until the connection is ready, or can't be in time. Only for transactions that outlive a
    /// connection.
    pub(crate) async fn ready(&self, deadline: Instant) -> Result<(), StepError> {
        in_runtime()?;
        let mut state = self.connection.state();
        // The request that follows reports what is the matter.
        let _ = timeout_at(deadline, state.wait_for(|state| state.is_ready() || state.is_closed())).await;
        Ok(())
    }
}

/// The broker's answer to a step.
pub(crate) fn read(outcome: Result<ReceivedResponse, TransportError>) -> Result<Bytes, StepError> {
    match outcome.map_err(StepError::NoAnswer)?.body {
        ResponseBody::Other(Response::Boolean(said)) if said.status.is_success() => Ok(said.body),
        ResponseBody::Other(Response::Boolean(said)) => {
            Err(StepError::Refused(said.status, said.text().into_owned()))
        }
        _ => Err(StepError::Odd("the broker answered something else than asked for".to_owned())),
    }
}

/// The broker's answer to a message of the transaction. The offset is none (rule B-10).
pub(crate) fn read_put(outcome: Result<ReceivedResponse, TransportError>) -> Result<PutResponse, StepError> {
    match outcome {
        Ok(ReceivedResponse { body: ResponseBody::Stored(place), .. }) => Ok(place),
        other => PutResponse::parse(&read(other)?)
            .map_err(|error| StepError::Odd(format!("the broker reported success, but not where: {error}"))),
    }
}
