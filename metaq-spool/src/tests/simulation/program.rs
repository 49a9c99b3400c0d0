//! The programs of a run, and their settings.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fastrand::Rng;
use metaq_producer::{Producer, ProducerConfig, config::Jitter, selector::KeyHashSelector};
use metaq_testkit::EmbeddedRegistry;
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};

use super::{
    life::{PARTITIONS, TOPICS, named},
    outcomes::Heard,
};
use crate::{
    Fsync, ReplayListener, SpoolOptions, SpoolingProducer, WhenFull,
    storage::{Common, Storage},
    store::memory::MemoryStore,
};

/// The program that runs now.
pub(super) struct Program {
    pub(super) number: u64,
    pub(super) spool: SpoolingProducer,
    pub(super) common: Arc<Common>,
    /// The messages that it has accepted or refused, and those that it may have.
    pub(super) offered: u64,
    pub(super) maybe_offered: u64,
    /// Outcomes that were seen.
    pub(super) stored: u64,
    pub(super) spooled: u64,
    pub(super) failed: u64,
    pub(super) watchers: Vec<JoinHandle<()>>,
}

thread_local! {
    static BEGAN: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// Begins the clock of a run.
pub(super) fn begin_clock() {
    BEGAN.set(Some(Instant::now()));
}

/// The time of day by the clock of the run.
fn wall() -> SystemTime {
    let passed = BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed());
    UNIX_EPOCH + Duration::from_secs(1_000_000_000) + passed
}

pub(super) fn options(rng: &mut Rng, heard: &Arc<Heard>) -> SpoolOptions {
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

/// What each program is made of.
pub(super) struct Setup<'a> {
    pub(super) registry: &'a EmbeddedRegistry,
    pub(super) is_configured: bool,
    pub(super) count: usize,
    pub(super) send_timeout: Duration,
    pub(super) max_in_flight: usize,
    pub(super) seed: u64,
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
    pub(super) fn start(
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
        // A program that begins opens the store.
        store.0.lock().needs_reopening = false;
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
            watchers: Vec::new(),
        })
    }
}
