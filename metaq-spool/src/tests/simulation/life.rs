//! One run: its brokers, its store, and the programs that follow one another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fastrand::Rng;
use metaq_producer::{
    BrokerId, Outcome, Partition, Producer, ProducerConfig, SendReceipt, Topic, config::Jitter,
    selector::KeyHashSelector,
};
use metaq_testkit::{Broker, EmbeddedRegistry, Stored};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::log::note;
use crate::{
    Fsync, ReplayListener, Sent, SpoolId, SpoolOptions, SpoolSendError, SpoolStats, SpoolingProducer,
    WhenFull, record,
    storage::{Common, Storage},
    store::{Key, Kind, memory::MemoryStore},
};

/// The topics, each with two partitions on every broker. The second is unpublished and published again.
pub(super) const TOPICS: [&str; 2] = ["t", "u"];

pub(super) const PARTITIONS: i32 = 2;

/// The time in which everything is replayed once all faults have ended: the longest pause of a queue is 30 s.
pub(super) const DRAINED: Duration = Duration::from_secs(45);

/// The time in which any end of the program is complete.
const ENDED: Duration = Duration::from_secs(60);

/// What is known about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its handle is polled, since this time.
    Open(Instant),
    /// Its outcome was not seen, or it could be lost.
    Loose,
    Stored,
    Spooled(SpoolId),
    NotStored,
    Unknown,
}

/// A message that was offered.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) program: u64,
    pub(super) fate: Fate,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) stored: u64,
    pub(super) spooled: u64,
    pub(super) not_stored: u64,
    pub(super) unknown: u64,
    pub(super) loose: u64,
    pub(super) set_aside: u64,
    pub(super) dropped: u64,
    pub(super) doubled: u64,
    pub(super) maybe_duplicates: u64,
    pub(super) unknown_attempts: u64,
    pub(super) closed: u64,
    pub(super) let_go: u64,
    pub(super) kills: u64,
    pub(super) power_losses: u64,
    pub(super) lost_with_power: u64,
}

impl Totals {
    fn each(&mut self) -> [&mut u64; 15] {
        [
            &mut self.stored,
            &mut self.spooled,
            &mut self.not_stored,
            &mut self.unknown,
            &mut self.loose,
            &mut self.set_aside,
            &mut self.dropped,
            &mut self.doubled,
            &mut self.maybe_duplicates,
            &mut self.unknown_attempts,
            &mut self.closed,
            &mut self.let_go,
            &mut self.kills,
            &mut self.power_losses,
            &mut self.lost_with_power,
        ]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        self.each().into_iter().zip(other.each()).for_each(|(all, more)| *all += *more);
    }

    pub(super) fn has_all(&self) -> bool {
        self.clone().each().iter().all(|count| **count > 0)
    }
}

/// The program that runs now.
pub(super) struct Program {
    number: u64,
    pub(super) spool: SpoolingProducer,
    pub(super) common: Arc<Common>,
    /// The messages that it has accepted or refused, and those that it may have.
    pub(super) offered: u64,
    pub(super) maybe_offered: u64,
    /// Outcomes that were seen.
    pub(super) stored: u64,
    pub(super) spooled: u64,
    pub(super) failed: u64,
    /// The store may hold messages whose failure was reported.
    pub(super) may_doubt: bool,
    pub(super) watchers: Vec<JoinHandle<()>>,
}

type Outcomes = Arc<Mutex<Vec<(u64, u64, Result<Sent, SpoolSendError>)>>>;

/// The messages that a listener was called for.
#[derive(Debug, Default)]
pub(super) struct Heard(pub(super) Mutex<BTreeSet<SpoolId>>);

impl ReplayListener for Heard {
    fn replayed(&self, id: SpoolId, _: &Topic, _: &SendReceipt) {
        self.0.lock().unwrap().insert(id);
    }
}

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
    max_in_flight: usize,
    seed: u64,
    pub(super) store: MemoryStore,
    /// What a loss of power leaves, unless each commit is forced.
    durable: BTreeMap<Key, Vec<u8>>,
    /// The longest time of a round of the writer in milliseconds.
    pub(super) slowness: Arc<AtomicU64>,
    /// None while one has ended and the next has not begun.
    pub(super) program: Option<Program>,
    /// The number of programs that preceded it.
    pub(super) programs: u64,
    pub(super) is_published: bool,
    pub(super) offers: BTreeMap<u64, Offer>,
    /// What messages are in order with: those of the same topic that name the same partition, or, if partitions
    /// are configured, have the same key.
    pub(super) lanes: BTreeMap<u64, (usize, String)>,
    pub(super) outcomes: Outcomes,
    pub(super) heard: Arc<Heard>,
    ids: BTreeSet<SpoolId>,
    /// Messages that a loss of power brought back.
    pub(super) may_repeat: BTreeSet<u64>,
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

thread_local! {
    static BEGAN: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// The time of day by the clock of the run.
fn wall() -> SystemTime {
    let passed = BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed());
    UNIX_EPOCH + Duration::from_secs(1_000_000_000) + passed
}

