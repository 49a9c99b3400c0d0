//! The settings of a broker that its connections use.

use std::time::Duration;

use metaq_protocol::Limits;

/// The settings that connections use.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) max_transfer: usize,
    pub(super) max_transaction: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) wait_timeout: Duration,
    pub(super) limits: Limits,
    pub(super) compat: bool,
}
