//! One run: its brokers, its store, and what is done at each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use fastrand::Rng;
use metaq_producer::{BrokerId, Outcome, Partition, Topic};
use metaq_testkit::{Broker, EmbeddedRegistry, Stored};
use tokio::time::{Instant, sleep, timeout};

use super::{
    log::note,
    outcomes::{Fate, Heard, Offer, Totals},
    program::{Program, Setup, begin_clock, options},
};
use crate::{
    Sent, SpoolId, SpoolOptions, SpoolSendError, SpoolStats, record,
    store::{Key, Kind, memory::MemoryStore},
};

/// The topics, each with two partitions on every broker. The second is unpublished and published again.
pub(super) const TOPICS: [&str; 2] = ["t", "u"];

pub(super) const PARTITIONS: i32 = 2;

/// The time in which everything is replayed once all faults have ended: the longest pause of a queue is 30 s.
pub(super) const DRAINED: Duration = Duration::from_secs(45);

/// The time in which any end of the program is complete.
pub(super) const ENDED: Duration = Duration::from_secs(60);

type Outcomes = Arc<Mutex<Vec<(u64, u64, Result<Sent, SpoolSendError>)>>>;

pub(super) struct Simulation {
    pub(super) rng: Rng,
    pub(super) registry: EmbeddedRegistry,
    pub(super) brokers: Vec<Option<Broker>>,
    pub(super) frozen: Vec<bool>,
    pub(super) stranded: Vec<bool>,
    /// The number of brokers that preceded each present one.
    pub(super) lives: Vec<u64>,
    pub(super) options: SpoolOptions,
    pub(super) is_configured: bool,
    pub(super) send_timeout: Duration,
    pub(super) max_in_flight: usize,
    pub(super) seed: u64,
    pub(super) store: MemoryStore,
    /// What a loss of power leaves, unless each commit is forced.
    pub(super) durable: BTreeMap<Key, Vec<u8>>,
    /// The longest time of a round of the writer in milliseconds.
    pub(super) slowness: Arc<AtomicU64>,
    /// None while one has ended and the next has not begun.
    pub(super) program: Option<Program>,
    /// The number of programs that preceded it.
    pub(super) programs: u64,
    pub(super) is_published: bool,
    pub(super) offers: BTreeMap<u64, Offer>,
    /// What messages are in order with: those of the same topic that name the same partition, or, if
    /// partitions are configured, have the same key.
    pub(super) lanes: BTreeMap<u64, (usize, String)>,
    pub(super) outcomes: Outcomes,
    pub(super) heard: Arc<Heard>,
    pub(super) ids: BTreeSet<SpoolId>,
    /// Messages that a loss of power brought back.
    pub(super) may_repeat: BTreeSet<u64>,
    /// Messages that programs may have dropped just before their end, without counting them.
    pub(super) maybe_dropped: u64,
    /// What a loss of power leaves may have messages that were reported as not stored.
    pub(super) is_durable_in_doubt: bool,
    /// What brokers have stored, by broker, its life, and the message's id.
    pub(super) stored: BTreeMap<(BrokerId, u64, i64), Stored>,
    pub(super) totals: Totals,
}

pub(super) fn named(topic: &str) -> Topic {
    topic.parse().unwrap()
}

pub(super) fn number_in(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().trim_end().parse().unwrap()
}

impl Simulation {
    pub(super) async fn new(seed: u64) -> Self {
        // Pauses, and the faults of the store, draw from the thread's numbers.
        fastrand::seed(seed);
        begin_clock();
        let mut rng = Rng::with_seed(seed);
        let registry = EmbeddedRegistry::new();
        let count = rng.usize(1..4);
        let brokers: Vec<_> = (0..count).map(|id| Some(broker(&registry, id))).collect();
        let heard = Arc::new(Heard::default());
        let options = options(&mut rng, &heard);
        let is_configured = rng.bool();
        let send_timeout = Duration::from_millis(rng.u64(100..2000));
        let max_in_flight = if rng.u8(..3) == 0 { rng.usize(1..20) } else { 1000 };
        note(format_args!(
            "{count} brokers, {options:?}, configured partitions: {is_configured}, {send_timeout:?}, \
             max_in_flight={max_in_flight}"
        ));
        let store = MemoryStore::default();
        let slowness = Arc::new(AtomicU64::new(0));
        let setup = Setup { registry: &registry, is_configured, count, send_timeout, max_in_flight, seed };
        let program = Program::start(0, &setup, &options, &store, &slowness).unwrap();
        let durable = store.0.lock().rows.clone();
        let mut this = Self {
            frozen: vec![false; count],
            stranded: vec![false; count],
            lives: vec![0; count],
            durable,
            is_published: true,
            offers: BTreeMap::new(),
            lanes: BTreeMap::new(),
            outcomes: Outcomes::default(),
            ids: BTreeSet::new(),
            may_repeat: BTreeSet::new(),
            maybe_dropped: 0,
            is_durable_in_doubt: false,
            stored: BTreeMap::new(),
            totals: Totals::default(),
            rng,
            registry,
            brokers,
            options,
            is_configured,
            send_timeout,
            max_in_flight,
            seed,
            store,
            slowness,
            program: Some(program),
            programs: 0,
            heard,
        };
        this.publish().await;
        this
    }

    pub(super) fn now(&self) -> &Program {
        self.program.as_ref().unwrap()
    }

