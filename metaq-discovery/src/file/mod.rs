//! Brokers that are named in a file.

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
    TopicWatch,
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

/// The interval at which the file is looked at, and for which new contents have to stay to count.
const INTERVAL: Duration = Duration::from_millis(500);

/// The time for which a call waits for the contents of the file to stay.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Brokers that are named in a TOML or JSON file, which is read again when it changes.
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
/// A file whose name ends with `.json` is JSON of the same shape, any other TOML. It is read on threads of its own, twice a
/// second as long as a topic is watched. A change counts when the file says the same at two looks that are half a second
/// apart, so that it may be replaced in any way, also be written in portions; the first content counts at once if it was
/// written half a second before. Comments and white space may change meanwhile. A call that finds a change waits until it
/// counts. If the file says something else each time for 5 s, what counted before still does, or the call fails if there is
/// nothing.
///
/// While the file is missing, malformed, or can't be read within 5 s, the last views hold; an entry that can't be used, such
/// as the id `00`, leaves the others working. Both are logged and told by [`events`](Discovery::events).
///
/// It has to be a regular file of 64 MiB at most.
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
    /// The task that looks at the file.
    task: TaskSlot,
}

/// The state of the looks so far.
#[derive(Debug, Default)]
struct ScanState {
    /// The contents that counted last.
    settled: Option<Parsed>,
    /// The contents that don't count yet, and the look that saw them first.
    unsettled: Option<(Parsed, Instant)>,
    /// Since when it has said other things than what counts.
    unsettled_since: Option<Instant>,
    /// Whether that has been told.
    is_reported: bool,
    /// Whether the file could be read the last time.
    readable: bool,
    reports: BadEntryReports<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The contents that count, or that counted before they were malformed.
    content: Arc<FileContent>,
    publishers: Publishers,
    closed: bool,
}

/// Whether what the file says counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// It has changed, and may be about to change further.
    NotYet,
}

/// The verdict on a look.
type ScanOutcome = Result<Settled, DiscoveryError>;

impl FileDiscovery {
    /// A discovery that reads `path`, which is not opened before the first use.
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
    /// Scans at the file until what it says counts. When it doesn't stay as it is, what counted before does.
    ///
    /// # Errors
    /// When it can't be read, or used.
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

    /// Scans at the file until nobody watches a topic any more.
    async fn follow(self: Arc<Self>) {
        loop {
            sleep(INTERVAL).await;
            if !self.is_needed() {
                return;
            }
            // What is wrong has been told; the last views hold.
            let _ = self.scan().await;
        }
    }

    fn is_needed(&self) -> bool {
        let state = self.state.lock();
        !state.closed && !state.publishers.is_unused()
    }

    /// The result of a call that finds nothing new that counts.
    fn last_settled(&self) -> Result<(), DiscoveryError> {
        let settled = self.scan_state.lock().settled.clone();
        match &settled {
            Some(Ok(_)) => Ok(()),
            Some(Err(reason)) => Err(self.malformed(reason)),
            None => {
                let path = self.path.display();
                let text = format!(
                    "the file of brokers {path} said something else at each look for {SETTLE_TIMEOUT:?}"
                );
                Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text))
            }
        }
    }

    fn malformed(&self, reason: &str) -> DiscoveryError {
        let text = format!("the file of brokers {} is malformed: {reason}", self.path.display());
        DiscoveryError::new(DiscoveryErrorKind::Config, text)
    }

    /// Brings the views in line with what a look that began at `begun` saw, and tells what is new. One look at a time.
    fn apply_scan(&self, begun: Instant, result: io::Result<ScanResult>) -> ScanOutcome {
        if self.state.lock().closed {
            return Err(DiscoveryError::closed());
        }
        let outcome = self.evaluate(&mut self.scan_state.lock(), begun, result);
        self.notices.deliver(&self.events);
        outcome
    }

    /// [`apply_scan`](Self::apply_scan), but that what is to be told is queued.
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
                    "the file of brokers {path} has said something else at each look for {SETTLE_TIMEOUT:?}; the last views hold"
                );
                self.notices.push(Notice::Warning(text));
            }
            return Ok(Settled::NotYet);
        }
        (scan_state.unsettled, scan_state.unsettled_since, scan_state.is_reported) = (None, None, false);
        // Equal, but with the time of reading that the views share.
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

    /// Puts content that counts in place of the former; what is to be told is queued.
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
        // Which takes its time, and nobody has to wait for that.
        drop(former);
    }
}

impl ScanState {
    /// Whether new content counts that a look which began at `begun` saw.
    fn counts(&mut self, content: &Parsed, begun: Instant, quiet_for: Duration) -> bool {
        // The first content is better than nothing, unless somebody may be writing it.
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
