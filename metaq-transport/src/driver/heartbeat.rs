//! Timeouts of requests, silence of the broker, and heartbeats.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{Driver, LONGEST_SLEEP, Liveness};
use crate::{deadline, error::LossReason, panics::log};

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<'_, S> {
    /// Returns the time at which the broker's silence is to be checked next.
    pub(super) fn next_timeout(&self) -> Instant {
        let probe = match self.probed {
            Some((probed, limit)) => deadline::after(probed, limit),
            None => deadline::after(self.last_read, self.timeouts.heartbeat_after),
        };
        match self.owed_since {
            Some(since) if self.liveness == Liveness::Responsive => {
                probe.min(deadline::after(since, self.timeouts.stall_after))
            }
            _ => probe,
        }
    }

    /// Fails overdue requests, and sends a heartbeat if any of them was written.
    pub(super) fn expire_overdue(&mut self, now: Instant) -> Result<(), LossReason> {
        if self.expire(now)? {
            self.send_heartbeat(now);
        }
        Ok(())
    }

    /// Fails overdue requests. Returns whether any of them was written.
    fn expire(&mut self, now: Instant) -> Result<bool, LossReason> {
        let written = self.shared.expire_in_driver(now, &mut self.writing, &mut self.deferred);
        let reported = self.run_deferred();
        if written.is_empty() {
            return reported.map(|()| false);
        }
        self.shared.timeouts_reported(written, &mut self.deferred);
        let released = self.run_deferred();
        reported.and(released).map(|()| true)
    }

    /// Fails overdue requests, stalls the connection of a silent broker, and sends a heartbeat.
    pub(super) fn check_timeouts(&mut self, now: Instant) -> Result<(), LossReason> {
        let unanswered = self.expire(now)?;
        let stalls_at = self.owed_since.map(|since| deadline::after(since, self.timeouts.stall_after));
        let stalled = stalls_at.is_some_and(|at| now >= at);
        if stalled && self.liveness == Liveness::Responsive {
            self.liveness = Liveness::Stalled(now);
            self.shared.set_stalled(&mut self.writing, &mut self.deferred);
            self.run_deferred()?;
            if self.probed.is_some() {
                // The heartbeat may have been taken back with the other unwritten requests.
                self.shared.queue_heartbeat(deadline::after(now, LONGEST_SLEEP));
            }
            log!(
                warn,
                broker = %self.shared.broker,
                silent_for = ?self.timeouts.stall_after,
                "broker is silent and owes answers; nothing more is sent to it for now"
            );
        }
        match self.probed {
            Some((probed, limit)) if now >= deadline::after(probed, limit) => {
                Err(LossReason::Silent(now - self.last_read))
            }
            Some(_) => Ok(()),
            None => {
                let idle = now >= deadline::after(self.last_read, self.timeouts.heartbeat_after);
                // After the stall, which takes back what was not written.
                if unanswered || stalled || idle {
                    self.send_heartbeat(now);
                }
                Ok(())
            }
        }
    }

    /// Sends a heartbeat, unless one is unanswered.
    fn send_heartbeat(&mut self, now: Instant) {
        if self.probed.is_none() {
            self.probed = Some((now, self.timeouts.heartbeat_timeout));
            self.shared.queue_heartbeat(deadline::after(now, LONGEST_SLEEP));
        }
    }
}
