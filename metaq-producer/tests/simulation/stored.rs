//! The promises, compared with what is stored.

use std::{collections::BTreeMap, time::Duration};

use metaq_producer::{Outcome, SendError};
use metaq_testkit::{Broker, Stored};

use crate::{
    schedule::{Simulation, TOPICS},
    transacting::Fate,
};

/// After a message timed out, the next one of its partition waits for the late answer no longer than this.
const LATE_ANSWER: Duration = Duration::from_secs(5);

impl Simulation {
    /// Keeps what a broker has stored, and checks that it had one put of each partition at a time if there is
    /// an order.
    pub(crate) fn remember(&mut self, broker: &Broker) {
        let life = self.lives[broker.id().0 as usize];
        for stored in TOPICS.iter().flat_map(|topic| broker.messages(topic)) {
            let key = (life, broker.addr().clone(), stored.id);
            if let Some(known) = self.stored.insert(key, stored.clone()) {
                assert_eq!(known, stored, "an id is given once");
            }
        }
        if !self.is_ordered {
            return;
        }
        let monitor = broker.monitor_puts();
        for (topic, partition) in
            TOPICS.iter().flat_map(|topic| (0..4).map(move |partition| (*topic, partition)))
        {
            let overlap = monitor.shortest_overlap(topic, partition);
            assert!(
                overlap.is_none_or(|overlap| overlap >= LATE_ANSWER),
                "a put of {topic} {partition} was at {} for {overlap:?} when the next one came",
                broker.addr()
            );
        }
    }

    /// Compares the promises with what is stored; returns the number of messages by outcome.
    pub(crate) fn compare(&self) -> [usize; 4] {
        self.compare_transactions();
        if self.is_pinned && self.is_ordered {
            self.compare_order();
        }
        let mut stored: BTreeMap<&[u8], usize> = BTreeMap::new();
        self.stored.values().for_each(|one| *stored.entry(&one.payload[..]).or_default() += 1);
        let mut ended = [0; 4];
        for (payload, outcome) in &self.outcomes {
            let times = stored.get(payload.as_bytes()).copied().unwrap_or(0);
            let name = payload.trim_end();
            match outcome.as_ref().map_err(SendError::outcome) {
                Ok(receipt) => {
                    ended[0] += 1;
                    let once = times == 1 || (self.at_least_once && receipt.attempts > 1 && times > 1);
                    assert!(once, "{name} was acknowledged by {receipt:?} and is stored {times} times");
                    let place = |stored: &Stored| {
                        (stored.id, stored.offset) == (receipt.message_id, receipt.offset)
                            && stored.payload == payload.as_bytes()
                    };
                    let is_there = self
                        .stored
                        .iter()
                        .any(|((_, broker, _), stored)| *broker == receipt.broker && place(stored));
                    assert!(is_there, "{name} is where it was said to be");
                }
                Err(Outcome::Unknown) => {
                    ended[1] += 1;
                    assert!(times <= 1 || self.at_least_once, "{name} is stored {times} times");
                }
                Err(Outcome::Rejected) => {
                    ended[2] += 1;
                    assert_eq!(times, 0, "{name} was rejected");
                }
                Err(Outcome::NotSent) => {
                    ended[3] += 1;
                    assert_eq!(times, 0, "{name} was not sent");
                }
            }
        }
        for payload in self.offers.acknowledged() {
            ended[0] += 1;
            let times = stored.get(payload.as_bytes()).copied().unwrap_or(0);
            let once = times == 1 || (self.at_least_once && times > 1);
            assert!(once, "{} was offered, has not failed, and is stored {times} times", payload.trim_end());
        }
        ended
    }

    /// Checks that the messages of each transaction are stored as was reported.
    fn compare_transactions(&self) {
        let mut stored: BTreeMap<&[u8], usize> = BTreeMap::new();
        self.stored.values().for_each(|one| *stored.entry(&one.payload[..]).or_default() += 1);
        for (parts, fate) in &self.transacting.ended {
            let times = parts.iter().map(|part| stored.get(part.as_bytes()).copied().unwrap_or(0));
            let times: Vec<_> = times.collect();
            let all = |wanted: usize| times.iter().all(|times| *times == wanted);
            let is_exact = match fate {
                Fate::Stored => all(1),
                Fate::NotStored => all(0),
                Fate::AllOrNothing => all(0) || all(1),
                Fate::Any => times.iter().all(|times| *times <= 1),
            };
            let names: Vec<_> = parts.iter().map(|part| part.trim_end()).collect();
            assert!(is_exact, "{names:?} are to be {fate:?}, and are stored {times:?} times");
        }
    }

    /// In each partition, the messages are stored in the order in which they were accepted, whatever is known
    /// of them. One that is stored more than once is so before the next.
    fn compare_order(&self) {
        let mut partitions: BTreeMap<_, Vec<(i64, u64)>> = BTreeMap::new();
        for ((life, broker, _), stored) in &self.stored {
            // Those of transactions have no order.
            let number =
                std::str::from_utf8(&stored.payload).ok().and_then(|text| text.trim_end().parse().ok());
            let Some((number, target)) = number.and_then(|number| Some((number, self.targets.get(&number)?)))
            else {
                continue;
            };
            assert_eq!(target.partition, Some(stored.partition), "message {number}");
            let place = (*life, broker.clone(), stored.partition, target.topic);
            partitions.entry(place).or_default().push((stored.offset, number));
        }
        for (place, mut stored) in partitions {
            stored.sort_unstable();
            let passed: Vec<_> = stored.windows(2).filter(|pair| pair[0].1 > pair[1].1).collect();
            assert!(passed.is_empty(), "{place:?} holds pairs out of order: {passed:?}");
        }
    }
}
