//! [`thread_names`]: crate::MetaqLayerBuilder::thread_names
//! [`source_locations`]: crate::MetaqLayerBuilder::source_locations
//! [`max_event_bytes`]: crate::MetaqLayerBuilder::max_event_bytes
//! [`max_buffered`]: crate::MetaqLayerBuilder::max_buffered
//! [`max_buffered_bytes`]: crate::MetaqLayerBuilder::max_buffered_bytes
//! [`LayerStats`]: crate::LayerStats
//! [`LayerGuard`]: crate::LayerGuard
//! [`DEFAULT_EXCLUDED_TARGETS`]: crate::MetaqLayer::DEFAULT_EXCLUDED_TARGETS
//! [`exclude_targets`]: crate::MetaqLayerBuilder::exclude_targets
//! [`shutdown`]: crate::LayerGuard::shutdown
//!
// The first definition of a link counts: on docs.rs those above replace the addresses of README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod buffer;
mod builder;
mod error;
mod guard;
mod json;
mod layer;
mod panics;
mod stats;
mod suppression;
mod worker;

pub use buffer::StatsHandle;
pub use builder::MetaqLayerBuilder;
pub use error::BuildError;
pub use guard::LayerGuard;
pub use layer::MetaqLayer;
pub use stats::{DroppedEvents, FailedEvents, LayerStats};
