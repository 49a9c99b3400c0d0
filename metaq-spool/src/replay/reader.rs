//! The messages of a queue in their order, read in portions while the queue has a place.

use std::{collections::VecDeque, sync::Arc};

use futures_util::FutureExt as _;

use crate::{
    places::Place,
    shared::{Shared, closed},
    storage::{Reading, index::Queue},
    store::Limit,
};

/// The messages that are read at a time, and their bytes.
const PORTION: Limit = Limit { rows: 512, bytes: 1 << 20 };

/// Reads a queue.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    queue: &'a Arc<Queue>,
    /// Messages with smaller numbers were given out, or are in memory.
    next: u64,
    /// As many messages were moved into the queue when it was read from its beginning.
    placed: u64,
    loaded: Option<Loaded>,
}

/// The messages in memory, for which the queue has a place.
struct Loaded {
    ready: VecDeque<(u64, Vec<u8>)>,
    reading: Option<Reading>,
    _place: Place,
}

/// The next message of a queue.
pub(super) enum Next {
    Message(u64, Vec<u8>),
    /// There is none, or none that is there without waiting.
    None,
    Failed(String),
}

impl<'a> Reader<'a> {
    /// Reads the queue from its beginning.
    pub(super) fn new(shared: &'a Shared, queue: &'a Arc<Queue>, place: Place) -> Self {
        let loaded = Some(Loaded::new(place));
        Self { shared, queue, next: 0, placed: queue.placed(), loaded }
    }

    /// Returns whether messages were moved into the queue, perhaps before those that were read.
    pub(super) fn has_older(&self) -> bool {
        self.queue.placed() != self.placed
    }

    /// Reads the queue from its beginning.
    pub(super) fn begin_anew(&mut self) {
        self.placed = self.queue.placed();
        self.go_back(0);
    }

    /// Goes on from a number: the last one that was given out, or an earlier one.
    pub(super) fn go_back(&mut self, number: u64) {
        self.next = number;
        if let Some(loaded) = &mut self.loaded {
            loaded.ready.clear();
            loaded.reading = None;
        }
    }

    /// Returns whether no message was read since the beginning.
    pub(super) fn is_at_beginning(&self) -> bool {
        self.next == 0
    }

    /// Forgets the portion that was asked for: messages that were spooled since may not be in it.
    pub(super) fn look_again(&mut self) {
        if let Some(loaded) = &mut self.loaded {
            loaded.reading = None;
        }
    }

    /// Returns whether messages were read that were not given out.
    pub(super) fn has_ready(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| !loaded.ready.is_empty())
    }

    pub(super) fn has_place(&self) -> bool {
        self.loaded.is_some()
    }

    /// Leaves the place to another queue, and the memory with it.
    pub(super) fn leave(&mut self) {
        let first = self.loaded.take().and_then(|loaded| loaded.ready.front().map(|(number, _)| *number));
        self.next = first.unwrap_or(self.next);
    }

    /// Takes a message back that was given out last.
    pub(super) fn put_back(&mut self, number: u64, row: Vec<u8>) {
        match &mut self.loaded {
            Some(loaded) => loaded.ready.push_front((number, row)),
            None => self.next = number,
        }
    }

    /// The next message. Waits for a place and for the storage only if it `may_wait`.
    pub(super) async fn next(&mut self, may_wait: bool) -> Next {
        let mut closing = self.shared.closing.subscribe();
        if *closing.borrow() {
            self.go_back(self.next);
            return Next::None;
        }
        let places = &self.shared.places;
        let loaded = match &mut self.loaded {
            Some(loaded) => loaded,
            None => {
                let place = tokio::select! {
                    biased;
                    () = closed(&mut closing) => None,
                    place = places.take(), if may_wait => Some(place),
                    () = std::future::ready(()), if !may_wait => places.try_take(),
                };
                let Some(place) = place else { return Next::None };
                self.loaded.insert(Loaded::new(place))
            }
        };
        if loaded.ready.is_empty() {
            let begin = |next| self.shared.storage.begin_read(self.queue, next, PORTION);
            let Some(mut reading) = loaded.reading.take().or_else(|| begin(self.next)) else {
                return Next::None;
            };
            let read = if may_wait {
                reading.await
            } else {
                match (&mut reading).now_or_never() {
                    Some(read) => read,
                    None => {
                        loaded.reading = Some(reading);
                        return Next::None;
                    }
                }
            };
            match read {
                Ok(Ok(messages)) => {
                    self.next = messages.last().map_or(self.next, |(number, _)| number + 1);
                    if !messages.is_empty() {
                        // The next portion is read while this one is sent.
                        loaded.reading = begin(self.next);
                    }
                    loaded.ready = messages.into();
                }
                Ok(Err(error)) => return Next::Failed(format!("reading the spool failed: {error}")),
                Err(_) => return Next::None,
            }
        }
        if self.queue.placed() != self.placed {
            return Next::None;
        }
        loaded.ready.pop_front().map_or(Next::None, |(number, row)| Next::Message(number, row))
    }
}

impl Loaded {
    fn new(place: Place) -> Self {
        Self { ready: VecDeque::new(), reading: None, _place: place }
    }
}
