#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod classify;
mod clock;
mod error;
mod events;
mod failing;
mod fields;
mod folder;
mod handle;
mod lanes;
mod lock;
#[cfg(feature = "metrics")]
mod metrics;
mod options;
mod pace;
mod places;
mod producer;
mod record;
mod replay;
mod shared;
mod stats;
mod storage;
mod store;
#[cfg(test)]
mod tests;
mod unsettled;

pub use error::{OpenError, OpenErrorKind, SpoolSendError, SpoolSendErrorKind};
pub use events::{DropReason, SpoolEvent, SpoolEvents};
pub use folder::{FolderQueue, SetAsideReason, SpoolFolder, SpooledMessage};
pub use handle::{Sent, SpoolHandle};
pub use options::{Fsync, ReplayListener, SpoolOptions, WhenFull};
pub use producer::{SpoolCloseReport, SpoolingProducer};
pub use stats::{QueueStats, SpoolStats};

/// What the spool promises, what it doesn't, and what it costs.
#[cfg(any(doc, doctest))]
#[doc = include_str!("../guides/spool.md")]
pub mod guide {}

/// Names a message in a spool. Later messages of the same folder have larger numbers, and none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "it is a number")]
pub struct SpoolId(pub u64);

impl std::fmt::Display for SpoolId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
