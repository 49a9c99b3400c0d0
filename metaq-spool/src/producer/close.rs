//! Closing.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::SpoolingProducer;
use crate::shared::Shared;

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

/// The time after which messages without an outcome count as forgotten: their handles are not polled.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// Waits until all messages have their outcome that have tasks which take them to it.
async fn settled(shared: &Shared) {
    shared.write_until(shared.driven.wait_for_all()).await;
    let (mut before, mut since) = (u64::MAX, Instant::now());
    loop {
        // A message that is handed over keeps none waiting for the interval.
        shared.storage.flush().await;
        let left = shared.stats().in_flight;
        if left == 0 || (left == before && since.elapsed() >= FORGOTTEN) {
            return;
        }
        if left != before {
            (before, since) = (left, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl SpoolingProducer {
    /// Closes the spool, its producer, and all clones. New messages are refused; those that were accepted
    /// have `timeout` to be stored, and are spooled then, unless they may be stored. The folder can be opened
    /// again afterwards. Writing may take another 10 s, after which what is not written is given up.
    ///
    /// Messages whose handles are kept and not polled meanwhile are not spooled: poll or drop them before.
    /// They make it take three seconds longer.
    ///
    /// # Cancel safety
    /// Once called, new messages are refused and replay ends even if the future is dropped.
    pub async fn close(&self, timeout: Duration) -> SpoolCloseReport {
        let shared = self.shared();
        shared.is_closed.store(true, Ordering::Release);
        shared.closing.send_replace(true);
        shared.pace.end();
        shared.producer.close(timeout).await;
        // Tasks write what could not be sent, those of the program as well, which await their handles.
        let _ = tokio::time::timeout(MOMENT, settled(shared)).await;
        // Removals of what was replayed are handed over before the storage ends.
        let mut ended = shared.replay_ended.subscribe();
        let _ = tokio::time::timeout(MOMENT, ended.wait_for(|ended| *ended)).await;
        shared.storage.end().await;
        let counts = shared.storage.common.ledger.counts();
        SpoolCloseReport { waiting: counts.waiting, held_aside: counts.held_aside }
    }
}
