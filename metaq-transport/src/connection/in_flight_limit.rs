//! The limits of what is in flight on a connection, and the queue of waiters for capacity.

use std::{collections::BTreeMap, sync::Arc, task::Waker};

use super::{Completions, Deferred};
use crate::TransportErrorKind;

/// The requests and bytes that are in flight or reserved, and the waiters for capacity.
///
/// First come, first served: released capacity is reserved for the first waiters, and while there are
/// waiters, new requests fail. A request holds its capacity until it has completed, even if its caller is
/// gone.
#[derive(Debug)]
pub(crate) struct InFlightLimit {
    requests: usize,
    bytes: usize,
    reserved: usize,
    reserved_bytes: usize,
    max_requests: usize,
    max_bytes: usize,
    /// The waiters by number, which is the order in which they came.
    waiters: BTreeMap<u64, Waiter>,
    next_waiter: u64,
    /// The results of waits that their futures have not taken yet.
    results: BTreeMap<u64, Result<u32, TransportErrorKind>>,
}

/// An entry of the queue.
#[derive(Debug)]
struct Waiter {
    bytes: u32,
    notify: CapacityNotify,
}

/// The notification of a waiter.
#[derive(Debug)]
pub(crate) enum CapacityNotify {
    /// Wakes a future. The waker is there once it was polled.
    Future(Option<Waker>),
    /// Calls a listener.
    Completions { completions: Arc<dyn Completions>, token: u64 },
}

