//! What has to hold at each step, and at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use metaq_producer::Partition;

use super::{
    life::{Simulation, TOPICS, number_in, payload_number},
    log::note,
    outcomes::Fate,
};
use crate::{Fsync, WhenFull, store::Kind};

/// The longest that the store takes for a message, with the round before that.
const STORED: Duration = Duration::from_secs(1);

/// What a message may take more, in bytes, once it is set aside, or its partition is known.
const MORE: u64 = 100;

impl Simulation {
    /// The account is balanced, and agrees with what was seen.
    pub(super) fn check(&mut self) {
        self.take_outcomes();
        let program = self.now();
        let stats = program.spool.stats();
        let gone = stats.replayed + stats.set_aside + stats.dropped + stats.damaged;
        assert_eq!(stats.recovered + stats.spooled, gone + stats.waiting, "{stats:#?}");
        let ended = stats.stored + stats.spooled + stats.failed;
        assert_eq!(stats.offered, ended + stats.in_flight, "{stats:#?}");
        assert_eq!(stats.damaged, 0, "{stats:#?}");
        let offered = program.offered..=program.offered + program.maybe_offered;
        assert!(offered.contains(&stats.offered), "{offered:?}: {stats:#?}");
        assert!(
            stats.stored >= program.stored
                && stats.spooled >= program.spooled
                && stats.failed >= program.failed,
            "{}, {} and {} were seen: {stats:#?}",
            program.stored,
            program.spooled,
            program.failed
        );
        let held = stats.queues.iter().map(|queue| queue.waiting).sum::<u64>();
        assert!(held >= stats.waiting, "{stats:#?}");
        let (is_closed_off, replacements) = {
            let memory = self.store.0.lock();
            (memory.needs_reopening, memory.replacements)
        };
        assert_eq!(replacements, 0, "nothing is taken to be damaged");
        // Of what is in doubt, the store may have more or less.
        if !is_closed_off {
            let rows = (self.rows(Kind::Message), self.rows(Kind::SetAside));
            assert_eq!((stats.waiting, stats.held_aside), rows, "{stats:#?}");
        }
        let messages = stats.waiting + stats.held_aside;
        assert!(
            messages <= self.options.max_messages
                && stats.waiting_bytes + stats.held_aside_bytes <= self.options.max_bytes + messages * MORE
                || self.options.when_full == WhenFull::DropOldest,
            "{stats:#?}"
        );
        self.check_times();
    }

    /// No message is without an outcome past its time. In order, it may wait for others.
    fn check_times(&self) {
        if self.options.ordered {
            return;
        }
        let interval = match self.options.fsync {
            Fsync::Interval(interval) => interval,
            _ => Duration::ZERO,
        };
        let most = 2 * self.send_timeout + interval + STORED;
        for (number, offer) in &self.offers {
            if let Fate::Open(since) = offer.fate {
                assert!(since.elapsed() <= most, "{number} is overdue");
            }
        }
    }

    /// Compares what was reported with what is stored.
    pub(super) fn compare(&mut self) {
        for broker in std::mem::take(&mut self.brokers).into_iter().flatten() {
            self.remember(&broker);
        }
        let aside: BTreeSet<_> = {
            let memory = self.store.0.lock();
            memory.rows.iter().filter_map(|(key, row)| payload_number(*key, row)).collect()
        };
        let mut times = BTreeMap::<u64, u64>::new();
        for stored in self.stored.values() {
            *times.entry(number_in(&stored.payload)).or_default() += 1;
        }
        let (mut missing, mut unheard) = (Vec::new(), Vec::new());
        for (number, offer) in &self.offers {
            let stored = times.get(number).copied().unwrap_or(0);
            let is_kept = stored > 0 || aside.contains(number);
            let totals = &mut self.totals;
            match offer.fate {
                Fate::Stored => {
                    totals.stored += 1;
                    assert!(stored == 1, "{number} was stored, and is stored {stored} times");
                }
                Fate::Spooled(id) => {
                    totals.spooled += 1;
                    if !is_kept {
                        missing.push(*number);
                    } else if !aside.contains(number) && !self.heard.0.lock().unwrap().contains(&id) {
                        unheard.push(*number);
                    }
                }
                Fate::NotStored => {
                    totals.not_stored += 1;
                    assert!(!is_kept, "{number} was not stored, and is stored {stored} times");
                }
                Fate::Unknown => totals.unknown += 1,
                Fate::Loose => totals.loose += 1,
                Fate::Open(_) => panic!("{number} has no outcome"),
            }
        }
        let drops = self.options.max_age.is_some() || self.options.when_full == WhenFull::DropOldest;
        assert!(
            missing.is_empty() || drops && missing.len() as u64 <= self.totals.dropped + self.maybe_dropped,
            "{missing:?} were spooled, and are lost; {} were dropped",
            self.totals.dropped
        );
        assert!(drops || unheard.is_empty(), "the listener was not called for {unheard:?}");
        self.compare_duplicates(&times);
        if self.options.ordered {
            self.compare_order();
        }
    }

    fn compare_duplicates(&mut self, times: &BTreeMap<u64, u64>) {
        let doubled = times.iter().filter(|(number, times)| **times > 1 && !self.may_repeat.contains(number));
        let (mut messages, mut copies) = (0, 0);
        for (number, times) in doubled {
            note(format_args!("{number} is stored {times} times"));
            messages += 1;
            copies += times - 1;
        }
        self.totals.doubled += messages;
        if self.options.spool_unknown {
            return;
        }
        let totals = &self.totals;
        // A message that is dropped or set aside after it was doubled is not counted as that.
        let counted = totals.maybe_duplicates + totals.unknown_attempts + totals.dropped + totals.set_aside;
        assert!(messages <= counted, "{messages} messages are stored twice, and {totals:?}");
        let queues = TOPICS.len() * (1 + self.lives.len() * 2);
        let window = self.options.replay_window as u64 * queues as u64;
        // Those that are not killed may not be able to write their last removals.
        let ends = totals.kills + totals.power_losses + totals.closed + totals.let_go;
        let most = totals.unknown_attempts + ends * window;
        assert!(copies <= most, "{copies} copies, and {totals:?}");
    }

    /// The messages that belong into one order, and have an outcome, are stored in one partition, in the
    /// order in which they were accepted.
    fn compare_order(&self) {
        let mut lanes = BTreeMap::<_, Vec<(Partition, u64, i64, u64)>>::new();
        for ((_, life, _), stored) in &self.stored {
            let number = number_in(&stored.payload);
            let is_known = matches!(self.offers[&number].fate, Fate::Stored | Fate::Spooled(_));
            if let (Some(lane), true) =
                (self.lanes.get(&number), is_known && !self.may_repeat.contains(&number))
            {
                let stored = (stored.partition, *life, stored.offset, number);
                lanes.entry(lane).or_default().push(stored);
            }
        }
        for (lane, mut stored) in lanes {
            stored.sort_unstable();
            let mut seen = BTreeSet::new();
            let first: Vec<_> = stored.iter().map(|stored| stored.3).filter(|n| seen.insert(*n)).collect();
            let passed: Vec<_> = first.windows(2).filter(|pair| pair[0] > pair[1]).collect();
            assert!(passed.is_empty(), "{lane:?} holds pairs out of order: {passed:?}");
            assert!(stored.iter().all(|one| one.0 == stored[0].0), "{lane:?} is in several partitions");
        }
    }
}
