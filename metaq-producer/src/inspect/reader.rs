//! Reading a partition message by message.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::sleep_until;

use super::{
    error::{InspectError, InspectErrorKind},
    fetch::{ListedPartition, ReadItem, fetch},
    requests::Requests,
};
use crate::deadline;

/// The bytes that are asked for at a time: what a broker with default settings sends at most.
const FETCH_SIZE: i32 = 1 << 20;

/// The pause before a request that failed is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Reads one partition, beginning at an offset. Made by [`Inspector::reader`](super::Inspector::reader).
///
/// Holds up to a megabyte of messages that were read ahead.
#[derive(Debug)]
pub struct PartitionReader {
    requests: Arc<Requests>,
    place: ListedPartition,
    timeout: Duration,
    offset: i64,
    ahead: VecDeque<ReadItem>,
}

impl PartitionReader {
    pub(super) fn new(
        requests: Arc<Requests>,
        place: ListedPartition,
        timeout: Duration,
        offset: i64,
    ) -> Self {
        Self { requests, place, timeout, offset, ahead: VecDeque::new() }
    }

    /// The partition that is read.
    #[must_use]
    pub fn place(&self) -> &ListedPartition {
        &self.place
    }

    /// The offset of the next item.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Changes the address of the broker, for one that has moved.
    pub fn set_place(&mut self, place: ListedPartition) {
        self.place = place;
    }

    /// Returns the next message, or what else was found in its place. `None` at the end of what can be read
    /// now: a later call returns what was stored meanwhile.
    ///
    /// What fails for a passing reason (the broker is restarting, recovering, or busy) is repeated until the
    /// inspector's timeout.
    ///
    /// # Errors
    /// When the broker can't be reached, refuses, or answers with something else; of kind
    /// [`Corrupt`](super::InspectErrorKind::Corrupt) when the next message can't be found. The reader stays
    /// usable, at the same offset.
    ///
    /// # Cancel safety
    /// Safe: nothing is skipped when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<ReadItem>, InspectError> {
        let deadline = deadline::after(self.timeout);
        let mut refusal = None;
        while self.ahead.is_empty() {
            match fetch(&self.requests, &self.place, self.offset, FETCH_SIZE, deadline).await {
                Ok(items) if items.is_empty() => return Ok(None),
                Ok(items) => self.ahead.extend(items),
                Err(error) => {
                    let again = deadline::after(RETRY_PAUSE);
                    let is_last = !error.is_transient() || again >= deadline;
                    // The broker's own reason says more than that the last attempt had little time left.
                    let is_cut_short = error.kind() == InspectErrorKind::TimedOut;
                    let error = refusal.take().filter(|_| is_cut_short).unwrap_or(error);
                    if is_last {
                        return Err(error);
                    }
                    refusal = error.status().is_some().then_some(error);
                    sleep_until(again).await;
                }
            }
        }
        let item = self.ahead.pop_front();
        if let Some(item) = &item {
            self.offset = item.next_offset();
        }
        Ok(item)
    }
}
