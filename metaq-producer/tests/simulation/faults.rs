//! Faults of brokers and registry.

use std::time::Duration;

use metaq_producer::BrokerId;
use metaq_testkit::{Fault, RegistryFault, Requests};
use tokio::time::Instant;

use crate::{
    log::note,
    schedule::{Simulation, TOPICS, broker},
};

/// The fault of a broker.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) is_frozen: bool,
    /// A fault is planned that has not been healed.
    pub(crate) is_disturbed: bool,
    /// The connections that the broker had accepted when it last had garbage to send: what comes over them
    /// later may not be understood.
    pub(crate) garbled: Option<usize>,
    /// The connections that the broker had accepted when they were stranded.
    pub(crate) stranded: Option<usize>,
    /// The number of partitions of the first topic.
    pub(crate) partitions: usize,
    /// Since when nothing is wrong with it.
    pub(crate) sound_since: Option<Instant>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            is_frozen: false,
            is_disturbed: false,
            garbled: None,
            stranded: None,
            partitions: 2,
            sound_since: Some(Instant::now()),
        }
    }
}

impl Standing {
    fn disturb(&mut self) {
        (self.is_disturbed, self.sound_since) = (true, None);
    }
}

impl Simulation {
    pub(crate) fn fault(&mut self) {
        let index = self.rng.usize(..self.brokers.len());
        let Some(broker) = &self.brokers[index] else { return };
        let faults = broker.faults();
        let some = Requests::puts().with_chance(self.rng.f64());
        let plan = |requests: Requests, fault: Fault| {
            note(format_args!("broker {index}: {requests:?} meet {fault:?}"));
            faults.plan(requests, fault);
        };
        let standing = &mut self.standings[index];
        standing.sound_since = standing.sound_since.map(|_| Instant::now());
        let said = |what: &str| note(format_args!("broker {index} {what}"));
        let fault = self.rng.u8(..13);
        if !matches!(fault, 1 | 2) {
            standing.disturb();
        }
        match fault {
            0 => {
                said("is frozen");
                standing.is_frozen = true;
                faults.freeze();
            }
            1 => {
                said("goes on");
                standing.is_frozen = false;
                faults.thaw();
            }
            2 => {
                said("closes its connections");
                faults.close_connections();
            }
            3 => {
                let refuses = self.rng.bool();
                said(if refuses { "refuses connections" } else { "takes connections" });
                faults.refuse_connections(refuses);
            }
            4 => {
                let after = self.rng.u64(..2000);
                said(&format!("cuts connections after {after} bytes"));
                faults.cut(None, after);
            }
            5 => plan(some, Fault::refuse(*self.rng.choice(&[403, 404, 500, 503, 999]).unwrap(), "no")),
            6 => plan(some, Fault::Swallow),
            7 => plan(some, Fault::Ignore),
            8 => plan(some, Fault::Late(Duration::from_millis(self.rng.u64(..5000)))),
            9 => {
                standing.garbled = Some(usize::MAX);
                plan(some.first(1), Fault::Garbage(self.rng.usize(1..50)));
            }
            10 => plan(some, Fault::Twice),
            11 => {
                said("loses its connections, and nobody is told");
                standing.stranded = Some(broker.accepted_connections());
                faults.strand_connections();
            }
            _ => plan(some.first(2), Fault::Cut(self.rng.usize(..30))),
        }
    }

    pub(crate) fn change_broker(&mut self) {
        let index = self.rng.usize(..self.brokers.len());
        match self.brokers[index].take() {
            Some(broker) if self.rng.bool() => {
                // What is in partitions that are taken away is not shown while they are.
                self.remember(&broker);
                let partitions = self.rng.u32(1..4);
                note(format_args!("broker {index} has {partitions} partitions"));
                broker.set_topic(TOPICS[0], partitions);
                self.brokers[index] = Some(broker);
                let standing = &mut self.standings[index];
                let is_less = (partitions as usize) < standing.partitions;
                standing.partitions = partitions as usize;
                standing.sound_since = standing.sound_since.map(|_| Instant::now());
                if is_less {
                    self.transacting.partition_lost();
                }
            }
            Some(broker) => {
                note(format_args!("broker {index} is killed"));
                // Its tasks may come to run once more before they are stopped.
                broker.faults().freeze();
                self.remember(&broker);
                self.lives[index] += 1;
                self.standings[index] = Standing { sound_since: None, ..Standing::default() };
            }
            None => self.start(index),
        }
    }

    pub(crate) fn change_registry(&mut self) {
        let id = BrokerId(self.rng.i32(0..self.brokers.len() as i32));
        let fault = match self.rng.u8(..6) {
            0 => RegistryFault::Slow(Duration::from_millis(self.rng.u64(..2000))),
            1 => RegistryFault::Empty,
            2 => RegistryFault::Unreachable,
            3 => RegistryFault::Missing(id),
            4 => RegistryFault::WrongAddress(id),
            _ => RegistryFault::WrongPartitions(id, self.rng.u32(1..9)),
        };
        note(format_args!("the registry: {fault:?}"));
        self.registry.add_fault(fault);
        self.registry_fails = true;
    }

    pub(crate) fn heal(&mut self) {
        note("all faults end");
        self.registry.heal();
        let had_failed = std::mem::take(&mut self.registry_fails);
        for (broker, standing) in self.brokers.iter().zip(&mut self.standings) {
            let Some(broker) = broker else { continue };
            broker.faults().heal();
            if standing.stranded.take().is_some() {
                // One without requests would be noticed by its next heartbeat.
                broker.faults().close_connections();
            }
            if had_failed || standing.sound_since.is_none() {
                standing.sound_since = Some(Instant::now());
            }
            (standing.is_frozen, standing.is_disturbed) = (false, false);
            if standing.garbled == Some(usize::MAX) {
                standing.garbled = Some(broker.accepted_connections());
            }
        }
    }

    pub(crate) fn start(&mut self, index: usize) {
        note(format_args!("broker {index} starts"));
        self.brokers[index] = Some(broker(&self.registry, index as i32));
        self.standings[index] = Standing::default();
    }
}
