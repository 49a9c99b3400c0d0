//! The transactions of a run: short ones, some that stay open over many steps, some that are abandoned, and
//! XA transactions whose decision is made up for at the end.

use std::time::Duration;

use fastrand::Rng;
use metaq_producer::{
    Message, Partition, Producer,
    transaction::{Transaction, TransactionErrorKind, TransactionOptions, TransactionOutcome},
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart, XaVote},
};
use tokio::time::{Instant, timeout};

use crate::{
    log::note,
    schedule::{PROMPTLY, TOPICS},
};

/// The time that a step has; what it may take longer is no more than for a message.
const REQUEST: Duration = Duration::from_millis(700);
/// A step may rest on another one: a message on the transaction's beginning, a commit on its messages.
const STEP: Duration = Duration::from_secs(8);

/// The required fate of the messages of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stored,
    NotStored,
    AllOrNothing,
    /// Each is stored once at most.
    Any,
}

/// Waits for an operation, which ends in its time, and promptly if nothing is in its way.
async fn timed<T>(is_calm: bool, operation: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let outcome = timeout(STEP, operation).await.expect("an operation of a transaction ends");
    let took = started.elapsed();
    assert!(!is_calm || took <= PROMPTLY, "nothing was in the way of a transaction, and it took {took:?}");
    outcome
}

/// The transactions of a run.
pub(crate) struct Transacting {
    rng: Rng,
    brokers: i32,
    is_pinned: bool,
    xa: XaProducer,
    /// Whether each operation has to end promptly.
    is_calm: bool,
    /// Those that are open, with their messages.
    open: Vec<(Transaction, Vec<String>)>,
    begun: u64,
    /// The messages of transactions that were offered.
    pub(crate) offered: u64,
    pub(crate) ended: Vec<(Vec<String>, Fate)>,
}

impl Transacting {
    pub(crate) async fn new(producer: &Producer, seed: u64, brokers: usize, is_pinned: bool) -> Self {
        let xa = XaProducer::new(producer, UniqueQualifier::new("simulation").unwrap());
        let xa = xa.with_request_timeout(REQUEST);
        xa.publish_topic(&TOPICS[0].parse().unwrap()).await.unwrap();
        Self {
            rng: Rng::with_seed(seed ^ 0x7472_616e),
            brokers: brokers as i32,
            is_pinned,
            xa,
            is_calm: false,
            open: Vec::new(),
            begun: 0,
            offered: 0,
            ended: Vec::new(),
        }
    }

    /// `is_calm` if nothing is wrong with any broker, and all have capacity.
    pub(crate) async fn step(&mut self, producer: &Producer, is_calm: bool) {
        self.is_calm = is_calm;
        match self.rng.u8(..8) {
            0..3 => {
                self.begin(producer);
                self.send().await;
                self.end().await;
            }
            3 => self.begin(producer),
            4 => self.send().await,
            5 => self.end().await,
            _ => self.global().await,
        }
    }

    /// A broker has lost a partition. A commit that is still on its way to it stores the rest, as a Java
    /// broker does.
    pub(crate) fn partition_lost(&mut self) {
        for (_, fate) in &mut self.ended {
            if *fate == Fate::AllOrNothing {
                *fate = Fate::Any;
            }
        }
    }

    fn begin(&mut self, producer: &Producer) {
        let options = TransactionOptions::new().with_request_timeout(REQUEST);
        self.open.push((producer.begin(options), Vec::new()));
    }

    fn message(&mut self, what: &str) -> (String, Message) {
        self.offered += 1;
        let payload = format!("{what} {:05}{}", self.offered, " ".repeat(self.rng.usize(..3) * 5000));
        let mut message = Message::new(TOPICS[0].parse().unwrap(), payload.clone());
        if self.is_pinned {
            let partition = Partition::new(self.rng.i32(0..self.brokers), self.rng.i32(0..2));
            message = message.with_key(partition.to_string());
        }
        (payload, message)
    }

