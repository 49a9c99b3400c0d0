//! Looks at the file: threads of their own read and parse it, one at a time, and a file system that hangs holds up neither a
//! runtime nor its end. A look belongs to nobody, so that it ends whoever has gone meanwhile.

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
    Inner, Outcome, Settled,
    parse::{Parsed, parse},
    read::{Found, MOST_BYTES, Stamp, read_at_most},
};
use crate::{DiscoveryError, DiscoveryErrorKind, panics::contain};

/// The time that reading may take. Measured on the system's clock, as the time of a runtime may pass faster.
const PATIENCE: Duration = Duration::from_secs(5);

/// The looks so far, of which one runs at a time.
#[derive(Debug)]
pub(super) struct Looks {
    begun: u64,
    /// Those whose outcome is known. A look may go on after that: it has been given up because of its length.
    known: u64,
    is_running: bool,
    /// That of the last of them.
    outcome: Outcome,
}

impl Default for Looks {
    fn default() -> Self {
        Self { begun: 0, known: 0, is_running: false, outcome: Ok(Settled::NotYet) }
    }
}

/// The result of the last look, for the next one.
#[derive(Debug)]
pub(super) struct Memory {
    stamp: Option<Stamp>,
    bytes: Vec<u8>,
    content: Parsed,
}

/// The result of a look.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) content: Parsed,
    /// The time since the file was written to.
    pub(super) quiet_for: Duration,
}

impl Inner {
    /// The outcome of a look that begins after this call has: one and the same for all who come before it begins.
    pub(super) async fn look(self: &Arc<Self>) -> Outcome {
        let mut looks = self.looks.subscribe();
        let wanted = looks.borrow().begun + 1;
        loop {
            if self.claim(wanted) {
                self.begin();
            }
            let known_or_free = |looks: &Looks| looks.known == looks.begun;
            // Never an error: the sender is here.
            if let Ok(looks) = looks.wait_for(known_or_free).await
                && (looks.known >= wanted || looks.is_running)
            {
                return looks.outcome.clone();
            }
        }
    }

    /// Whether the caller has to begin a look: nobody else has, and none runs.
    fn claim(&self, wanted: u64) -> bool {
        let mut claimed = false;
        self.looks.send_if_modified(|looks| {
            claimed = looks.begun < wanted && !looks.is_running;
            if claimed {
                (looks.begun, looks.is_running) = (looks.begun + 1, true);
            }
            false
        });
        claimed
    }

    fn begin(self: &Arc<Self>) {
        let (inner, begun) = (Arc::clone(self), Instant::now());
        let thread = thread::Builder::new().name("metaq-file".to_owned());
        if let Err(error) = thread.spawn(move || inner.run(begun)) {
            self.end(begun, Err(error), false);
        }
    }

    /// Has another thread read the file, and keeps the time.
    fn run(self: Arc<Self>, begun: Instant) {
        let (result, results) = channel();
        let inner = Arc::clone(&self);
        let known = self.memory.lock().as_ref().and_then(|memory| memory.stamp.clone());
        let thread = thread::Builder::new().name("metaq-file-read".to_owned());
        let thread = thread.spawn(move || {
            let _reading = inner.reading.lock();
            drop(result.send(read_at_most(&inner.path, known.as_ref(), MOST_BYTES)));
        });
        let ended = |_| io::Error::other("the thread that reads it has panicked");
        let found = match thread.map(|_| results.recv_timeout(PATIENCE)) {
            Err(error) => Err(error),
            Ok(Ok(found)) => found,
            Ok(Err(RecvTimeoutError::Disconnected)) => Err(ended(())),
            Ok(Err(RecvTimeoutError::Timeout)) => {
                let text = format!("it could not be read within {PATIENCE:?}");
                self.end(begun, Err(io::Error::new(io::ErrorKind::TimedOut, text)), true);
                let found = results.recv().unwrap_or_else(|_| Err(ended(())));
                // Who comes from now on waits for it to be taken in.
                self.looks.send_if_modified(|looks| {
                    looks.known -= 1;
                    false
                });
                found
            }
        };
        self.end(begun, found, false);
    }

    /// The contents that were found.
    fn parsed(&self, found: Found) -> Seen {
        let (mut memory, quiet_for) = (self.memory.lock(), found.quiet_for);
        let content = match (&mut *memory, found.bytes) {
            (Some(known), bytes) if bytes.as_ref().is_none_or(|bytes| known.bytes == *bytes) => {
                known.stamp = found.stamp;
                known.content.clone()
            }
            (memory, bytes) => {
                let bytes = bytes.unwrap_or_default();
                let content = parse(&self.path, &bytes);
                memory.insert(Memory { stamp: found.stamp, bytes, content }).content.clone()
            }
        };
        Seen { content, quiet_for }
    }

    /// Takes in what a look found, and says so to those who wait for it.
    fn end(&self, begun: Instant, found: io::Result<Found>, is_running: bool) {
        let text = "taking in the file of brokers panicked";
        let mut outcome = Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text));
        contain(|| outcome = self.take_in(begun, found.map(|found| self.parsed(found))));
        contain(|| {
            self.looks.send_modify(|looks| {
                (looks.known, looks.is_running, looks.outcome) = (looks.begun, is_running, outcome);
            });
        });
    }
}
