//! The treatment of the bytes of one direction.

use std::time::Duration;

use bytes::Bytes;

/// The treatment of the bytes of one direction. By itself it forwards everything at once; each method adds something.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub(super) delay: Duration,
    pub(super) bandwidth: Option<u64>,
    pub(super) flow: Flow,
    /// By position; those of one position in the order in which they were added.
    pub(super) faults: Vec<(u64, StreamFault)>,
}

/// The flow of bytes when no fault is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flow {
    #[default]
    Forward,
    Freeze,
    Swallow,
}

/// The faults at a position in the bytes of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamFault {
    /// The connection ends by FIN, for both sides. What the receiver hasn't read yet it still can.
    Close,
    /// The connection ends by RST, for both sides.
    Reset,
    /// From here on everything is held back until another plan is set.
    Freeze,
    /// From here on everything is lost until another plan is set.
    Swallow,
    /// The number of bytes before the position that are sent once more; as many as there were since the plan was set, if those
    /// are fewer.
    Duplicate(usize),
    /// These bytes are sent in between.
    Inject(Bytes),
}

impl Plan {
    /// Forwards everything at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every byte arrives so much later. How much flows isn't limited by that, up to 4 MiB that are under way.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay.min(crate::LONGEST);
        self
    }

    /// No more than so many bytes flow in a second, at least one; the sender is slowed down. Default no limit.
    #[must_use]
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.bandwidth = Some(bytes_per_second.max(1));
        self
    }

    /// Holds everything back, the end of the stream too: nothing is read, so that the sender is soon stopped by its full
    /// buffers. Nothing is lost: all of it flows with the next plan that lets it.
    #[must_use]
    pub fn freeze(mut self) -> Self {
        self.flow = Flow::Freeze;
        self
    }

    /// Reads everything and forwards nothing, not even the end of the stream: the sender believes that it was sent. With
    /// the next plan the stream goes on behind what was lost.
    #[must_use]
    pub fn swallow(mut self) -> Self {
        self.flow = Flow::Swallow;
        self
    }

    /// Does something once on each connection, after exactly `position` bytes.
    #[must_use]
    pub fn at(mut self, position: u64, fault: StreamFault) -> Self {
        let behind = self.faults.partition_point(|(other, _)| *other <= position);
        self.faults.insert(behind, (position, fault));
        self
    }

    /// The number of bytes before a position that may have to be sent again.
    pub(super) fn history(&self) -> usize {
        let duplicated = self.faults.iter().map(|(_, fault)| match fault {
            StreamFault::Duplicate(count) => *count,
            _ => 0,
        });
        duplicated.max().unwrap_or_default()
    }
}
