//! Faults on demand: errors that a test plans.
//!
//! - `planned`: [`Faults`], the handle by which a test plans faults, and the choice of the fault for a
//!   request.
//! - `fault`: the faults that a single request can meet.
//! - `behaviour`: faults that concern all connections: frozen, refused, closed, stranded, cut.
//!
//! Faults are only chosen here. `connections` applies them: `connection` those of a request, `driver` and
//! `listener` the behaviour.

mod behaviour;
mod fault;
mod planned;

pub(super) use behaviour::Behaviour;
pub use fault::Fault;
pub use planned::{Faults, PlannedFault};
