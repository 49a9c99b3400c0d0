//! The reports of puts on connections that use the default implementation of `submit_put`.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use metaq_protocol::BrokerAddr;

use super::{CompletionToken, Completions};
use crate::{
    Progress, TransportError, TransportErrorKind, error::LossReason, panics::catch, response::ResponseResult,
};

const SUBMITTED: u8 = 0;
const ACCEPTED: u8 = 1;
const DROPPED: u8 = 2;

/// Reports the outcome of a put exactly once, also if the task that awaits it is dropped because its runtime
/// ends.
pub(crate) struct CompletionGuard {
    completions: Arc<dyn Completions>,
    token: u64,
    broker: BrokerAddr,
    state: Arc<AtomicU8>,
    is_reported: bool,
}

/// The submitter's side of a [`CompletionGuard`]: checks that its task was spawned.
pub(crate) struct SpawnCheck {
    broker: BrokerAddr,
    state: Arc<AtomicU8>,
}

impl CompletionGuard {
    pub(crate) fn new(notify: CompletionToken<'_>, broker: &BrokerAddr) -> (Self, SpawnCheck) {
        let state = Arc::new(AtomicU8::new(SUBMITTED));
        let guard = Self {
            completions: Arc::clone(notify.completions),
            token: notify.token,
            broker: broker.clone(),
            state: Arc::clone(&state),
            is_reported: false,
        };
        (guard, SpawnCheck { broker: broker.clone(), state })
    }

    /// Reports the outcome.
    pub(crate) fn complete(mut self, outcome: ResponseResult) {
        self.is_reported = true;
        self.completions.completed(&mut vec![(self.token, outcome)]);
    }
}

impl Drop for CompletionGuard {
    fn drop(&mut self) {
        if !mem::replace(&mut self.is_reported, true)
            && self.state.swap(DROPPED, Ordering::AcqRel) == ACCEPTED
        {
            let error = runtime_ended(TransportErrorKind::Lost, &self.broker);
            drop(catch(|| self.completions.completed(&mut vec![(self.token, Err(error))])));
        }
    }
}

impl SpawnCheck {
    /// Confirms that the put was accepted. Must be called once the task was spawned.
    ///
    /// # Errors
    /// When the runtime has dropped the task already. Nothing is reported then.
    pub(crate) fn confirm(self) -> Result<(), TransportError> {
        match self.state.swap(ACCEPTED, Ordering::AcqRel) {
            DROPPED => Err(runtime_ended(TransportErrorKind::NoRuntime, &self.broker)),
            _ => Ok(()),
        }
    }
}

fn runtime_ended(kind: TransportErrorKind, broker: &BrokerAddr) -> TransportError {
    TransportError::new(kind, broker.clone())
        .with_cause(LossReason::RuntimeEnded)
        .with_progress(Progress::Written)
}
