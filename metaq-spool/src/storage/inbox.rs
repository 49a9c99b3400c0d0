//! The requests to the writer.

use std::{collections::VecDeque, io, sync::Arc};

use parking_lot::{Condvar, Mutex};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};

use super::index::Queue;
use crate::{SpoolId, events::contain, store::Limit};

/// What the writer is asked for.
pub(crate) enum Request {
    Append(Append),
    Finish(Arc<Queue>, Vec<Finished>),
    Place(Vec<Placed>),
    Read(Arc<Queue>, u64, Limit, oneshot::Sender<io::Result<Stored>>),
    /// Commits what came before.
    Flush(oneshot::Sender<()>),
}

/// A message to be stored.
pub(crate) struct Append {
    pub(crate) queue: Arc<Queue>,
    pub(crate) row: Vec<u8>,
    /// The slots of the inbox that it takes.
    pub(crate) slots: u32,
    pub(crate) answer: oneshot::Sender<Result<SpoolId, String>>,
}

/// A message that is not to be replayed again.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) number: u64,
    /// The length of its row.
    pub(crate) bytes: u64,
    pub(crate) fate: Fate,
}

#[derive(Debug)]
pub(crate) enum Fate {
    Replayed,
    /// The reason, the number of attempts, and the message's row.
    SetAside {
        reason: String,
        attempts: u32,
        row: Vec<u8>,
    },
}

/// A message that goes to another queue, since its partition is known now.
pub(crate) struct Placed {
    pub(crate) from: Arc<Queue>,
    pub(crate) number: u64,
    /// The length of its row in that queue.
    pub(crate) bytes: u64,
    pub(crate) to: Arc<Queue>,
    /// Its row there.
    pub(crate) row: Vec<u8>,
}

/// Messages of a queue, with their numbers.
pub(crate) type Stored = Vec<(u64, Vec<u8>)>;

/// The bytes that one slot stands for.
const SLOT: usize = 1024;

/// The slots for messages that wait to be written.
const SLOTS: u32 = 16 << 10;

/// A queue of requests. Messages take slots, which bound its memory; the other requests are few.
pub(crate) struct Inbox {
    requests: Mutex<State>,
    filled: Condvar,
    /// The same for a writer that is a task.
    #[cfg(test)]
    filled_for_task: tokio::sync::Notify,
    slots: Semaphore,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    /// All senders of requests are gone.
    is_closed: bool,
    waits: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            filled: Condvar::new(),
            #[cfg(test)]
            filled_for_task: tokio::sync::Notify::new(),
            slots: Semaphore::new(SLOTS as usize),
        }
    }
}

impl Inbox {
    /// The slots that a row takes.
    pub(crate) fn slots_of(row: &[u8]) -> u32 {
        u32::try_from(row.len() / SLOT + 1).unwrap_or(SLOTS).min(SLOTS)
    }

    /// Waits for slots; false when the inbox was closed.
    pub(crate) async fn take_slots(&self, count: u32) -> bool {
        self.slots.acquire_many(count).await.map(|permit| permit.forget()).is_ok()
    }

    /// Takes slots if as many are free.
    pub(crate) fn try_take_slots(&self, count: u32) -> bool {
        self.slots.try_acquire_many(count).map(|permit| permit.forget()).is_ok()
    }

    pub(crate) fn give_slots(&self, count: usize) {
        self.slots.add_permits(count);
    }

    /// Adds a request; gives it back when the inbox was closed.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut state = self.requests.lock();
        if state.is_closed {
            return Err(request);
        }
        state.requests.push_back(request);
        let waits = std::mem::replace(&mut state.waits, false);
        drop(state);
        if waits {
            self.filled.notify_one();
        }
        #[cfg(test)]
        self.filled_for_task.notify_one();
        Ok(())
    }

    /// All requests, in the order in which they came; waits for one, until `deadline` if there is one. None
    /// when the inbox is closed and empty.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Option<VecDeque<Request>> {
        let mut state = self.requests.lock();
        while state.requests.is_empty() {
            if state.is_closed {
                return None;
            }
            state.waits = true;
            match deadline {
                Some(deadline) => {
                    if self.filled.wait_until(&mut state, deadline.into_std()).timed_out() {
                        break;
                    }
                }
                None => self.filled.wait(&mut state),
            }
        }
        state.waits = false;
        Some(std::mem::take(&mut state.requests))
    }

    /// Refuses new requests. Those that came before are still handled.
    pub(crate) fn close(&self) {
        // Those who wait are woken, which is anybody's code.
        contain(|| self.slots.close());
        let mut state = self.requests.lock();
        state.is_closed = true;
        drop(state);
        self.filled.notify_one();
        #[cfg(test)]
        self.filled_for_task.notify_one();
    }

    /// The same as [`take`](Self::take) for a writer that is a task.
    #[cfg(test)]
    pub(crate) async fn take_on_task(&self, deadline: Option<Instant>) -> Option<VecDeque<Request>> {
        loop {
            let filled = self.filled_for_task.notified();
            {
                let mut state = self.requests.lock();
                if !state.requests.is_empty() {
                    return Some(std::mem::take(&mut state.requests));
                }
                if state.is_closed {
                    return None;
                }
            }
            match deadline {
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, filled).await.is_err() {
                        return Some(VecDeque::new());
                    }
                }
                None => filled.await,
            }
        }
    }

    /// Drops what was not handled, and returns the number of messages in it: the writer has ended, whatever
    /// the reason.
    pub(crate) fn end(&self) -> u64 {
        self.close();
        let mut state = self.requests.lock();
        let rest = std::mem::take(&mut state.requests);
        drop(state);
        let messages = rest.iter().filter(|request| matches!(request, Request::Append(_))).count();
        for request in rest {
            contain(|| match request {
                Request::Append(append) => _ = append.answer.send(Err("its thread has ended".to_owned())),
                other => drop(other),
            });
        }
        messages as u64
    }

    /// Whether half of the slots are taken.
    pub(crate) fn is_crowded(&self) -> bool {
        self.slots.available_permits() < SLOTS as usize / 2
    }
}
