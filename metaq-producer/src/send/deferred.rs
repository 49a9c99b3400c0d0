//! Steps that are run when no lock is held.
//!
//! Sending a message that waited may end it, which lets another go, and so on: each such step is queued on
//! the thread, and done after the one before, not within it. So nothing is done under a lock, and the stack
//! doesn't grow.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    sync::Arc,
};

use metaq_protocol::Partition;
use metaq_transport::Reservation;

use crate::{
    panics,
    route::wait_queue::{CapacityRequest, WaitQueues, WaitReason},
    send::submit::Submitter,
};

/// A step that is outstanding.
pub(crate) enum Step {
    /// Sends the messages that wait for this reason, as far as they can go.
    Serve {
        reason: WaitReason,
        reservation: Option<Reservation>,
        /// The capacity that was asked for; it is kept from others until this is dropped.
        request: Option<CapacityRequest>,
    },
    /// Gives the turn in a partition to the next message.
    PassTurn(Partition),
}

type Queued = (Arc<Submitter>, Arc<WaitQueues>, Step);

thread_local! {
    /// The number of reasons to run nothing now.
    static HOLDS: Cell<u32> = const { Cell::new(0) };
    static HAS_STEPS: Cell<bool> = const { Cell::new(false) };
    static STEPS: RefCell<VecDeque<Queued>> = const { RefCell::new(VecDeque::new()) };
}

/// As long as it lives, steps of this thread are queued.
pub(crate) struct Hold(());

impl Hold {
    #[inline]
    pub(crate) fn new() -> Self {
        HOLDS.set(HOLDS.get() + 1);
        Self(())
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        HOLDS.set(HOLDS.get() - 1);
        if HAS_STEPS.get() && HOLDS.get() == 0 {
            do_steps();
        }
    }
}

/// Does a step now, or when it can be done.
pub(crate) fn run(submitter: &Arc<Submitter>, waits: &Arc<WaitQueues>, step: Step) {
    let mut step = Some(step);
    let queued = STEPS.try_with(|steps| {
        let queued = step.take().map(|step| (Arc::clone(submitter), Arc::clone(waits), step));
        steps.borrow_mut().extend(queued);
    });
    if queued.is_err() {
        // The thread is ending, and something that it held has let a message go.
        return step.into_iter().for_each(|step| panics::contain(|| submitter.do_step(waits, step)));
    }
    HAS_STEPS.set(true);
    if HOLDS.get() == 0 {
        do_steps();
    }
}

#[cold]
fn do_steps() {
    HOLDS.set(1);
    loop {
        let next = STEPS.with_borrow_mut(VecDeque::pop_front);
        let Some((submitter, waits, step)) = next else { break };
        // What a selector or a waker does with one message doesn't keep the others.
        panics::contain(|| submitter.do_step(&waits, step));
        // Dropping these may close connections.
        panics::contain(|| drop((submitter, waits)));
    }
    HAS_STEPS.set(false);
    HOLDS.set(0);
}
