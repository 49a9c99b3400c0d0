//! The treatment of the bytes of one direction.

use std::time::Duration;

use bytes::Bytes;

/// The treatment of the bytes of one direction. The default forwards everything immediately; each method adds
/// to it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub(super) delay: Duration,
    pub(super) bandwidth: Option<u64>,
    pub(super) flow: Flow,
    /// By position, then by the order in which they were added.
    pub(super) faults: Vec<(u64, StreamFault)>,
    /// The number of plans before this one that it did not adjust.
    pub(super) generation: u64,
    /// The faults of each plan that has adjusted this one.
    pub(super) added: Vec<Vec<(u64, StreamFault)>>,
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
    /// The connection ends by FIN, for both sides. The receiver can still read what it has not read yet.
    Close,
    /// The connection ends by RST, for both sides.
    Reset,
    /// From here on everything is held back until another plan is set.
    Freeze,
    /// From here on everything is lost until another plan is set.
    Swallow,
    /// This number of bytes before the position is sent once more; at most those since the plan was set.
    Duplicate(usize),
    /// These bytes are inserted.
    Inject(Bytes),
}

impl Plan {
    /// Returns a plan that forwards everything immediately.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Delays every byte by this duration. Up to 4 MiB may be delayed at a time.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay.min(crate::MAX_DURATION);
        self
    }

    /// Limits the flow to this number of bytes a second, at least one; the sender is slowed down. Default no
    /// limit.
    #[must_use]
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.bandwidth = Some(bytes_per_second.max(1));
        self
    }

    /// Holds everything back, including the end of the stream: the proxy reads nothing, so full buffers soon
    /// stop the sender. Nothing is lost: all bytes flow with the next plan that forwards.
    #[must_use]
    pub fn freeze(mut self) -> Self {
        self.flow = Flow::Freeze;
        self
    }

    /// Reads everything and forwards nothing, not even the end of the stream: to the sender the bytes are
    /// sent. With the next plan the stream continues behind the lost bytes.
    #[must_use]
    pub fn swallow(mut self) -> Self {
        self.flow = Flow::Swallow;
        self
    }

    /// Applies a fault once on each connection, after exactly `position` bytes.
    #[must_use]
    pub fn at(mut self, position: u64, fault: StreamFault) -> Self {
        let behind = self.faults.partition_point(|(other, _)| *other <= position);
        self.faults.insert(behind, (position, fault));
        self
    }

    /// Replaces this plan by another one.
    pub(super) fn replace(&mut self, plan: Self) {
        let generation = self.generation + 1;
        *self = Self { generation, ..plan };
    }

    /// Changes delay, bandwidth and flow to those of another plan, and adds its faults.
    pub(super) fn adjust(&mut self, plan: Self) {
        (self.delay, self.bandwidth, self.flow) = (plan.delay, plan.bandwidth, plan.flow);
        if !plan.faults.is_empty() {
            self.added.push(plan.faults);
        }
    }
}
