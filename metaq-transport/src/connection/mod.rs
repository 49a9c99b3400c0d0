//! The state of one connection, which its callers and its task share.
//!
//! [`ConnectionShared`] has it under one short lock. Callers submit requests (`submit`, `request`), reserve
//! capacity (`reserve`) and await outcomes: with a `PendingResponse`, or by a listener (`completion`). The
//! driver takes frames from the [`Outbox`], and delivers responses to the [`Slots`] that their opaques name.
//! `phase` has what changes when the connection is established, stalls, is lost or is closed; `expiry` and
//! `watchdog` fail requests at their deadlines; `deferred` runs user code after the lock is released.
//!
//! This module opens no stream and reads from none: `dial`, `driver` and `supervisor` use it, and it uses
//! none of them.

mod capacity;
mod completion;
mod completion_guard;
mod deferred;
mod expiry;
mod in_flight_limit;
mod outbox;
mod pending_response;
mod phase;
mod request;
mod reserve;
mod shared;
mod slots;
mod submit;
mod watchdog;

pub use capacity::{Capacity, CapacityWait, Reservation};
pub use completion::{CompletionToken, Completions};
pub use pending_response::{PendingResponse, Responder};

pub(crate) use completion_guard::CompletionGuard;
pub(crate) use deferred::Deferred;
pub(crate) use in_flight_limit::InFlightLimit;
pub(crate) use outbox::Outbox;
pub(crate) use phase::CloseTime;
pub(crate) use shared::{ConnectionShared, LockedState};
pub(crate) use slots::{CompactResponse, Delivered, MAX_SLOTS, SlotKey};

use phase::Phase;
use slots::{Caller, Completion, Notify, Released, SlotRequest, Slots};
