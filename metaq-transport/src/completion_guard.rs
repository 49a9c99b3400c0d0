//! Puts on connections that have no way of their own to tell of their ends.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use metaq_protocol::BrokerAddr;

use crate::{
    CompletionToken, Completions, Progress, TransportError, TransportErrorKind, contain::contain,
    error::LossReason, response::ResponseResult,
};

const SUBMITTED: u8 = 0;
const ACCEPTED: u8 = 1;
const DROPPED: u8 = 2;

/// Tells of the end of a put exactly once, also if the task that awaits it is dropped because its runtime ends.
pub(crate) struct CompletionGuard {
    completions: Arc<dyn Completions>,
    token: u64,
    broker: BrokerAddr,
    state: Arc<AtomicU8>,
    is_reported: bool,
}

/// Whether the task that awaits the end exists.
pub(crate) struct SpawnCheck {
    broker: BrokerAddr,
    state: Arc<AtomicU8>,
}

impl CompletionGuard {
    pub(crate) fn new(notify: CompletionToken<'_>, broker: &BrokerAddr) -> (Self, SpawnCheck) {
        let state = Arc::new(AtomicU8::new(SUBMITTED));
        let completion_guard = Self {
            completions: Arc::clone(notify.completions),
            token: notify.token,
            broker: broker.clone(),
            state: Arc::clone(&state),
            is_reported: false,
        };
        (completion_guard, SpawnCheck { broker: broker.clone(), state })
    }

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
            let error = ended(TransportErrorKind::Lost, &self.broker);
            drop(contain(|| self.completions.completed(&mut vec![(self.token, Err(error))])));
        }
    }
}

impl SpawnCheck {
    /// To be called once the task was spawned. The error when the runtime has dropped it already: nobody is told then.
    pub(crate) fn confirm(self) -> Result<(), TransportError> {
        match self.state.swap(ACCEPTED, Ordering::AcqRel) {
            DROPPED => Err(ended(TransportErrorKind::NoRuntime, &self.broker)),
            _ => Ok(()),
        }
    }
}

fn ended(kind: TransportErrorKind, broker: &BrokerAddr) -> TransportError {
    TransportError::new(kind, broker.clone())
        .with_cause(LossReason::RuntimeEnded)
        .with_progress(Progress::Written)
}
