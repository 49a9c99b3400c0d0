//! The requests that end in one go.

use std::task::Waker;

use crate::{
    room::Room,
    slots::{Ending, Outcome, Whom},
};

/// Collects what ends in one go, so that whom it concerns is told without the lock.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) requests: usize,
    pub(crate) wakers: Vec<Waker>,
    /// The listener of all that is in `told`.
    pub(crate) listener: u8,
    pub(crate) told: Vec<(u64, Outcome)>,
    /// What is for other listeners, which is rare: a connection has one, as a rule.
    pub(crate) others: Vec<(u8, u64, Outcome)>,
}

impl Ended {
    /// One request ended; heartbeats count for no bytes.
    #[inline(always)]
    pub(crate) fn add(&mut self, room: &mut Room, ending: Ending) {
        if ending.bytes > 0 {
            self.requests += 1;
            room.free(ending.bytes);
        }
        match ending.whom {
            Whom::Nobody => {}
            Whom::Waker(waker) => self.wakers.push(waker),
            Whom::Listener { listener, token, outcome } => {
                if self.told.is_empty() {
                    self.listener = listener;
                }
                if self.listener == listener {
                    self.told.push((token, outcome));
                } else {
                    self.others.push((listener, token, outcome));
                }
            }
        }
    }
}
