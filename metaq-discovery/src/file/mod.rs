//! Brokers that are listed in a file.

mod parse;
mod read;
mod scan;

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvent, DiscoveryEvents, EventPublisher,
    RegisteredBrokers, TopicWatch,
    backend::{
        bad_entries::{BadEntryReports, UnusableEntry},
        deadline::after,
        notices::{Notice, Notices},
        publishers::Publishers,
        task::{TaskSlot, runtime},
    },
    view::ViewSource,
};

use parse::{FileContent, Parsed};
use scan::{LastRead, ScanResult, Scans};

/// The interval of scans, and the time for which a new content must stay the same to be accepted.
const INTERVAL: Duration = Duration::from_millis(500);

/// The time for which a call waits for the content of the file to settle.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Brokers that are listed in a TOML or JSON file, which is read again when it changes.
///
/// ```toml
/// [brokers]
/// 0 = "meta://10.0.0.1:8123"
/// 1 = "meta://10.0.0.2:8123"
///
/// # How many partitions of the topic each broker has.
/// [topics.orders]
/// 0 = 4
/// 1 = 2
/// ```
///
/// A file whose name ends with `.json` is JSON of the same shape, any other file is TOML. While a topic is
/// watched, the file is scanned twice a second on separate threads. A change is accepted when two scans that
/// are half a second apart find the same content, so the file may be replaced in any way, including a write
/// in several parts. The first content is accepted immediately if the file was last written at least half a
/// second before. Comments and white space do not count as changes. A call that finds a change waits until it
/// is accepted. If the content differs at each scan for 5 s, the accepted content remains valid, or the call
/// fails if there is none.
///
/// While the file is missing, malformed, or can't be read within 5 s, the last views remain valid. An entry
/// that can't be used, such as the id `00`, does not affect the others. Both are logged and sent to
/// [`events`](Discovery::events).
///
/// The file must be a regular file of at most 64 MiB.
#[derive(Clone)]
pub struct FileDiscovery {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    scans: watch::Sender<Scans>,
    /// Held by the thread that reads the file.
    reading: Mutex<()>,
    last_read: Mutex<Option<LastRead>>,
    scan_state: Mutex<ScanState>,
    state: Mutex<State>,
    events: EventPublisher,
    notices: Notices,
    /// The task that scans the file.
    task: TaskSlot,
}

/// The state that results from all scans.
#[derive(Debug, Default)]
struct ScanState {
    /// The accepted content.
    settled: Option<Parsed>,
    /// The content that is not accepted yet, and the start of the scan that found it first.
    unsettled: Option<(Parsed, Instant)>,
    /// The time since which scans have found other contents than the accepted one.
    unsettled_since: Option<Instant>,
    /// Set once a warning about that was logged.
    is_reported: bool,
    /// Set if the last scan could read the file.
    readable: bool,
    reports: BadEntryReports<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The accepted content, or the last one before the file became malformed.
    content: Arc<FileContent>,
    publishers: Publishers,
    closed: bool,
}

/// The acceptance of the content that a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// The content has changed, and may be changing further.
    NotYet,
}

/// The result of a scan.
type ScanOutcome = Result<Settled, DiscoveryError>;

impl FileDiscovery {
    /// Creates a discovery that reads `path`. The file is not opened before the first use.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let inner = Inner {
            path: path.into(),
            scans: watch::Sender::default(),
            reading: Mutex::default(),
            last_read: Mutex::default(),
            scan_state: Mutex::default(),
            state: Mutex::default(),
            events: EventPublisher::default(),
            notices: Notices::default(),
            task: TaskSlot::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl fmt::Debug for FileDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (topics, closed) = {
            let state = self.inner.state.lock();
            (state.content.views.len(), state.closed)
        };
        let mut shown = f.debug_struct("FileDiscovery");
        shown.field("path", &self.inner.path).field("topics", &topics).field("closed", &closed);
        shown.finish_non_exhaustive()
    }
}

