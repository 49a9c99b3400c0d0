//! Planned faults: which requests meet which fault.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use metaq_protocol::Command;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{behaviour::Behaviour, fault::Fault};
use crate::broker::requests::Requests;

/// Makes a [`Broker`](crate::Broker) misbehave while it runs; returned by
/// [`Broker::faults`](crate::Broker::faults). Clones are the same.
///
/// A plan names the [`Requests`] that meet a [`Fault`]. A request meets one fault at most, that of the first
/// matching plan; the other plans count it all the same. Random choices follow from the broker's
/// [seed](crate::BrokerBuilder::seed), so a run repeats exactly as long as its requests arrive in the same
/// order.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use metaq_testkit::{Broker, Fault, Requests};
///
/// let broker = Broker::builder().topic("orders", 4).start().await?;
/// let seventh = broker.faults().plan(Requests::puts().only(7), Fault::refuse(503, "busy"));
/// let silent = broker.faults().plan(Requests::puts().of_topic("orders").of_partition(3), Fault::Swallow);
/// assert_eq!((seventh.met(), silent.met()), (0, 0));
/// silent.cancel();
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Faults(Arc<FaultsShared>);

#[derive(Debug)]
struct FaultsShared {
    /// Set while there is any plan, to check without the lock.
    any: AtomicBool,
    plans: Mutex<Vec<Arc<PlannedFaultState>>>,
    random: Mutex<fastrand::Rng>,
    behaviour: watch::Sender<Behaviour>,
}

impl Faults {
    pub(in crate::broker) fn new(seed: u64) -> Self {
        Self(Arc::new(FaultsShared {
            any: AtomicBool::new(false),
            plans: Mutex::default(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            behaviour: watch::Sender::default(),
        }))
    }

    /// Plans a fault for requests from now on. Each plan counts its own requests, beginning with this call,
    /// and holds until it is [cancelled](PlannedFault::cancel) or [`heal`](Self::heal) is called. Of several
    /// that select a request, the one that was planned first is met.
    pub fn plan(&self, requests: Requests, fault: Fault) -> PlannedFault {
        let state = Arc::new(PlannedFaultState {
            requests,
            fault,
            seen: AtomicU64::new(0),
            met: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        });
        let mut plans = self.0.plans.lock();
        plans.push(Arc::clone(&state));
        self.0.any.store(true, Ordering::Release);
        PlannedFault(state)
    }

    /// Ends all plans, [`cut`](Self::cut)s, [`freeze`](Self::freeze) and
    /// [`refuse_connections`](Self::refuse_connections).
    pub fn heal(&self) {
        let mut plans = self.0.plans.lock();
        plans.clear();
        self.0.any.store(false, Ordering::Release);
        self.0.behaviour.send_modify(|behaviour| {
            let Behaviour { closings, strandings, .. } = *behaviour;
            *behaviour = Behaviour { closings, strandings, ..Behaviour::default() };
        });
    }

    /// Stops reading and writing on every connection, like a broker whose process is stopped: connections
    /// stay open, and only the operating system accepts new ones.
    pub fn freeze(&self) {
        self.0.behaviour.send_modify(|behaviour| behaviour.frozen = true);
    }

    /// Resumes after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.0.behaviour.send_modify(|behaviour| behaviour.frozen = false);
    }

    /// Closes new connections as soon as they are accepted, or serves them again.
    pub fn refuse_connections(&self, refuses: bool) {
        self.0.behaviour.send_modify(|behaviour| behaviour.refuses = refuses);
    }

    /// Closes all connections. Their outstanding requests, carried out or not, get no response.
    pub fn close_connections(&self) {
        self.0.behaviour.send_modify(|behaviour| behaviour.closings += 1);
    }

    /// Strands all connections, as when the network has lost their state: input that arrives from now on is
    /// lost, and so are outstanding responses. New connections are not affected. Neither side notices:
    /// connections stay open until their client ends them, or [`close_connections`](Self::close_connections)
    /// does.
    pub fn strand_connections(&self) {
        self.0.behaviour.send_modify(|behaviour| behaviour.strandings += 1);
    }

