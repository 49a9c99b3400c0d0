//! Recovery: soon after a fault has ended, what can be sent is sent; and the end of a run, when everything is
//! mended.

use std::time::Duration;

use metaq_producer::transport::ConnectionConfig;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    common::{cluster::counts, until},
    log::note,
    schedule::{PROMPTLY, Simulation, TOPICS},
};

/// The time after the last fault of a broker within which all its partitions are used again: it is dialled
/// once more after a pause of 500 ms at most.
const RECOVERED: Duration = Duration::from_secs(1);

/// The same after a fault of the registry.
const REGISTRY_RECOVERED: Duration = Duration::from_secs(2);

impl Simulation {
    /// The longest time until a broker is used again. One that has sent what is no answer may leave the
    /// connection waiting for the rest of it. That ends when a heartbeat isn't answered in its time, which
    /// the broker is asked for after it was silent, or after a message timed out.
    fn recovery_limit(&self, index: usize) -> Duration {
        let ConnectionConfig { stall_after, heartbeat_timeout, .. } = ConnectionConfig::default();
        match self.standings[index].garbled {
            None => RECOVERED,
            Some(_) => stall_after + heartbeat_timeout + RECOVERED,
        }
    }

    /// Fails if a broker that nothing is wrong with any more is not used.
    pub(crate) fn check_recovered(&self) {
        if self.registry_fails || !self.standings.iter().all(|standing| standing.sound_since.is_some()) {
            return;
        }
        let Some(index) = self.missing_broker() else { return };
        let since = self.standings.iter().filter_map(|standing| standing.sound_since).max();
        let elapsed = since.map_or(Duration::ZERO, |since| since.elapsed());
        assert!(elapsed <= self.recovery_limit(index), "broker {index} is not used after {elapsed:?}");
    }

    pub(crate) async fn finish(mut self) -> [usize; 4] {
        let registry_failed = self.registry_fails;
        self.heal();
        for index in 0..self.brokers.len() {
            if self.brokers[index].is_none() {
                self.start(index);
            }
        }
        for (broker, standing) in self.brokers.iter().flatten().zip(&mut self.standings) {
            TOPICS.iter().for_each(|topic| broker.set_topic(topic, 2));
            standing.partitions = 2;
        }
        let mended = Instant::now();
        // Connections that were closed a moment ago are noticed by then.
        sleep(PROMPTLY).await;
        let limits = (0..self.brokers.len()).map(|index| self.recovery_limit(index));
        let registry_limit = if registry_failed { REGISTRY_RECOVERED } else { RECOVERED };
        let limit = limits.fold(registry_limit, Duration::max);
        let used = until(async || self.missing_broker().is_none());
        timeout(limit, used).await.expect("all brokers are used again soon when everything is mended");
        note(format_args!("all brokers are used {:?} after everything was mended", mended.elapsed()));
        self.check_waiting().await;
        self.check_each_partition().await;
        let producer = self.producer.clone();
        until(async || producer.stats().await.unacknowledged == 0).await;
        self.check().await;
        assert!(self.watched.is_empty(), "every handle is resolved");
        self.transacting.finish().await;
        self.check_load().await;
        self.check().await;
        let report = self.producer.close(Duration::from_secs(1)).await;
        assert_eq!((report.unknown, report.unsent.len()), (0, 0), "nothing was left");
        let counts = counts(&self.producer).await;
        assert_eq!((counts.queued, counts.in_flight), (0, 0), "{counts:?}");
        self.take_failures();
        for broker in std::mem::take(&mut self.brokers).iter().flatten() {
            self.remember(broker);
        }
        self.compare()
    }

    /// Sends a message to each broker that has capacity for it, and is free of what would come before it. All
    /// are mended, but what brokers left unanswered takes capacity until it times out.
    async fn check_each_partition(&mut self) {
        for _ in 0..4 * self.brokers.len() {
            let stats = self.producer.stats().await;
            let (payload, message) = self.next_message();
            let Some(target) = payload.trim_end().parse().ok().and_then(|number| self.targets.get(&number))
            else {
                continue;
            };
            let topic = TOPICS[target.topic];
            // A connection over which garbage came may be lost with the next answer.
            let usable = |index: usize| {
                !self.is_garbled(index)
                    && self.has_capacity(index, &stats)
                    && (0..4).all(|partition| self.is_free(index, topic, partition))
            };
            let can_go = match target.partition {
                Some(partition) => usable(partition.broker.0 as usize),
                None => (0..self.brokers.len()).all(usable),
            };
            let sent = Instant::now();
            let outcome = self.producer.send(message).await;
            let took = sent.elapsed();
            let is_prompt = took <= PROMPTLY && outcome.is_ok();
            assert!(!can_go || stats.messages.queued > 0 || is_prompt, "{took:?}: {outcome:?}");
            self.ended(payload, outcome);
        }
    }

    /// Sends many messages at once when nothing else is under way.
    async fn check_load(&mut self) {
        for broker in self.brokers.iter().flatten() {
            // What was swallowed may hold the turn in its partition as long as its connection.
            broker.faults().close_connections();
        }
        // By then that is noticed.
        sleep(PROMPTLY).await;
        until(async || self.missing_broker().is_none()).await;
        let producer = self.producer.clone();
        // A message that was refused waits for its next attempt, one in order for the late answer to the one
        // before it.
        until(async || producer.stats().await.unacknowledged == 0).await;
        let mut handles = Vec::new();
        for _ in 0..50 {
            let (payload, message) = self.next_message();
            let accepted =
                timeout(PROMPTLY, self.producer.enqueue(message)).await.expect("there is capacity");
            handles.push((payload, accepted.unwrap()));
        }
        let offered = Instant::now();
        for (payload, handle) in handles {
            let outcome = handle.await;
            let took = offered.elapsed();
            assert!(took <= PROMPTLY && outcome.is_ok(), "{} {took:?}: {outcome:?}", payload.trim_end());
            self.ended(payload, outcome);
        }
    }
}