#[async_trait]
impl Discovery for FileDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let inner = &self.inner;
        inner.settle().await?;
        let watch = {
            let mut state = inner.state.lock();
            if state.closed {
                return Err(DiscoveryError::closed());
            }
            let view = state.content.view(topic);
            state.publishers.watch(view)
        };
        Arc::clone(inner).ensure_followed()?;
        Ok(watch.with_source(Arc::<Inner>::clone(inner)))
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        self.inner.settle().await?;
        let content = Arc::clone(&self.inner.state.lock().content);
        Ok(content.views.keys().cloned().collect())
    }

    async fn brokers(&self) -> Result<Option<RegisteredBrokers>, DiscoveryError> {
        self.inner.settle().await?;
        let content = Arc::clone(&self.inner.state.lock().content);
        let of_brokers = format!("{} brokers.", self.inner.path.display());
        let bad = content.bad.iter().filter(|bad| bad.entry.path.starts_with(&of_brokers));
        let bad = bad.map(|bad| bad.entry.clone()).collect();
        Ok(Some(RegisteredBrokers::new(content.brokers.clone(), bad)))
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        let ended = {
            let mut state = self.inner.state.lock();
            state.closed = true;
            state.publishers.take_all()
        };
        self.inner.notices.push(Notice::End(ended, DiscoveryError::closed()));
        self.inner.notices.deliver(&self.inner.events);
        self.inner.events.close();
    }
}

impl ViewSource for Inner {
    fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError> {
        if self.state.lock().closed {
            return Err(DiscoveryError::closed());
        }
        let (followed, inner) = (Arc::clone(&self), Arc::clone(&self));
        let follow = move || Arc::clone(&followed).follow();
        self.task.ensure_running("file follower", follow, |_| {}, move || inner.is_needed())
    }
}

impl Inner {
    /// Scans the file until its content is accepted. If it doesn't settle, the accepted content remains
    /// valid.
    ///
    /// # Errors
    /// When the file can't be read or used.
    async fn settle(self: &Arc<Self>) -> Result<(), DiscoveryError> {
        runtime()?;
        let deadline = after(SETTLE_TIMEOUT);
        loop {
            if self.state.lock().closed {
                return Err(DiscoveryError::closed());
            }
            if self.scan().await? == Settled::Yes {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return self.last_settled();
            }
            sleep(INTERVAL).await;
        }
    }

    /// Scans the file until no topic is watched any more.
    async fn follow(self: Arc<Self>) {
        loop {
            sleep(INTERVAL).await;
            if !self.is_needed() {
                return;
            }
            // Errors were already reported; the last views remain valid.
            let _ = self.scan().await;
        }
    }

    fn is_needed(&self) -> bool {
        let state = self.state.lock();
        !state.closed && !state.publishers.is_unused()
    }

