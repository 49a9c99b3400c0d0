//! A message from its offering to its outcome.
//!
//! The [`producer`](crate::producer) has checked it and taken its capacity ([`permits`]). [`submit`] has the
//! selector asked ([`choice`]) and hands the message to a connection; [`unacknowledged`] keeps it until its
//! outcome and learns how each attempt ended ([`classify`]). What can't be sent at once waits in a
//! [queue of its topic](crate::route::wait_queue), within [`wait_limits`], until the [`dispatcher`] tries
//! again, by an event or by one of the [`timers`]. [`handle`] is what the caller holds meanwhile, [`order`]
//! is an option of sending, and [`close`] is the account of what becomes of messages while a producer is
//! closed.
//!
//! Each level has its verb: the producer *accepts* a message, [`submit`] *tries to send* it,
//! [`unacknowledged`] *hands it over*, and the connection *submits the put*.
//!
//! Uses [`route`](crate::route) to find out where a message goes, and doesn't know the producer.

pub(crate) mod choice;
pub(crate) mod classify;
pub(crate) mod close;
pub(crate) mod deferred;
pub(crate) mod dispatcher;
pub(crate) mod handle;
pub(crate) mod order;
pub(crate) mod permits;
pub(crate) mod slab;
pub(crate) mod span;
pub(crate) mod submit;
pub(crate) mod timers;
pub(crate) mod unacknowledged;
pub(crate) mod wait_limits;
