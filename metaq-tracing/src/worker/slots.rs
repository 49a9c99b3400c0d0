//! The slots of events that are being sent.

use std::{cell::Cell, pin::pin, time::Duration};

use tokio::time::timeout;

/// The time after which an event may wait within the producer rather than be in flight.
const PATIENCE: Duration = Duration::from_millis(100);

/// Slots, of which each event that is being sent has one.
#[derive(Debug)]
pub(super) struct Slots {
    free: Cell<usize>,
}

/// A slot, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot<'s>(&'s Slots);

impl Slots {
    pub(super) fn new(number: usize) -> Self {
        Self { free: Cell::new(number) }
    }

    pub(super) fn take(&self) -> Option<Slot<'_>> {
        self.free.set(self.free.get().checked_sub(1)?);
        Some(Slot(self))
    }
}

impl Slot<'_> {
    /// Awaits `send`, and frees the slot when it ends; or before, and then calls `freed`, when it has taken a
    /// while and more events wait within the producer than are `without_slot`. So no more are in flight than
    /// there are slots, whichever of them wait.
    pub(super) async fn hold<T>(
        self,
        send: impl Future<Output = T>,
        without_slot: &Cell<usize>,
        waiting: impl Fn() -> usize,
        freed: impl FnOnce(),
    ) -> T {
        let mut send = pin!(send);
        loop {
            if let Ok(sent) = timeout(PATIENCE, &mut send).await {
                return sent;
            }
            if waiting() > without_slot.get() {
                break;
            }
        }
        drop(self);
        let _without_slot = Counted::new(without_slot);
        freed();
        send.await
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
    }
}

/// One more, as long as it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
