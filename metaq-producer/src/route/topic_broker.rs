//! A topic's way to one broker.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use metaq_protocol::BrokerAddr;
use tokio::time::Instant;

use crate::{route::topic_state::TopicState, stats::counts::TopicBrokerCounts};

/// The state of one broker, whatever the topic. Its connections are elsewhere, so that messages in flight
/// don't keep them open.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) addr: BrokerAddr,
    /// The number of queues that wait for capacity on each of its connections.
    gates: Box<[AtomicUsize]>,
    cooldown: Cooldown,
}

impl Broker {
    pub(crate) fn new(addr: BrokerAddr, connections: usize) -> Self {
        let gates = (0..connections.max(1)).map(|_| AtomicUsize::new(0)).collect();
        Self { addr, gates, cooldown: Cooldown::default() }
    }

    /// Whether messages wait for capacity on this connection, so that those who come now have to wait behind
    /// them.
    #[inline]
    pub(crate) fn is_gated(&self, connection: usize) -> bool {
        self.gates.get(connection).is_some_and(|gate| gate.load(Acquire) > 0)
    }

    /// Whether the broker is better left alone for now.
    pub(crate) fn is_cooling_down(&self, now: Instant) -> bool {
        self.cooldown.is_on(now)
    }

    /// It failed: it is left alone for a moment, longer each time, as long as there are others.
    pub(crate) fn failed(&self, now: Instant) {
        self.cooldown.begin(now);
    }

    /// It works.
    pub(crate) fn worked(&self) {
        self.cooldown.forget();
    }
}

/// As long as it is held, senders that have not waited leave the capacity of a connection to those who have.
#[derive(Debug)]
pub(crate) struct Gate {
    broker: Arc<Broker>,
    connection: usize,
}

impl Gate {
    pub(crate) fn new(broker: Arc<Broker>, connection: usize) -> Self {
        if let Some(gate) = broker.gates.get(connection) {
            gate.fetch_add(1, AcqRel);
        }
        Self { broker, connection }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(gate) = self.broker.gates.get(self.connection) {
            gate.fetch_sub(1, AcqRel);
        }
    }
}

/// One topic on one broker.
pub(crate) struct TopicBroker {
    pub(crate) topic: Arc<TopicState>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) counts: Arc<TopicBrokerCounts>,
}

impl TopicBroker {
    pub(crate) fn new(topic: Arc<TopicState>, broker: Arc<Broker>) -> Self {
        let counts = topic.counts.topic_broker(&broker.addr);
        Self { topic, broker, counts }
    }
}

impl fmt::Debug for TopicBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicBroker")
            .field("topic", &self.topic.topic)
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}

/// Keeps messages from a broker that has failed. It always ends: then the next message is the probe.
#[derive(Debug)]
struct Cooldown {
    origin: Instant,
    /// The end, in milliseconds since the origin; 0 when there is none.
    until: AtomicU64,
    failures: AtomicU64,
}

/// The longest cooldown after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

impl Default for Cooldown {
    fn default() -> Self {
        Self { origin: Instant::now(), until: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }
}

impl Cooldown {
    fn is_on(&self, now: Instant) -> bool {
        let until = self.until.load(Relaxed);
        until > 0 && (now.saturating_duration_since(self.origin).as_millis() as u64) < until
    }

    fn begin(&self, now: Instant) {
        // Many messages fail at once; that is one failure.
        if self.is_on(now) {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).min(10);
        let longest = FIRST.saturating_mul(1 << failures).min(LONGEST);
        // At least half of it.
        let cooldown = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        let until = (now.saturating_duration_since(self.origin) + cooldown).as_millis() as u64;
        self.until.store(until.max(1), Relaxed);
    }

    fn forget(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
            self.until.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cooldown_ends_grows_and_is_forgotten() {
        let cooldown = Cooldown::default();
        let mut now = cooldown.origin;
        assert!(!cooldown.is_on(now));
        for n in 0..20_u32 {
            cooldown.begin(now);
            cooldown.begin(now);
            assert!(cooldown.is_on(now));
            let longest = FIRST.saturating_mul(1 << n.min(10)).min(LONGEST);
            assert!(cooldown.is_on(now + longest / 3), "{n}");
            now += longest + Duration::from_millis(1);
            assert!(!cooldown.is_on(now), "never for good");
        }
        cooldown.begin(now);
        cooldown.forget();
        assert!(!cooldown.is_on(now));
    }
}