    /// Sends some messages in the transaction that was begun last.
    async fn send(&mut self) {
        let Some((mut transaction, mut parts)) = self.open.pop() else { return };
        for _ in 0..self.rng.usize(1..5) {
            let (payload, message) = self.message("local");
            let sent = timed(self.is_calm, transaction.send(message)).await;
            match sent {
                Ok(_) => parts.push(payload),
                Err(error) => {
                    note(format_args!("{} is not part of its transaction: {error}", payload.trim_end()));
                    self.ended.push((vec![payload], Fate::NotStored));
                    if error.outcome() != TransactionOutcome::Open {
                        self.ended.push((parts, Fate::NotStored));
                        return;
                    }
                }
            }
        }
        self.open.push((transaction, parts));
    }

    /// Commits, rolls back or abandons one of the open transactions.
    async fn end(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let (transaction, parts) = self.open.swap_remove(self.rng.usize(..self.open.len()));
        let fate = match self.rng.u8(..5) {
            0 => {
                note("a transaction is abandoned");
                drop(transaction);
                Fate::NotStored
            }
            1 => {
                let ended = timed(self.is_calm, transaction.rollback()).await;
                note(format_args!("a transaction is rolled back: {}", ended.is_ok()));
                Fate::NotStored
            }
            _ => match timed(self.is_calm, transaction.commit()).await {
                Ok(_) => Fate::Stored,
                // A broker that has lost a partition since stores the rest.
                Err(error) if error.kind() == TransactionErrorKind::Rejected => Fate::Any,
                Err(error) if error.outcome() == TransactionOutcome::Unknown => Fate::AllOrNothing,
                Err(_) => Fate::NotStored,
            },
        };
        note(format_args!("{} messages of a transaction are {fate:?}", parts.len()));
        self.ended.push((parts, fate));
    }

    /// An XA transaction, which ends where its broker can be reached.
    async fn global(&mut self) {
        let Ok(mut resource) = self.xa.resource() else { return };
        self.begun += 1;
        let xid = self.xa.xid(1, format!("{}", self.begun).as_bytes(), b"").unwrap();
        let started = timed(self.is_calm, resource.start(&xid, XaStart::New)).await;
        if started.is_err() {
            return;
        }
        let (mut parts, mut is_sound) = (Vec::new(), true);
        for _ in 0..self.rng.usize(1..4) {
            let (payload, message) = self.message("global");
            let sent = timed(self.is_calm, resource.send(message)).await;
            is_sound &= sent.is_ok();
            parts.push(payload);
            if !is_sound {
                break;
            }
        }
        is_sound &= timed(self.is_calm, resource.end(&xid, XaEnd::Success)).await.is_ok();
        let commits = self.rng.u8(..3) > 0;
        let vote = if is_sound { timed(self.is_calm, resource.prepare(&xid)).await.ok() } else { None };
        let fate = match vote {
            Some(XaVote::Prepared) if commits => {
                match timed(self.is_calm, resource.commit(&xid, false)).await {
                    Ok(()) => Fate::Stored,
                    // It is rolled back in the end, unless it was committed, in part if the broker lost a
                    // partition.
                    Err(_) => Fate::Any,
                }
            }
            _ => {
                let _ = timed(self.is_calm, resource.rollback(&xid)).await;
                Fate::NotStored
            }
        };
        note(format_args!("{} messages of an XA transaction are {fate:?}", parts.len()));
        self.ended.push((parts, fate));
    }

    /// Ends everything that is still open. All brokers can be reached.
    pub(crate) async fn finish(&mut self) {
        while !self.open.is_empty() {
            self.end().await;
        }
        let recovery = timed(self.is_calm, self.xa.recover()).await;
        assert!(recovery.failures.is_empty(), "{:?}", recovery.failures);
        note(format_args!("{} prepared transactions are found", recovery.transactions.len()));
        for found in recovery.transactions {
            let mut resource = self.xa.resource_at(&found.broker).unwrap();
            let ended = timed(self.is_calm, resource.rollback(&found.xid)).await;
            assert!(ended.is_ok(), "{ended:?}");
        }
    }
}
