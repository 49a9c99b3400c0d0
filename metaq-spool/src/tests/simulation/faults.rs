//! Faults of brokers and of the store.

use std::{sync::atomic::Ordering, time::Duration};

use metaq_testkit::{Fault, Requests};

use super::{
    life::{PARTITIONS, Simulation, TOPICS, broker},
    log::note,
};

impl Simulation {
    pub(super) fn fault(&mut self) {
        let index = self.rng.usize(..self.brokers.len());
        let Some(broker) = &self.brokers[index] else { return };
        let faults = broker.faults();
        let mut some = Requests::puts().with_chance(self.rng.f64());
        if self.rng.bool() {
            some = some.of_partition(self.rng.i32(0..PARTITIONS));
        }
        let said = |what: &str| note(format_args!("broker {index} {what}"));
        let plan = |requests: Requests, fault: Fault| {
            said(&format!("has {requests:?} meet {fault:?}"));
            faults.plan(requests, fault);
        };
        match self.rng.u8(..15) {
            0..2 => {
                self.frozen[index] = !self.frozen[index];
                if self.frozen[index] {
                    said("is frozen");
                    faults.freeze();
                } else {
                    said("goes on");
                    faults.thaw();
                }
            }
            2 => {
                said("closes its connections");
                faults.close_connections();
            }
            3 => {
                let refuses = self.rng.bool();
                said(if refuses { "refuses connections" } else { "takes connections" });
                faults.refuse_connections(refuses);
                if refuses {
                    faults.close_connections();
                }
            }
            4 => {
                said("loses its connections, and neither side learns of it");
                faults.strand_connections();
                self.stranded[index] = true;
            }
            // Messages, one or two of them, that no broker would take.
            5..7 => {
                let count = self.rng.u64(1..3);
                plan(some.first(count), Fault::refuse(400, "it makes no sense"));
            }
            7 => plan(some, Fault::refuse(500, "the disk is full")),
            8 => plan(some, Fault::refuse(401, "who is that")),
            9..11 => plan(some, Fault::refuse(*self.rng.choice(&[403, 404, 503]).unwrap(), "not now")),
            11 => plan(some.first(3), if self.rng.bool() { Fault::Swallow } else { Fault::Ignore }),
            12 => plan(some.first(5), Fault::Late(Duration::from_millis(self.rng.u64(..5000)))),
            13 => plan(some.first(1), Fault::Garbage(self.rng.usize(1..50))),
            _ => plan(some.first(2), Fault::Cut(self.rng.usize(..30))),
        }
    }

    pub(super) fn change_broker(&mut self) {
        let index = self.rng.usize(..self.brokers.len());
        let Some(broker) = self.brokers[index].take() else { return self.start_broker(index) };
        note(format_args!("broker {index} is killed"));
        // Its tasks may come to run once more before they are stopped.
        broker.faults().freeze();
        self.remember(&broker);
        self.lives[index] += 1;
        self.frozen[index] = false;
    }

    pub(super) fn start_broker(&mut self, index: usize) {
        note(format_args!("broker {index} starts"));
        self.brokers[index] = Some(broker(&self.registry, index));
    }

    pub(super) fn fail_store(&mut self) {
        let mut memory = self.store.0.lock();
        match self.rng.u8(..7) {
            0 => {
                memory.is_full = !memory.is_full;
                note(format_args!("the store is full: {}", memory.is_full));
            }
            1 => {
                (memory.failing, memory.failing_after_commit) = (self.rng.f64(), 0.0);
                note(format_args!("the store fails: {}", memory.failing));
            }
            2 => {
                (memory.failing, memory.failing_after_commit) = (self.rng.f64(), self.rng.f64());
                note(format_args!(
                    "the store fails: {}, and after a commit: {}",
                    memory.failing, memory.failing_after_commit
                ));
            }
            3 => {
                (memory.failing, memory.failing_after_commit) = (0.5, self.rng.f64());
                memory.failing_reopens = self.rng.u32(1..4);
                note(format_args!("the store is lost for {} attempts to open it", memory.failing_reopens));
            }
            4 => {
                memory.keeps_messages = !memory.keeps_messages;
                note(format_args!("the store has no space to remove messages: {}", memory.keeps_messages));
            }
            5 => {
                let slowness = self.rng.u64(..300);
                note(format_args!("the store takes up to {slowness} ms"));
                self.slowness.store(slowness, Ordering::Relaxed);
            }
            _ => {
                note("the store is sound");
                memory.heal();
            }
        }
    }

    pub(super) fn heal(&mut self) {
        note("all faults end");
        self.store.0.lock().heal();
        self.slowness.store(0, Ordering::Relaxed);
        for (broker, frozen) in self.brokers.iter().zip(&mut self.frozen) {
            let Some(broker) = broker else { continue };
            *frozen = false;
            broker.faults().heal();
        }
        for (broker, stranded) in self.brokers.iter().zip(&mut self.stranded) {
            if let (Some(broker), true) = (broker, std::mem::take(stranded)) {
                // One without requests would be noticed by its next heartbeat.
                broker.faults().close_connections();
            }
        }
    }

    /// Keeps what a broker has stored.
    pub(super) fn remember(&mut self, broker: &metaq_testkit::Broker) {
        let life = self.lives[broker.id().0 as usize];
        for stored in TOPICS.iter().flat_map(|topic| broker.messages(topic)) {
            self.stored.insert((broker.id(), life, stored.id), stored);
        }
    }
}
