//! The messages that are offered, and what the failure handler gets of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use metaq_producer::{
    Outcome, SendError,
    failure::{FailedMessage, FailureHandler},
};
use parking_lot::Mutex;

use crate::{log::note, schedule::Simulation};

/// The messages that were offered in a run.
#[derive(Default)]
pub(crate) struct Offers {
    told: Arc<Mutex<BTreeMap<String, SendError>>>,
    /// Those that the handler has not got.
    accepted: BTreeSet<String>,
}

/// Keeps what it gets, each message once.
struct Handler(Arc<Mutex<BTreeMap<String, SendError>>>);

impl FailureHandler for Handler {
    fn message_failed(&self, FailedMessage { message, error, .. }: FailedMessage) {
        let payload = String::from_utf8(message.payload().to_vec()).unwrap();
        let before = self.0.lock().insert(payload, error);
        if let Some(before) = before {
            // A panic is contained here: the next step finds that.
            let payload = "a message is told twice".to_owned();
            self.0.lock().insert(payload, before);
        }
    }
}

impl Offers {
    pub(crate) fn handler(&self) -> impl FailureHandler + use<> {
        Handler(Arc::clone(&self.told))
    }

    /// A message was offered. The handler has one that is not accepted by then, as certainly not stored.
    pub(crate) fn offered(&mut self, payload: String, is_accepted: bool) {
        let name = payload.trim_end();
        note(format_args!("{name} is offered, and {}accepted", if is_accepted { "" } else { "not " }));
        if !is_accepted {
            let told = self.told.lock();
            let outcome = told.get(&payload).map(SendError::outcome);
            assert_eq!(outcome, Some(Outcome::NotSent), "{name} was not accepted");
        }
        self.accepted.insert(payload);
    }

    /// Those that were accepted, and that the handler has not got: when nothing is under way, they are
    /// acknowledged.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = &String> {
        self.accepted.iter()
    }
}

impl Simulation {
    /// Takes what the failure handler has got.
    pub(crate) fn take_failures(&mut self) {
        let told = std::mem::take(&mut *self.offers.told.lock());
        for (payload, error) in told {
            assert!(self.offers.accepted.remove(&payload), "{} was told of: {error}", payload.trim_end());
            self.ended(payload, Err(error));
        }
    }
}