    pub(super) async fn step(&mut self) {
        match self.rng.u8(..28) {
            0..11 => self.send().await,
            11..14 => self.fault(),
            14 => self.change_broker(),
            15..17 => self.fail_store(),
            17 => self.heal(),
            18 if self.rng.bool() => self.end_program().await,
            19 => self.change_topic().await,
            20 => self.ask().await,
            21 if self.rng.u8(..4) == 0 => self.calm().await,
            _ => sleep(Duration::from_millis(self.rng.u64(..400))).await,
        }
        // Others come to run a little, so that each end of the program finds them at another place.
        for _ in 0..self.rng.u8(..8) {
            tokio::task::yield_now().await;
        }
        self.check();
    }

    /// Small requests that change nothing.
    async fn ask(&mut self) {
        match self.rng.u8(..3) {
            0 => {
                note("the operating system writes what it has");
                let memory = self.store.0.lock();
                (self.durable, self.is_durable_in_doubt) = (memory.rows.clone(), memory.is_in_doubt);
            }
            1 => self.now().spool.replay_now(),
            _ => {
                note("flushes");
                // In order, one message of a queue after the other has its time.
                let flushed = timeout(Duration::from_secs(600), self.now().spool.flush()).await;
                assert!(flushed.is_ok(), "a flush is overdue");
            }
        }
    }

    async fn change_topic(&mut self) {
        if std::mem::replace(&mut self.is_published, false) {
            note("unpublishes the second topic");
            self.now().spool.producer().unpublish_topic(&named(TOPICS[1]));
        } else {
            self.is_published = true;
            self.publish().await;
        }
    }

    /// Publishes the topics. Where that fails, it is repeated in the background.
    pub(super) async fn publish(&mut self) {
        for topic in &TOPICS[..1 + usize::from(self.is_published)] {
            let published = self.now().spool.publish_topic(&named(topic)).await;
            note(format_args!("{topic} is published: {published:?}"));
        }
    }

    /// Ends all faults, and waits until everything is replayed.
    async fn calm(&mut self) {
        self.heal();
        for index in 0..self.brokers.len() {
            if self.brokers[index].is_none() {
                self.start_broker(index);
            }
        }
        self.is_published = true;
        self.publish().await;
        note("everything is to be replayed");
        let since = Instant::now();
        let asks = self.rng.bool();
        let held = |stats: &SpoolStats| stats.queues.iter().map(|queue| queue.waiting).sum::<u64>();
        if asks {
            self.now().spool.replay_now();
        }
        loop {
            self.check();
            let stats = self.now().spool.stats();
            if held(&stats) == 0 && (self.options.ordered || stats.in_flight == 0) {
                return note(format_args!("everything was replayed in {:?}", since.elapsed()));
            }
            // In order, each live message may take its whole time before that.
            let most = if stats.in_flight > 0 { ENDED * 10 } else { DRAINED };
            assert!(since.elapsed() <= most, "still waiting: {stats:#?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Takes the outcomes that handles have had.
    pub(super) fn take_outcomes(&mut self) {
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
        for (program, number, outcome) in outcomes {
            // Those of earlier programs came after their end.
            if program == self.programs {
                self.ended(number, outcome);
            }
        }
    }

    /// A message of the program has its outcome.
    pub(super) fn ended(&mut self, number: u64, outcome: Result<Sent, SpoolSendError>) {
        let program = self.program.as_mut().unwrap();
        match &outcome {
            Ok(Sent::Stored(_)) => program.stored += 1,
            Ok(Sent::Spooled(_)) => program.spooled += 1,
            Err(_) => program.failed += 1,
        }
        self.set_fate(number, outcome);
    }

    pub(super) fn set_fate(&mut self, number: u64, outcome: Result<Sent, SpoolSendError>) {
        note(format_args!("{number}: {outcome:?}"));
        let fate = match outcome {
            Ok(Sent::Stored(_)) => Fate::Stored,
            Ok(Sent::Spooled(id)) => {
                assert!(self.ids.insert(id), "the number {id} is used twice");
                Fate::Spooled(id)
            }
            Err(error) if error.outcome() == Outcome::Unknown => Fate::Unknown,
            Err(_) => Fate::NotStored,
        };
        self.offers.get_mut(&number).unwrap().fate = fate;
    }
    /// The number of rows of a kind in the store.
    pub(super) fn rows(&self, kind: Kind) -> u64 {
        self.store.0.lock().rows.keys().filter(|key| key.kind == kind).count() as u64
    }

    pub(super) async fn finish(mut self) -> Totals {
        self.calm().await;
        // A connection over which nonsense came may be given up only when a heartbeat isn't answered.
        sleep(Duration::from_secs(8)).await;
        for index in 0..self.brokers.len() as i32 {
            for partition in 0..PARTITIONS {
                self.send_at_once(Partition::new(BrokerId(index).0, partition)).await;
            }
        }
        self.close_program().await;
        self.compare();
        self.totals
    }
}

/// The number of the message in a row, waiting or set aside.
pub(super) fn payload_number(key: Key, row: &[u8]) -> Option<u64> {
    let row = match key.kind {
        Kind::Message => row.to_vec(),
        Kind::SetAside => record::SetAside::decode(row).unwrap().row,
        _ => return None,
    };
    Some(number_in(record::decode(row).unwrap().message.payload()))
}

pub(super) fn broker(registry: &EmbeddedRegistry, id: usize) -> Broker {
    let builder = Broker::builder().id(id as i32).seed(id as u64).register_with(registry);
    let builder = TOPICS.iter().fold(builder, |builder, topic| builder.topic(topic, PARTITIONS as u32));
    builder.start_without_port().unwrap()
}
