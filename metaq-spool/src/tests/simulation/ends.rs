//! The ends of programs, and the beginnings of the next ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    life::{ENDED, Simulation, payload_number},
    log::note,
    outcomes::{Fate, Offer},
    program::{Program, Setup},
};
use crate::{
    Fsync, SpoolStats,
    storage::Common,
    store::{Key, Kind, memory::MemoryStore},
};

impl Simulation {
    pub(super) async fn end_program(&mut self) {
        let is_killed = match self.rng.u8(..8) {
            0..2 => {
                self.close_program().await;
                false
            }
            2 => {
                self.let_program_go().await;
                false
            }
            loses_power => {
                self.kill_program(loses_power < 5 && self.options.fsync == Fsync::Never).await;
                true
            }
        };
        self.restart(is_killed).await;
    }

    pub(super) async fn close_program(&mut self) {
        note("the program closes the spool");
        self.totals.closed += 1;
        let time = Duration::from_millis(self.rng.u64(..1000));
        let closed = timeout(ENDED, self.now().spool.close(time)).await.expect("closing ends");
        for watcher in std::mem::take(&mut self.program.as_mut().unwrap().watchers) {
            timeout(ENDED, watcher).await.expect("each handle ends").unwrap();
        }
        let stats = self.ended_well();
        assert_eq!((closed.waiting, closed.held_aside), (stats.waiting, stats.held_aside));
        let program = self.program.take().unwrap();
        self.doubt(&program.common);
        self.count(&program.common);
    }

