//! Opening a spool.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, atomic::AtomicBool},
};

use metaq_producer::Producer;
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, watch},
};

use super::{Owner, SpoolingProducer};
use crate::{
    error::{OpenError, OpenErrorKind},
    failing::Failing,
    lanes::Lanes,
    options::SpoolOptions,
    pace::Pace,
    places::Places,
    replay::{self, EndOfReplay},
    shared::{LiveCounts, Shared, Topics},
    storage::Storage,
    unsettled::Unsettled,
};

impl SpoolingProducer {
    /// Opens the spool in a folder, and begins to replay what an earlier process has left there.
    ///
    /// It takes milliseconds, however much the folder holds, and doesn't wait for brokers.
    ///
    /// # Errors
    /// When another process uses the folder, which the error names; when the folder can't be used; and when a
    /// setting makes no sense.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the folder as it was, in use until the call would have returned.
    pub async fn open(producer: Producer, options: SpoolOptions) -> Result<Self, OpenError> {
        let no_runtime = || {
            let text =
                "it has to be opened within a tokio runtime, on which messages are replayed".to_owned();
            OpenError::new(OpenErrorKind::NoRuntime, &options.folder, text)
        };
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let copy = options.clone();
        let opened = runtime.spawn_blocking(move || Storage::open(&copy)).await;
        let storage = opened.map_err(|_| no_runtime())??;
        Ok(Self::start(producer, options, storage, runtime))
    }

    /// Starts the tasks of a spool.
    pub(crate) fn start(
        producer: Producer,
        options: SpoolOptions,
        storage: Storage,
        runtime: Handle,
    ) -> Self {
        let (publish, to_publish) = mpsc::unbounded_channel();
        let (orphans, to_drive) = mpsc::unbounded_channel();
        let held: BTreeSet<_> =
            storage.common.index.filled().iter().map(|queue| queue.key.topic.clone()).collect();
        for topic in &held {
            // Its receiver is at hand.
            let _ = publish.send(topic.clone());
        }
        let lanes = options.ordered.then(|| Lanes::new(runtime.clone()));
        let events = producer.events();
        let shared = Arc::new(Shared {
            producer,
            pace: Pace::new(options.replay_rate),
            places: Places::default(),
            storage,
            live: LiveCounts::default(),
            topics: Topics::new(held.into_iter().collect::<HashSet<_>>(), publish),
            replay_now: Notify::new(),
            is_closed: AtomicBool::new(false),
            is_healthy: AtomicBool::new(false),
            is_plain: !options.ordered && !options.spool_unknown,
            options,
            closing: watch::Sender::new(false),
            replay_ended: watch::Sender::new(false),
            orphans,
            driven: Unsettled::default(),
            awaited: Unsettled::default(),
            failing: Failing::default(),
        });
        let end = EndOfReplay(Arc::clone(&shared));
        runtime.spawn(replay::run(Arc::clone(&shared), events, end));
        runtime.spawn(replay::publish(Arc::clone(&shared), to_publish));
        runtime.spawn(replay::drive(to_drive));
        Self { inner: Arc::new(Owner { shared, lanes }) }
    }
}