fn options(rng: &mut Rng, heard: &Arc<Heard>) -> SpoolOptions {
    let mut options = super::super::options().listener(Arc::clone(heard) as Arc<dyn ReplayListener>);
    options.wall_clock = wall;
    options.fsync = match rng.u8(..4) {
        0 => Fsync::Interval(Duration::from_millis(rng.u64(1..200))),
        1 => Fsync::Never,
        _ => Fsync::Each,
    };
    options.ordered = rng.u8(..3) == 0;
    options.spool_unknown = rng.u8(..4) == 0;
    options.spool_server_errors = rng.bool();
    options.replay_window = *rng.choice(&[1, 2, 8, 2048]).unwrap();
    options.replay_rate = *rng.choice(&[None, None, Some(200)]).unwrap();
    options.max_attempts = rng.u32(1..6);
    match rng.u8(..6) {
        0 => options.max_messages = rng.u64(5..60),
        1 => options.max_bytes = rng.u64(12_000..100_000),
        2 => {
            options.max_messages = rng.u64(5..60);
            options.when_full = WhenFull::DropOldest;
        }
        3 => options.max_age = Some(Duration::from_millis(rng.u64(500..20_000))),
        _ => {}
    }
    options
}

impl Simulation {
    pub(super) async fn new(seed: u64) -> Self {
        // Pauses, and the faults of the store, draw from the thread's numbers.
        fastrand::seed(seed);
        BEGAN.set(Some(Instant::now()));
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
                self.durable = self.store.0.lock().rows.clone();
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
    async fn publish(&mut self) {
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

    fn set_fate(&mut self, number: u64, outcome: Result<Sent, SpoolSendError>) {
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

    async fn end_program(&mut self) {
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

    async fn close_program(&mut self) {
        note("the program closes the spool");
        self.totals.closed += 1;
        let time = Duration::from_millis(self.rng.u64(..1000));
        let closed = timeout(ENDED, self.now().spool.close(time)).await.expect("closing ends");
        for watcher in std::mem::take(&mut self.program.as_mut().unwrap().watchers) {
            timeout(ENDED, watcher).await.expect("each handle ends").unwrap();
        }
        let stats = self.ended_well();
        assert_eq!((closed.waiting, closed.held_aside), (stats.waiting, stats.held_aside));
        self.doubt();
        let program = self.program.take().unwrap();
        self.count(&program.common);
    }

    /// The last clone is dropped without closing the spool, and the last handle later.
    async fn let_program_go(&mut self) {
        note("the program drops the spool");
        self.totals.let_go += 1;
        self.doubt();
        let Program { number, spool, watchers, common, may_doubt, .. } = self.program.take().unwrap();
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
                let is_doubtful = may_doubt && outcome.is_err();
                self.set_fate(message, outcome);
                if is_doubtful {
                    self.offers.get_mut(&message).unwrap().fate = Fate::Loose;
                }
            }
        }
        self.assert_none_open();
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

    /// The store may hold messages of the program that were reported as not stored, and that it could not take
    /// out before its end.
    fn doubt(&mut self) {
        let program = self.programs;
        let is_meant = |offer: &&mut Offer| offer.program == program && offer.fate == Fate::NotStored;
        if self.now().may_doubt {
            self.offers.values_mut().filter(is_meant).for_each(|offer| offer.fate = Fate::Loose);
        }
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
        self.doubt();
        for offer in self.offers.values_mut().filter(|offer| matches!(offer.fate, Fate::Open(_))) {
            offer.fate = Fate::Loose;
        }
        let Program { spool, watchers, common, .. } = self.program.take().unwrap();
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
        self.durable = self.store.0.lock().rows.clone();
        self.publish().await;
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

/// What each program is made of.
struct Setup<'a> {
    registry: &'a EmbeddedRegistry,
    is_configured: bool,
    count: usize,
    send_timeout: Duration,
    max_in_flight: usize,
    seed: u64,
}

impl Setup<'_> {
    fn producer(&self) -> Producer {
        let mut config = ProducerConfig::default();
        config.topic_timeout = Duration::from_millis(50);
        config.publish_timeout = Duration::from_millis(200);
        config.send_timeout = self.send_timeout;
        config.max_in_flight = self.max_in_flight;
        config.retry.max_attempts = 1 + (self.seed % 3) as u32;
        config.retry.jitter = Jitter::seeded(self.seed);
        let mut connection = config.connection.clone();
        // As a producer limits its own connections.
        connection.max_in_flight = (config.max_in_flight / 2).max(1);
        let builder = Producer::builder().discovery(self.registry.discovery());
        let builder = builder.transport(self.registry.transport_with(connection)).config(config);
        let builder = builder.selector(KeyHashSelector::new());
        let set = (0..self.count).map(|id| format!("{id}:{PARTITIONS};")).collect::<String>();
        let builder = if self.is_configured {
            builder.partitions(named(TOPICS[0]), set.parse().unwrap())
        } else {
            builder
        };
        builder.build().unwrap()
    }
}

impl Program {
    fn start(
        number: u64,
        setup: &Setup<'_>,
        options: &SpoolOptions,
        store: &MemoryStore,
        slowness: &Arc<AtomicU64>,
    ) -> Result<Self, crate::OpenError> {
        let slowness = Arc::clone(slowness);
        let round = move || {
            let most = slowness.load(Ordering::Relaxed);
            Duration::from_millis(if most == 0 { 0 } else { fastrand::u64(..most) })
        };
        let may_doubt = {
            let mut memory = store.0.lock();
            // A program that begins opens the store.
            memory.needs_reopening = false;
            memory.failing_reopens > 0
        };
        let storage = Storage::start_on_task(options, Box::new(store.clone()), round)?;
        let common = Arc::clone(&storage.common);
        let spool = SpoolingProducer::start(setup.producer(), options.clone(), storage, Handle::current());
        Ok(Self {
            number,
            spool,
            common,
            offered: 0,
            maybe_offered: 0,
            stored: 0,
            spooled: 0,
            failed: 0,
            may_doubt,
            watchers: Vec::new(),
        })
    }
}
