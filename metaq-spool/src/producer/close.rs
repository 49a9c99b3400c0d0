//! Closing.

use std::{sync::atomic::Ordering, time::Duration};

use super::SpoolingProducer;

/// The time that what has ended may take to be written.
const MOMENT: Duration = Duration::from_secs(10);

/// What a spool holds after it was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolCloseReport {
    /// The messages that wait for the next process.
    pub waiting: u64,
    /// The messages that were set aside.
    pub held_aside: u64,
}

impl SpoolingProducer {
    /// Closes the spool, its producer, and all clones. New messages are refused; those that were accepted
    /// have `timeout` to be stored, and are spooled then, unless they may be stored. The folder can be opened
    /// again afterwards. Writing may take another 10 s, after which what is not written is given up.
    ///
    /// Messages whose handles are kept and not polled meanwhile are not spooled: poll or drop them before.
    ///
    /// # Cancel safety
    /// Once called, new messages are refused and replay ends even if the future is dropped.
    pub async fn close(&self, timeout: Duration) -> SpoolCloseReport {
        let shared = self.shared();
        shared.is_closed.store(true, Ordering::Release);
        shared.closing.send_replace(true);
        shared.pace.end();
        shared.producer.close(timeout).await;
        // Tasks write what could not be sent.
        let _ = tokio::time::timeout(MOMENT, shared.driven.wait()).await;
        // Removals of what was replayed are handed over before the storage ends.
        let mut ended = shared.replay_ended.subscribe();
        let _ = tokio::time::timeout(MOMENT, ended.wait_for(|ended| *ended)).await;
        shared.storage.end().await;
        let counts = shared.storage.common.ledger.counts();
        SpoolCloseReport { waiting: counts.waiting, held_aside: counts.held_aside }
    }
}