    /// The last clone is dropped without closing the spool, and the last handle later.
    async fn let_program_go(&mut self) {
        note("the program drops the spool");
        self.totals.let_go += 1;
        let Program { number, spool, watchers, common, .. } = self.program.take().unwrap();
        drop(spool);
        for watcher in watchers {
            timeout(ENDED * 10, watcher).await.expect("each handle ends").unwrap();
        }
        let ended = async {
            while Arc::strong_count(&self.store.0) > 1 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(ENDED, ended).await.expect("nothing is left of a program that has ended");
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
        for (program, message, outcome) in outcomes {
            if program == number {
                self.set_fate(message, outcome);
            }
        }
        self.assert_none_open();
        self.doubt(&common);
        self.count(&common);
    }

    /// All messages that were accepted have an outcome.
    fn ended_well(&mut self) -> SpoolStats {
        self.take_outcomes();
        self.check();
        self.assert_none_open();
        let stats = self.now().spool.stats();
        assert_eq!(stats.in_flight, 0, "{stats:#?}");
        stats
    }

    /// When its last commit was applied in spite of its error, the store may hold messages of the program
    /// that were reported as not stored, and that it could not take out before its end. What was dropped by
    /// that commit is not counted.
    fn doubt(&mut self, common: &Common) {
        if !self.store.0.lock().is_in_doubt {
            return;
        }
        let program = self.programs;
        let is_meant = |offer: &&mut Offer| offer.program == program && offer.fate == Fate::NotStored;
        self.offers.values_mut().filter(is_meant).for_each(|offer| offer.fate = Fate::Loose);
        self.maybe_dropped += common.ledger.counts().waiting.saturating_sub(self.rows(Kind::Message));
    }

    fn assert_none_open(&self) {
        let open = self.offers.iter().filter(|(_, offer)| matches!(offer.fate, Fate::Open(_)));
        let open: Vec<_> = open.map(|(number, _)| number).collect();
        assert!(open.is_empty(), "{open:?} have no outcome");
    }

    async fn kill_program(&mut self, loses_power: bool) {
        note(if loses_power { "the power is lost" } else { "the program is killed" });
        self.check();
        let rows = {
            let mut memory = self.store.0.lock();
            memory.is_dead = true;
            memory.rows.clone()
        };
        // Nothing that it does from now on reaches a broker.
        for broker in self.brokers.iter().flatten() {
            broker.faults().freeze();
            broker.faults().close_connections();
        }
        let common = Arc::clone(&self.now().common);
        self.doubt(&common);
        for offer in self.offers.values_mut().filter(|offer| matches!(offer.fate, Fate::Open(_))) {
            offer.fate = Fate::Loose;
        }
        let Program { spool, watchers, .. } = self.program.take().unwrap();
        self.count(&common);
        // The end of the process, as far as brokers and the store see it, took no time.
        watchers.iter().for_each(JoinHandle::abort);
        timeout(ENDED, spool.close(Duration::ZERO)).await.expect("a killed program ends");
        let left = if loses_power {
            self.totals.power_losses += 1;
            self.lose_power(&rows);
            self.durable.clone()
        } else {
            self.totals.kills += 1;
            rows
        };
        self.store = MemoryStore::default();
        self.store.0.lock().rows = left;
        for (broker, frozen) in self.brokers.iter().zip(&self.frozen) {
            if let (Some(broker), false) = (broker, frozen) {
                broker.faults().thaw();
            }
        }
    }

    /// The store is what it was when it was last forced to the disk.
    fn lose_power(&mut self, rows: &BTreeMap<Key, Vec<u8>>) {
        let numbers = |rows: &BTreeMap<Key, Vec<u8>>| {
            rows.iter().filter_map(|(key, row)| payload_number(*key, row)).collect::<BTreeSet<_>>()
        };
        let (before, after) = (numbers(rows), numbers(&self.durable));
        for lost in before.difference(&after) {
            note(format_args!("{lost} is lost with the power"));
            self.totals.lost_with_power += 1;
            self.offers.get_mut(lost).unwrap().fate = Fate::Loose;
        }
        if self.is_durable_in_doubt {
            let refused = self.offers.iter_mut().filter(|(_, offer)| offer.fate == Fate::NotStored);
            refused.filter(|(n, _)| after.contains(n)).for_each(|(_, offer)| offer.fate = Fate::Loose);
        }
        let waiting = |rows: &BTreeMap<Key, Vec<u8>>| {
            let messages = rows.iter().filter(|(key, _)| key.kind == Kind::Message);
            messages.filter_map(|(key, row)| payload_number(*key, row)).collect::<BTreeSet<_>>()
        };
        self.may_repeat.extend(waiting(&self.durable).difference(&waiting(rows)));
        // Numbers that were given since are given again.
        self.ids.clear();
    }

    /// Adds the counts of a program that has ended.
    fn count(&mut self, common: &Common) {
        let counts = common.ledger.counts();
        self.totals.maybe_duplicates += counts.maybe_duplicates;
        self.totals.unknown_attempts += counts.unknown_attempts;
        self.totals.dropped += counts.dropped;
        self.totals.set_aside += counts.set_aside;
    }

    /// The next program opens the store.
    async fn restart(&mut self, was_killed: bool) {
        self.programs += 1;
        let setup = Setup {
            registry: &self.registry,
            is_configured: self.is_configured,
            count: self.brokers.len(),
            send_timeout: self.send_timeout,
            max_in_flight: self.max_in_flight,
            seed: self.seed + self.programs,
        };
        let waiting = self.rows(Kind::Message);
        let program = loop {
            let started = Program::start(self.programs, &setup, &self.options, &self.store, &self.slowness);
            match started {
                Ok(program) => break program,
                Err(error) => {
                    note(format_args!("opening failed: {error}"));
                    self.store.0.lock().heal();
                }
            }
        };
        let stats = program.spool.stats();
        assert_eq!(stats.recovered, waiting);
        assert!(!was_killed || !stats.was_closed);
        self.program = Some(program);
        note(format_args!(
            "program {} has opened the spool, in which {waiting} messages wait",
            self.programs
        ));
        (self.durable, self.is_durable_in_doubt) = (self.store.0.lock().rows.clone(), false);
        self.publish().await;
    }
}
