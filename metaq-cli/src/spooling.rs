//! A producer with a spool, for the commands that send through one: it is opened, what is replayed comes back
//! for the report, and what happens to the folder is printed to stderr.

use std::{
    collections::HashMap,
    io::ErrorKind,
    mem::{Discriminant, discriminant},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use metaq_producer::{Outcome, Partition, Producer, SendError, SendErrorKind, SendReceipt, Topic};
use metaq_spool::{
    OpenError, OpenErrorKind, ReplayListener, SpoolEvent, SpoolId, SpoolOptions, SpoolStats, SpoolingProducer,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    exit_status::{
        EXIT_FAILED, EXIT_LOCAL_IO, EXIT_NOT_FOUND, EXIT_NOT_SENT, EXIT_REFUSED, EXIT_UNKNOWN,
        EXIT_UNREACHABLE, EXIT_USAGE,
    },
    report::{Replayed, Report},
    stderr::{describe, print_error, print_message},
};

/// The time that messages may take to be written to the folder when sending them has timed out.
pub(crate) const WRITE_TIME: Duration = Duration::from_secs(5);

/// The pause between two writes at the end.
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// The time between two messages about events of a kind.
const EVENT_INTERVAL: Duration = Duration::from_secs(10);

/// A queue of the folder.
type Queue = (Topic, Option<Partition>);

/// Sends what becomes of spooled messages to the report.
struct Listener {
    replayed: mpsc::UnboundedSender<Replayed>,
    /// The exit statuses of the last failed attempts.
    failures: Arc<Mutex<HashMap<Queue, u8>>>,
}

impl ReplayListener for Listener {
    fn replayed(&self, id: SpoolId, _: &Topic, receipt: &SendReceipt) {
        // The receiver is gone when nothing is reported any more.
        let _ = self.replayed.send(Replayed::Stored(id, receipt.clone()));
    }

    fn set_aside(&self, id: SpoolId, _: &Topic, _: Option<Partition>, reason: &str) {
        let _ = self.replayed.send(Replayed::SetAside(id, reason.to_owned()));
    }

    fn failed(&self, _: SpoolId, topic: &Topic, partition: Option<Partition>, error: &SendError) {
        self.failures.lock().insert((topic.clone(), partition), status_of(error));
    }
}

/// Returns the status for messages that wait because of an error.
fn status_of(error: &SendError) -> u8 {
    match (error.outcome(), error.kind()) {
        (Outcome::Rejected, _) => EXIT_REFUSED,
        (Outcome::NotSent, SendErrorKind::NotConnected) => EXIT_UNREACHABLE,
        (Outcome::NotSent, SendErrorKind::NoPartition | SendErrorKind::NotPublished) => EXIT_NOT_FOUND,
        (Outcome::NotSent, _) => EXIT_NOT_SENT,
        _ => EXIT_UNKNOWN,
    }
}

/// A spool that is open.
pub(crate) struct Spool {
    pub(crate) producer: SpoolingProducer,
    replayed: mpsc::UnboundedReceiver<Replayed>,
    failures: Arc<Mutex<HashMap<Queue, u8>>>,
    is_paused: bool,
}

impl Spool {
    /// Opens the spool of a folder. Nothing is replayed before the first [`report`](Self::report), so that
    /// each replayed message gets its line. A failure is printed; the error is the exit status.
    pub(crate) async fn open(producer: Producer, options: SpoolOptions) -> Result<Self, u8> {
        let (sender, replayed) = mpsc::unbounded_channel();
        let failures = Arc::<Mutex<HashMap<_, _>>>::default();
        let listener = Listener { replayed: sender, failures: Arc::clone(&failures) };
        let opened = SpoolingProducer::open(producer, options.listener(Arc::new(listener))).await;
        let producer = opened.map_err(|error| not_opened(&error))?;
        // The runtime has one thread, which the replay has not had since.
        producer.set_replay_paused(true);
        let mut events = producer.events();
        tokio::spawn(async move {
            let mut printed = HashMap::new();
            while let Some(event) = events.next().await {
                print_event(&event, &mut printed);
            }
        });
        Ok(Self { producer, replayed, failures, is_paused: true })
    }

    /// Waits for what becomes of the next spooled message.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Replayed {
        match self.replayed.recv().await {
            Some(replayed) => replayed,
            // The spool, which has the sender, is open.
            None => std::future::pending().await,
        }
    }

    /// Reports what became of spooled messages as the output has capacity. Replay pauses while it has
    /// none, and when writing has failed.
    pub(crate) fn report(&mut self, report: &mut Report) {
        while report.has_capacity()
            && let Ok(replayed) = self.replayed.try_recv()
        {
            report.replayed(&replayed);
        }
        let is_paused = !report.has_capacity() || report.has_failed();
        if self.is_paused != is_paused {
            self.is_paused = is_paused;
            self.producer.set_replay_paused(is_paused);
        }
    }

    /// Returns the exit status for messages that are left: that of the worst reason.
    pub(crate) fn status_of_left(&self, stats: &SpoolStats) -> Option<u8> {
        const WORST_FIRST: [u8; 5] =
            [EXIT_UNKNOWN, EXIT_REFUSED, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_NOT_SENT];
        let failures = self.failures.lock();
        let of_left = |status: &u8| {
            let mut left = stats.queues.iter().map(|queue| (queue.topic.clone(), queue.partition));
            left.any(|queue| failures.get(&queue) == Some(status))
        };
        WORST_FIRST.into_iter().find(of_left)
    }
}