impl InFlightLimit {
    pub(crate) fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self {
            requests: 0,
            bytes: 0,
            reserved: 0,
            reserved_bytes: 0,
            max_requests,
            max_bytes,
            waiters: BTreeMap::new(),
            next_waiter: 0,
            results: BTreeMap::new(),
        }
    }

    /// Returns the number of bytes that a request of `bytes` counts for. One that is larger than the whole
    /// limit may be sent alone.
    #[inline]
    fn charge(&self, bytes: usize) -> u32 {
        // The limit fits into 32 bits.
        bytes.clamp(1, self.max_bytes) as u32
    }

    #[inline]
    fn fits(&self, bytes: u32, free_slots: usize) -> bool {
        self.requests + self.reserved < self.max_requests
            && self.bytes + self.reserved_bytes + bytes as usize <= self.max_bytes
            && free_slots > self.reserved
    }

    /// Takes capacity for a request of `bytes`. Returns the number of bytes that it is charged, or none if it
    /// doesn't fit or others wait for capacity.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize, free_slots: usize) -> Option<u32> {
        let bytes = self.charge(bytes);
        if !self.waiters.is_empty() || !self.fits(bytes, free_slots) {
            return None;
        }
        self.requests += 1;
        self.bytes += bytes as usize;
        Some(bytes)
    }

    /// Reserves capacity for a request of `bytes`. Returns the number of bytes, or none if it doesn't fit or
    /// others wait for capacity.
    pub(crate) fn reserve(&mut self, bytes: usize, free_slots: usize) -> Option<u32> {
        let bytes = self.charge(bytes);
        if !self.waiters.is_empty() || !self.fits(bytes, free_slots) {
            return None;
        }
        self.add_reserved(bytes);
        Some(bytes)
    }

    fn add_reserved(&mut self, bytes: u32) {
        self.reserved += 1;
        self.reserved_bytes += bytes as usize;
    }

    /// Turns a reservation of `reserved` into the capacity of a request of `bytes`.
    ///
    /// Returns the number of bytes that the request is charged. If the request exceeds its reservation by
    /// more than `slack` and doesn't fit, returns none, and the reservation remains.
    pub(crate) fn use_reservation(&mut self, reserved: u32, bytes: usize, slack: usize) -> Option<u32> {
        let bytes = self.charge(bytes).max(reserved);
        let more = (bytes - reserved) as usize;
        if more > slack && self.bytes + self.reserved_bytes + more > self.max_bytes {
            return None;
        }
        self.unreserve(reserved);
        self.requests += 1;
        self.bytes += bytes as usize;
        Some(bytes)
    }

    /// Restores the reservation of a request that was not queued after all.
    pub(crate) fn restore_reservation(&mut self, bytes: u32) {
        self.add_reserved(bytes);
    }

    /// Gives back a reservation.
    pub(crate) fn unreserve(&mut self, bytes: u32) {
        self.reserved -= 1;
        self.reserved_bytes -= bytes as usize;
    }

    /// Gives back the capacity of one request.
    #[inline]
    pub(crate) fn free(&mut self, bytes: u32) {
        self.requests -= 1;
        self.bytes -= bytes as usize;
    }

    /// Returns the requests and the bytes in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (self.requests, self.bytes)
    }

    /// Returns whether nothing is in flight. Reservations don't count.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.requests == 0
    }

    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Queues a waiter, and returns its number.
    pub(crate) fn wait(&mut self, bytes: usize, notify: CapacityNotify) -> u64 {
        let number = self.next_waiter;
        self.next_waiter += 1;
        self.waiters.insert(number, Waiter { bytes: self.charge(bytes), notify });
        number
    }

    /// Reserves capacity for the first waiters, until one doesn't fit.
    pub(crate) fn grant(&mut self, free_slots: usize, deferred: &mut Deferred) {
        while let Some((_, waiter)) = self.waiters.first_key_value() {
            if !self.fits(waiter.bytes, free_slots) {
                break;
            }
            let Some((number, waiter)) = self.waiters.pop_first() else { break };
            self.add_reserved(waiter.bytes);
            self.notify(number, waiter.notify, Ok(waiter.bytes), deferred);
        }
    }

    /// Fails all waits, because the connection accepts no requests now.
    pub(crate) fn refuse_waiters(&mut self, kind: TransportErrorKind, deferred: &mut Deferred) {
        for (number, waiter) in std::mem::take(&mut self.waiters) {
            self.notify(number, waiter.notify, Err(kind), deferred);
        }
    }

    fn notify(
        &mut self,
        number: u64,
        notify: CapacityNotify,
        result: Result<u32, TransportErrorKind>,
        deferred: &mut Deferred,
    ) {
        match notify {
            CapacityNotify::Future(waker) => {
                self.results.insert(number, result);
                deferred.wakers.extend(waker);
            }
            CapacityNotify::Completions { completions, token } => {
                deferred.capacity.push((completions, token, result));
            }
        }
    }

    /// Takes the result of a future's wait, if it is there.
    pub(crate) fn result(&mut self, number: u64) -> Option<Result<u32, TransportErrorKind>> {
        self.results.remove(&number)
    }

    /// Returns whether `waker` would wake the same task as the waker that the waiting future left.
    pub(crate) fn is_woken_by(&self, number: u64, waker: &Waker) -> bool {
        match self.waiters.get(&number).map(|waiter| &waiter.notify) {
            Some(CapacityNotify::Future(Some(known))) => known.will_wake(waker),
            _ => false,
        }
    }

    /// Sets the waker of a waiting future. Returns the waker that is to be dropped without the lock.
    pub(crate) fn set_waker(&mut self, number: u64, waker: Waker) -> Option<Waker> {
        match self.waiters.get_mut(&number).map(|waiter| &mut waiter.notify) {
            Some(CapacityNotify::Future(known)) => known.replace(waker),
            _ => Some(waker),
        }
    }

    /// Removes a waiter, and gives back what it may have been granted. What is returned is to be dropped
    /// without the lock.
    pub(crate) fn leave(&mut self, number: u64) -> Option<CapacityNotify> {
        if let Some(Ok(bytes)) = self.results.remove(&number) {
            self.unreserve(bytes);
        }
        self.waiters.remove(&number).map(|waiter| waiter.notify)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: usize = 1 << 16;

    fn future() -> CapacityNotify {
        CapacityNotify::Future(Some(Waker::noop().clone()))
    }

    #[test]
    fn counts_requests_and_bytes() {
        let mut limit = InFlightLimit::new(2, 100);
        assert_eq!(limit.take(60, SLOTS), Some(60));
        assert_eq!(limit.take(60, SLOTS), None, "too many bytes");
        assert_eq!(limit.take(40, SLOTS), Some(40));
        limit.free(60);
        limit.free(40);
        assert!(limit.is_idle());
        assert_eq!(limit.take(1_000, SLOTS), Some(100), "a large one goes alone");
        assert_eq!(limit.take(0, SLOTS), None);
        limit.free(100);
        assert_eq!((limit.take(0, SLOTS), limit.take(0, SLOTS)), (Some(1), Some(1)));
        assert_eq!(limit.take(0, SLOTS), None, "too many requests");
        assert_eq!(limit.in_flight(), (2, 2));
    }

    #[test]
    fn waiters_are_served_in_order_and_never_passed() {
        let (mut limit, mut deferred) = (InFlightLimit::new(2, 100), Deferred::default());
        assert_eq!(limit.take(100, SLOTS), Some(100));
        let [large, small, last] = [80, 20, 1].map(|bytes| limit.wait(bytes, future()));
        limit.free(100);
        assert_eq!(limit.take(1, SLOTS), None, "others wait");
        limit.grant(SLOTS, &mut deferred);
        assert_eq!((limit.result(large), limit.result(small)), (Some(Ok(80)), Some(Ok(20))));
        assert_eq!((limit.result(last), deferred.wakers.len()), (None, 2));
        assert_eq!(limit.use_reservation(80, 10, 0), Some(80), "what was reserved remains charged");
        limit.unreserve(20);
        assert_eq!(limit.reserve(1, SLOTS), None, "somebody waits");
        limit.grant(SLOTS, &mut deferred);
        assert_eq!(limit.result(last), Some(Ok(1)));
        limit.unreserve(1);
        limit.free(80);
        assert_eq!((limit.in_flight(), limit.reserved, limit.reserved_bytes), ((0, 0), 0, 0));
    }

    #[test]
    fn a_waiter_that_leaves_delays_no_other() {
        let (mut limit, mut deferred) = (InFlightLimit::new(10, 100), Deferred::default());
        assert_eq!(limit.take(50, SLOTS), Some(50));
        let [large, small] = [80, 20].map(|bytes| limit.wait(bytes, future()));
        limit.grant(SLOTS, &mut deferred);
        assert_eq!((limit.result(large), limit.result(small)), (None, None), "first come, first served");
        assert!(limit.leave(large).is_some());
        limit.grant(SLOTS, &mut deferred);
        assert!(limit.leave(small).is_none(), "it was granted, and that is given back");
        assert_eq!((limit.reserved, limit.has_waiters()), (0, false));
    }

    #[test]
    fn a_reservation_needs_a_slot_too() {
        let (mut limit, mut deferred) = (InFlightLimit::new(10, 100), Deferred::default());
        assert_eq!((limit.reserve(1, 1), limit.reserve(1, 1)), (Some(1), None));
        let waiter = limit.wait(1, future());
        limit.grant(1, &mut deferred);
        assert_eq!(limit.result(waiter), None);
        limit.grant(2, &mut deferred);
        assert_eq!(limit.result(waiter), Some(Ok(1)));
    }

    #[test]
    fn a_request_much_larger_than_its_reservation_has_to_fit() {
        let mut limit = InFlightLimit::new(10, 100);
        assert_eq!((limit.take(90, SLOTS), limit.reserve(10, SLOTS)), (Some(90), Some(10)));
        assert_eq!(limit.use_reservation(10, 20, 5), None);
        assert_eq!(limit.use_reservation(10, 20, 10), Some(20), "estimates differ");
        assert_eq!((limit.in_flight(), limit.reserved), ((2, 110), 0));
    }
}
