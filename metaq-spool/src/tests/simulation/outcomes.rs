//! What is known about messages, and what a run came to.

use std::{collections::BTreeSet, sync::Mutex};

use metaq_producer::{SendReceipt, Topic};
use tokio::time::Instant;

use crate::{ReplayListener, SpoolId};

/// What is known about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its handle is polled, since this time.
    Open(Instant),
    /// Its outcome was not seen, or it could be lost.
    Loose,
    Stored,
    Spooled(SpoolId),
    NotStored,
    Unknown,
}

/// A message that was offered.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) program: u64,
    pub(super) fate: Fate,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) stored: u64,
    pub(super) spooled: u64,
    pub(super) not_stored: u64,
    pub(super) unknown: u64,
    pub(super) loose: u64,
    pub(super) set_aside: u64,
    pub(super) dropped: u64,
    pub(super) doubled: u64,
    pub(super) maybe_duplicates: u64,
    pub(super) unknown_attempts: u64,
    pub(super) closed: u64,
    pub(super) let_go: u64,
    pub(super) kills: u64,
    pub(super) power_losses: u64,
    pub(super) lost_with_power: u64,
}

impl Totals {
    fn each(&mut self) -> [&mut u64; 15] {
        [
            &mut self.stored,
            &mut self.spooled,
            &mut self.not_stored,
            &mut self.unknown,
            &mut self.loose,
            &mut self.set_aside,
            &mut self.dropped,
            &mut self.doubled,
            &mut self.maybe_duplicates,
            &mut self.unknown_attempts,
            &mut self.closed,
            &mut self.let_go,
            &mut self.kills,
            &mut self.power_losses,
            &mut self.lost_with_power,
        ]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        self.each().into_iter().zip(other.each()).for_each(|(all, more)| *all += *more);
    }

    pub(super) fn has_all(&self) -> bool {
        self.clone().each().iter().all(|count| **count > 0)
    }
}

/// The messages that a listener was called for.
#[derive(Debug, Default)]
pub(super) struct Heard(pub(super) Mutex<BTreeSet<SpoolId>>);

impl ReplayListener for Heard {
    fn replayed(&self, id: SpoolId, _: &Topic, _: &SendReceipt) {
        self.0.lock().unwrap().insert(id);
    }
}