    /// The result of a call that finds no new content to accept.
    fn last_settled(&self) -> Result<(), DiscoveryError> {
        let settled = self.scan_state.lock().settled.clone();
        match &settled {
            Some(Ok(_)) => Ok(()),
            Some(Err(reason)) => Err(self.malformed(reason)),
            None => {
                let path = self.path.display();
                let text = format!(
                    "the content of the file of brokers {path} was different at each scan for {SETTLE_TIMEOUT:?}"
                );
                Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text))
            }
        }
    }

    fn malformed(&self, reason: &str) -> DiscoveryError {
        let text = format!("the file of brokers {} is malformed: {reason}", self.path.display());
        DiscoveryError::new(DiscoveryErrorKind::Config, text)
    }

    /// Updates the views with the result of a scan that began at `begun`, and sends notifications. Scans must
    /// not overlap.
    fn apply_scan(&self, begun: Instant, result: io::Result<ScanResult>) -> ScanOutcome {
        if self.state.lock().closed {
            return Err(DiscoveryError::closed());
        }
        let outcome = self.evaluate(&mut self.scan_state.lock(), begun, result);
        self.notices.deliver(&self.events);
        outcome
    }

    /// [`apply_scan`](Self::apply_scan), with the notifications queued instead of sent.
    fn evaluate(
        &self,
        scan_state: &mut ScanState,
        begun: Instant,
        result: io::Result<ScanResult>,
    ) -> ScanOutcome {
        let path = self.path.display();
        let ScanResult { content, quiet_for } = match result {
            Ok(result) => result,
            Err(error) => {
                (scan_state.unsettled, scan_state.unsettled_since) = (None, None);
                if std::mem::take(&mut scan_state.readable) {
                    let text =
                        format!("the file of brokers {path} can't be read; the last views hold: {error}");
                    self.notices.push(Notice::Warning(text));
                    self.notices.push(Notice::Event(DiscoveryEvent::Lost));
                }
                let text = format!("the file of brokers {path} can't be read");
                return Err(DiscoveryError::with_source(DiscoveryErrorKind::Unreachable, text, error));
            }
        };
        if !std::mem::replace(&mut scan_state.readable, true) {
            self.notices.push(Notice::Event(DiscoveryEvent::Connected));
        }
        let is_new = scan_state.settled.as_ref() != Some(&content);
        if is_new && !scan_state.counts(&content, begun, quiet_for) {
            let unsettled_since = *scan_state.unsettled_since.get_or_insert(begun);
            if begun.duration_since(unsettled_since) >= SETTLE_TIMEOUT
                && !std::mem::replace(&mut scan_state.is_reported, true)
            {
                let text = format!(
                    "the file of brokers {path} had other content at each scan for {SETTLE_TIMEOUT:?}; the last views hold"
                );
                self.notices.push(Notice::Warning(text));
            }
            return Ok(Settled::NotYet);
        }
        (scan_state.unsettled, scan_state.unsettled_since, scan_state.is_reported) = (None, None, false);
        // The same content, but with the read time that the views share.
        let content = if is_new { content } else { scan_state.settled.clone().unwrap_or(content) };
        if let Ok(content) = &content {
            content.read_time.set(begun);
        }
        if is_new {
            scan_state.settled = Some(content.clone());
            self.publish(scan_state, &content);
        }
        match &content {
            Ok(_) => Ok(Settled::Yes),
            Err(reason) => Err(self.malformed(reason)),
        }
    }

    /// Replaces the accepted content, and queues the notifications.
    fn publish(&self, scan_state: &mut ScanState, content: &Parsed) {
        let bad = match content {
            Ok(content) => content.bad.clone(),
            Err(reason) => vec![UnusableEntry::permanent(self.path.display().to_string(), reason)],
        };
        let new = scan_state.reports.report((), bad);
        new.into_iter().for_each(|entry| self.notices.push(Notice::BadEntry(entry)));
        let Ok(content) = content else { return };
        let former = {
            let mut state = self.state.lock();
            for topic in state.publishers.topics() {
                self.notices.push(Notice::View(state.publishers.of(&topic), content.view(&topic)));
            }
            std::mem::replace(&mut state.content, Arc::clone(content))
        };
        // Dropping takes time, and must not happen under the lock.
        drop(former);
    }
}

impl ScanState {
    /// Returns true if a new content, found by a scan that began at `begun`, is accepted.
    fn counts(&mut self, content: &Parsed, begun: Instant, quiet_for: Duration) -> bool {
        // The first content is better than none, unless the file may still be being written.
        let is_first = self.settled.is_none() && quiet_for >= INTERVAL;
        match &self.unsettled {
            Some((unsettled, first)) if unsettled == content => {
                is_first || begun.duration_since(*first) >= INTERVAL
            }
            _ => {
                self.unsettled = Some((content.clone(), begun));
                is_first
            }
        }
    }
}

#[cfg(test)]
mod tests;