    /// Closes a connection after this number of bytes of responses, even in the middle of one: the connection
    /// with this number, counted from 1 in the order in which they were made, or every connection. Takes
    /// effect with the next response.
    pub fn cut(&self, connection: Option<usize>, after: u64) {
        self.0.behaviour.send_modify(|behaviour| behaviour.cuts.push((connection, after)));
    }

    pub(in crate::broker) fn watch_behaviour(&self) -> watch::Receiver<Behaviour> {
        self.0.behaviour.subscribe()
    }

    /// Returns the fault that a request meets.
    pub(in crate::broker) fn take_fault(&self, command: &Command, connection: usize) -> Option<Fault> {
        if !self.0.any.load(Ordering::Acquire) {
            return None;
        }
        let mut met = None;
        let mut plans = self.0.plans.lock();
        for plan in &*plans {
            // Each plan counts its requests, whichever fault they meet.
            if plan.requests.matches(command, connection)
                && plan.count_request()
                && met.is_none()
                && plan.passes_chance(&self.0.random)
            {
                met = Some(plan.fault.clone());
            }
        }
        plans.retain(|plan| !plan.is_exhausted());
        self.0.any.store(!plans.is_empty(), Ordering::Release);
        met
    }

    /// Returns that number of random bytes.
    pub(in crate::broker) fn garbage(&self, length: usize) -> Bytes {
        let mut random = self.0.random.lock();
        std::iter::repeat_with(|| random.u8(..)).take(length).collect()
    }
}

/// A fault that was planned. It stays planned when this is dropped.
#[derive(Clone, Debug)]
pub struct PlannedFault(Arc<PlannedFaultState>);

#[derive(Debug)]
struct PlannedFaultState {
    requests: Requests,
    fault: Fault,
    seen: AtomicU64,
    met: AtomicU64,
    cancelled: AtomicBool,
}

impl PlannedFault {
    /// Returns the number of requests that have met the fault.
    #[must_use]
    pub fn met(&self) -> u64 {
        self.0.met.load(Ordering::Acquire)
    }

    /// Cancels the plan.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
    }
}

impl PlannedFaultState {
    /// Returns whether no further request will meet the fault.
    fn is_exhausted(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.met.load(Ordering::Acquire) >= self.requests.limit
    }

    /// Counts a request. Returns whether it is one of those that the fault is for.
    fn count_request(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::AcqRel);
        seen >= self.requests.skip && !self.is_exhausted()
    }

    fn passes_chance(&self, random: &Mutex<fastrand::Rng>) -> bool {
        let chance = self.requests.chance;
        let passes_chance = chance >= 1.0 || random.lock().f64() < chance;
        if passes_chance {
            self.met.fetch_add(1, Ordering::AcqRel);
        }
        passes_chance
    }
}

#[cfg(test)]
mod tests {
    use metaq_protocol::{Opaque, VersionCommand};

    use super::*;

    #[test]
    fn plans_are_removed_when_they_are_exhausted_or_cancelled() {
        let faults = Faults::new(0);
        let version = Command::from(VersionCommand::new(Opaque(1)));
        let once = faults.plan(Requests::any().only(2), Fault::Swallow);
        let always = faults.plan(Requests::any(), Fault::Ignore);
        let left = || faults.0.plans.lock().len();
        assert!(matches!(faults.take_fault(&version, 1), Some(Fault::Ignore)));
        assert_eq!(left(), 2);
        assert!(matches!(faults.take_fault(&version, 1), Some(Fault::Swallow)));
        assert_eq!((left(), once.met()), (1, 1));
        always.cancel();
        assert!(faults.take_fault(&version, 1).is_none());
        assert_eq!((left(), always.met()), (0, 1));
        faults.plan(Requests::any(), Fault::Ignore);
        assert!(faults.take_fault(&version, 1).is_some());
    }
}