/// Has a spool write what is handed to it, also within its interval, until this is dropped: at the end,
/// nothing comes any more that it could be written together with.
pub(crate) async fn keep_written(producer: SpoolingProducer) {
    loop {
        producer.flush().await;
        sleep(FLUSH_PAUSE).await;
    }
}

/// Prints why a folder can't be used; returns the exit status.
pub(crate) fn not_opened(error: &OpenError) -> u8 {
    print_message(&describe(error));
    match error.kind() {
        OpenErrorKind::Io => EXIT_LOCAL_IO,
        OpenErrorKind::NoRuntime => EXIT_FAILED,
        _ => EXIT_USAGE,
    }
}

/// Fails unless a folder holds a spool; prints why, and returns the exit status.
pub(crate) fn ensure_exists(folder: &Path) -> Result<(), u8> {
    if metaq_spool::SpoolFolder::exists(folder) {
        return Ok(());
    }
    let name = folder.display();
    // Looks for a name within the folder, for which permissions are needed.
    let reason = match std::fs::metadata(folder.join(".")) {
        Ok(_) => "it is no spool",
        Err(error) if error.kind() == ErrorKind::NotADirectory => "it is no spool",
        Err(error) if error.kind() == ErrorKind::NotFound => "there is no such folder",
        Err(error) => {
            print_error(&format!("spool {name} was not opened: looking into it failed"), &error);
            return Err(EXIT_LOCAL_IO);
        }
    };
    print_message(&format!("spool {name} was not opened: {reason}; check its name"));
    Err(EXIT_USAGE)
}

/// Prints what happened to the folder, as far as no line of the report has it. Of each kind, what happens
/// again within [`EVENT_INTERVAL`] is left out; the account has the counts. `printed` has the times.
fn print_event(event: &SpoolEvent, printed: &mut HashMap<Discriminant<SpoolEvent>, Instant>) {
    let is_meant = matches!(
        event,
        SpoolEvent::Dropped { .. }
            | SpoolEvent::Full
            | SpoolEvent::StoreFailed { .. }
            | SpoolEvent::FileSetAside { .. }
            | SpoolEvent::Damaged { .. }
    );
    let now = Instant::now();
    let kind = discriminant(event);
    if is_meant && printed.get(&kind).is_none_or(|last| now - *last >= EVENT_INTERVAL) {
        printed.insert(kind, now);
        print_message(&event.to_string());
    }
}

/// Formats the account of a spool for people, after it was closed.
pub(crate) fn describe_account(folder: &Path, stats: &SpoolStats) -> String {
    let SpoolStats { spooled, replayed, set_aside, dropped, damaged, waiting, held_aside, .. } = *stats;
    let mut text =
        format!("spool {}: {spooled} spooled, {replayed} replayed, {set_aside} set aside", folder.display());
    let doubled = stats.maybe_duplicates + stats.unknown_attempts;
    for (count, became) in [(dropped, "dropped"), (damaged, "damaged"), (doubled, "perhaps stored twice")] {
        if count > 0 {
            text += &format!(", {count} {became}");
        }
    }
    format!("{text}; {} left in the folder{}", waiting + held_aside, of_them(held_aside))
}

/// Says how many of the messages that a text is about were set aside, if any.
pub(crate) fn of_them(set_aside: u64) -> String {
    if set_aside > 0 { format!(", {set_aside} of them set aside") } else { String::new() }
}
