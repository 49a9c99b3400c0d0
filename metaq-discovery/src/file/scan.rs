//! Scans of the file. Separate threads read and parse it, one scan at a time, so that a file system that
//! hangs blocks neither a runtime nor its shutdown. A scan belongs to no caller, and completes even if all
//! callers have gone.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Inner, ScanOutcome, Settled,
    parse::{Parsed, parse},
    read::{MAX_BYTES, ReadResult, Stamp, read_at_most},
};
use crate::{DiscoveryError, DiscoveryErrorKind, panics::contain};

/// The limit for reading. Measured by the system's clock, because the time of a paused runtime may advance
/// faster.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The scans so far. At most one runs at a time.
#[derive(Debug)]
pub(super) struct Scans {
    started: u64,
    /// The number of scans whose outcome is known. A scan may still run after that if it has timed out.
    finished: u64,
    is_running: bool,
    /// The outcome of the last of them.
    outcome: ScanOutcome,
}

impl Default for Scans {
    fn default() -> Self {
        Self { started: 0, finished: 0, is_running: false, outcome: Ok(Settled::NotYet) }
    }
}

/// The result of the last read, for the next one.
#[derive(Debug)]
pub(super) struct LastRead {
    stamp: Option<Stamp>,
    bytes: Vec<u8>,
    pub(super) content: Parsed,
}

/// The result of a scan.
#[derive(Debug)]
pub(super) struct ScanResult {
    pub(super) content: Parsed,
    /// The time since the last write to the file.
    pub(super) quiet_for: Duration,
}

impl Inner {
    /// Returns the outcome of a scan that begins after this call. All calls made before the scan begins share
    /// it.
    pub(super) async fn scan(self: &Arc<Self>) -> ScanOutcome {
        let mut scans = self.scans.subscribe();
        let wanted = scans.borrow().started + 1;
        loop {
            if self.claim(wanted) {
                self.start();
            }
            let finished_or_free = |scans: &Scans| scans.finished == scans.started;
            // Never an error: `self` holds the sender.
            if let Ok(scans) = scans.wait_for(finished_or_free).await
                && (scans.finished >= wanted || scans.is_running)
            {
                return scans.outcome.clone();
            }
        }
    }

    /// Returns true if the caller must start a scan: no other caller has, and none runs.
    fn claim(&self, wanted: u64) -> bool {
        let mut claimed = false;
        self.scans.send_if_modified(|scans| {
            claimed = scans.started < wanted && !scans.is_running;
            if claimed {
                (scans.started, scans.is_running) = (scans.started + 1, true);
            }
            false
        });
        claimed
    }

    fn start(self: &Arc<Self>) {
        let (inner, begun) = (Arc::clone(self), Instant::now());
        let thread = thread::Builder::new().name("metaq-file".to_owned());
        if let Err(error) = thread.spawn(move || inner.run(begun)) {
            self.finish(begun, Err(error), false);
        }
    }

    /// Reads the file on another thread, and enforces the limit.
    fn run(self: Arc<Self>, begun: Instant) {
        let (result, results) = channel();
        let inner = Arc::clone(&self);
        let known = self.last_read.lock().as_ref().and_then(|last_read| last_read.stamp.clone());
        let thread = thread::Builder::new().name("metaq-file-read".to_owned());
        let thread = thread.spawn(move || {
            let _reading = inner.reading.lock();
            drop(result.send(read_at_most(&inner.path, known.as_ref(), MAX_BYTES)));
        });
        let panicked = |_| io::Error::other("the thread that reads it has panicked");
        let found = match thread.map(|_| results.recv_timeout(READ_TIMEOUT)) {
            Err(error) => Err(error),
            Ok(Ok(found)) => found,
            Ok(Err(RecvTimeoutError::Disconnected)) => Err(panicked(())),
            Ok(Err(RecvTimeoutError::Timeout)) => {
                let text = format!("it could not be read within {READ_TIMEOUT:?}");
                self.finish(begun, Err(io::Error::new(io::ErrorKind::TimedOut, text)), true);
                let found = results.recv().unwrap_or_else(|_| Err(panicked(())));
                // Calls from now on wait until its result is applied.
                self.scans.send_if_modified(|scans| {
                    scans.finished -= 1;
                    false
                });
                found
            }
        };
        self.finish(begun, found, false);
    }

    /// Parses the content that was read.
    fn parsed(&self, found: ReadResult) -> ScanResult {
        let (mut last_read, quiet_for) = (self.last_read.lock(), found.quiet_for);
        let content = match (&mut *last_read, found.bytes) {
            (Some(known), bytes) if bytes.as_ref().is_none_or(|bytes| known.bytes == *bytes) => {
                known.stamp = found.stamp;
                known.content.clone()
            }
            (last_read, bytes) => {
                let bytes = bytes.unwrap_or_default();
                let content = parse(&self.path, &bytes);
                last_read.insert(LastRead { stamp: found.stamp, bytes, content }).content.clone()
            }
        };
        ScanResult { content, quiet_for }
    }

    /// Applies the result of a scan, and notifies the waiting calls.
    fn finish(&self, begun: Instant, found: io::Result<ReadResult>, is_running: bool) {
        let text = "processing the file of brokers panicked";
        let mut outcome = Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text));
        contain(|| outcome = self.apply_scan(begun, found.map(|found| self.parsed(found))));
        contain(|| {
            self.scans.send_modify(|scans| {
                (scans.finished, scans.is_running, scans.outcome) = (scans.started, is_running, outcome);
            });
        });
    }
}
