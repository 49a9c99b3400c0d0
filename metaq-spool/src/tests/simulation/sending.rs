//! The messages of a run.

use std::{sync::Arc, time::Duration};

use metaq_producer::{Message, Partition};
use tokio::time::{Instant, timeout};

use super::{
    life::{PARTITIONS, Simulation, TOPICS, named},
    log::note,
    outcomes::{Fate, Offer},
};
use crate::{Sent, SpoolHandle, SpoolSendError};

/// The time in which a call is done that is not given up: in order, many messages may be before it.
const DONE: Duration = Duration::from_secs(600);

impl Simulation {
    fn next_message(&mut self) -> (u64, Message) {
        let number = self.offers.len() as u64 + 1;
        let payload = format!("{number:05}{}", " ".repeat(self.rng.usize(..3) * 2000));
        let topic = usize::from(self.rng.u8(..4) == 0);
        let message = Message::new(named(TOPICS[topic]), payload);
        let message = match self.rng.u8(..3) {
            0 => message,
            1 => message.with_key(format!("k{}", self.rng.u8(..5))),
            _ => {
                let broker = self.rng.i32(0..self.brokers.len() as i32);
                message.with_partition(Partition::new(broker, self.rng.i32(0..PARTITIONS)))
            }
        };
        note(format_args!(
            "{number} is for {} {:?} {:?}",
            message.topic(),
            message.partition(),
            message.key()
        ));
        let lane = match (message.partition(), message.key()) {
            (Some(partition), _) => Some(partition.to_string()),
            (None, Some(key)) if self.is_configured && topic == 0 => Some(format!("{key:?}")),
            _ => None,
        };
        if let Some(lane) = lane.filter(|_| self.options.ordered) {
            self.lanes.insert(number, (topic, lane));
        }
        self.offers.insert(number, Offer { program: self.programs, fate: Fate::Loose });
        (number, message)
    }

    pub(super) async fn send(&mut self) {
        for _ in 0..self.rng.usize(1..8) {
            let spool = self.now().spool.clone();
            match self.rng.u8(..8) {
                0..2 => {
                    let (number, message) = self.next_message();
                    self.accepted(number, spool.try_send(message));
                }
                2 => {
                    let messages: Vec<_> = (0..self.rng.usize(1..6)).map(|_| self.next_message()).collect();
                    let (numbers, messages): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
                    note(format_args!("{numbers:?} are sent together"));
                    let sent = timeout(DONE, spool.send_all(messages)).await.expect("they end");
                    for (number, outcome) in numbers.into_iter().zip(sent) {
                        self.count_offered();
                        self.ended(number, outcome);
                    }
                }
                // Given up after a while, wherever it is then.
                3 => {
                    let (number, message) = self.next_message();
                    let patience = Duration::from_millis(self.rng.u64(..50));
                    match timeout(patience, spool.send(message)).await {
                        Ok(outcome) => {
                            self.count_offered();
                            self.ended(number, outcome);
                        }
                        Err(_) => {
                            note(format_args!("{number} is given up"));
                            self.program.as_mut().unwrap().maybe_offered += 1;
                        }
                    }
                }
                4 => {
                    let (number, message) = self.next_message();
                    let accepted =
                        timeout(DONE, spool.enqueue(message)).await.expect("it is accepted or not");
                    note(format_args!("the handle of {number} is dropped: {}", accepted.is_ok()));
                    self.count_offered();
                    match accepted {
                        Ok(handle) => drop(handle),
                        Err(error) => self.ended(number, Err(error)),
                    }
                }
                _ => {
                    let (number, message) = self.next_message();
                    let patience = Duration::from_millis(self.rng.u64(..200));
                    match timeout(patience, spool.enqueue(message)).await {
                        Ok(accepted) => self.accepted(number, accepted),
                        Err(_) => {
                            note(format_args!("{number} is not accepted in {patience:?}"));
                            self.offers.get_mut(&number).unwrap().fate = Fate::NotStored;
                        }
                    }
                }
            }
        }
    }

    fn count_offered(&mut self) {
        self.program.as_mut().unwrap().offered += 1;
    }

    fn accepted(&mut self, number: u64, accepted: Result<SpoolHandle, SpoolSendError>) {
        self.count_offered();
        let handle = match accepted {
            Ok(handle) => handle,
            Err(error) => return self.ended(number, Err(error)),
        };
        note(format_args!("{number} is accepted"));
        self.offers.get_mut(&number).unwrap().fate = Fate::Open(Instant::now());
        let (outcomes, program) = (Arc::clone(&self.outcomes), self.programs);
        let watcher = tokio::spawn(async move {
            let outcome = handle.await;
            outcomes.lock().unwrap().push((program, number, outcome));
        });
        let watchers = &mut self.program.as_mut().unwrap().watchers;
        watchers.retain(|watcher| !watcher.is_finished());
        watchers.push(watcher);
    }

    /// Sends a message to a partition while nothing is wrong.
    pub(super) async fn send_at_once(&mut self, partition: Partition) {
        let (number, _) = self.next_message();
        self.lanes.remove(&number);
        let message = Message::new(named(TOPICS[0]), format!("{number:05}")).with_partition(partition);
        let sent = self.now().spool.send(message).await;
        assert!(matches!(sent, Ok(Sent::Stored(_))), "{number} to {partition}: {sent:?}");
        self.count_offered();
        self.ended(number, sent);
    }
}
