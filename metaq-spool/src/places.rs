//! The places of queues that have messages read, and not sent yet.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The queues that have messages read at the same time: what bounds the memory that replay takes. What is in
/// flight is bounded by the producer.
const COUNT: usize = 64;

/// A number of places, which queues get in the order in which they ask for one.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    /// The queues that ask for one.
    waiting: AtomicUsize,
}

/// The place of one queue, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Places {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(COUNT)), waiting: AtomicUsize::new(0) }
    }
}

impl Places {
    /// Waits for a place.
    pub(crate) async fn take(&self) -> Place {
        if let Some(place) = self.try_take() {
            return place;
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(&self.waiting);
        // It is never closed.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        drop(waiting);
        Place { _permit: permit }
    }

    /// A place, if one is free and nobody waits for it.
    pub(crate) fn try_take(&self) -> Option<Place> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Place { _permit: Some(permit) })
    }

    /// Returns whether queues wait for a place.
    pub(crate) fn are_wanted(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn places_are_had_in_turn() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..COUNT).map(|_| places.try_take().unwrap()).collect();
        assert!(places.try_take().is_none() && !places.are_wanted());
        let (mut first, mut second) = (Box::pin(places.take()), Box::pin(places.take()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert!(places.are_wanted());
        taken.pop();
        assert!(places.try_take().is_none(), "it is for the first who waits");
        assert!(second.as_mut().now_or_never().is_none());
        let place = first.as_mut().now_or_never().unwrap();
        drop(second);
        assert!(!places.are_wanted(), "who gives up is not counted");
        drop(place);
        assert!(places.try_take().is_some());
    }
}
