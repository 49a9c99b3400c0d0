//! The task that follows the registry, from session to session.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, sleep_until};

use super::{
    connector::{ConnectError, OpenedSession},
    follow::{Follower, LeaveReason},
    shared::{Inner, Request},
};
use crate::{
    DiscoveryEvent,
    panics::{contain, log},
};

/// The pause between attempts to open a session.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// The longest backoff after sessions in which no call was answered.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Records that there is no session when the task stops, also when it panics or the runtime shuts down.
struct MarkClosedOnDrop<'a> {
    inner: &'a Inner,
    /// Set when the registry is no longer needed.
    is_unneeded: bool,
}

impl Drop for MarkClosedOnDrop<'_> {
    fn drop(&mut self) {
        let was_open = std::mem::take(&mut self.inner.shared.lock().is_open);
        if was_open && !self.is_unneeded {
            self.inner.send_event(DiscoveryEvent::Lost);
        }
    }
}

impl Inner {
    /// Follows the registry until it is no longer needed or the discovery is closed.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut ended = MarkClosedOnDrop { inner: &self, is_unneeded: false };
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => {}
            () = self.follow_always() => {}
        }
        ended.is_unneeded = true;
    }

    async fn follow_always(self: &Arc<Self>) {
        let (mut next, mut pause) = (None, Duration::ZERO);
        loop {
            let opened = match next.take() {
                Some(opened) => opened,
                None => match self.open().await {
                    Some(opened) => opened,
                    None => return,
                },
            };
            self.shared.lock().open();
            let session = opened.client.session_id();
            log(|| tracing::info!(hosts = self.connector.hosts(), %session, "session with ZooKeeper opened"));
            self.send_event(DiscoveryEvent::Connected);
            let mut follower = Follower::new(self, opened);
            let end = follower.run().await;
            let was_useful = follower.was_answered();
            self.shared.lock().is_open = false;
            match end {
                LeaveReason::Unneeded => return,
                LeaveReason::Replaced(opened) => next = Some(opened),
                LeaveReason::Outgrown => self.send_event(DiscoveryEvent::Lost),
                LeaveReason::Lost => {
                    follower.abort();
                    // Sessions that repeatedly fail immediately cost the servers work.
                    pause = if was_useful { Duration::ZERO } else { (pause * 2).clamp(PAUSE, MAX_PAUSE) };
                    sleep(pause).await;
                }
            }
        }
    }

    /// Opens a session. Returns `None` when none is needed any more.
    async fn open(&self) -> Option<OpenedSession> {
        loop {
            let opened = tokio::select! {
                biased;
                () = self.unneeded() => return None,
                opened = self.try_open() => opened,
            };
            if let Some(opened) = opened {
                return Some(opened);
            }
        }
    }

    /// Sends an event, and contains panics of wakers.
    pub(super) fn send_event(&self, event: DiscoveryEvent) {
        contain(|| self.events.send(event));
    }

    /// Waits until the registry is no longer needed.
    pub(super) async fn unneeded(&self) {
        while self.is_needed() {
            self.wake.notified().await;
        }
    }

    /// Tries once to open a session, after the backoff of a refusal; pauses after a failure.
    pub(super) async fn try_open(&self) -> Option<OpenedSession> {
        let next_attempt = self.shared.lock().next_attempt();
        if let Some(next_attempt) = next_attempt {
            sleep_until(next_attempt).await;
        }
        let noted = |connect_error| self.shared.lock().connect_error = Some(connect_error);
        let connect_error = match self.connector.connect(noted).await {
            Ok(opened) => return Some(opened),
            Err(connect_error) => connect_error,
        };
        let (refused, is_new) = {
            let mut shared = self.shared.lock();
            shared.connect_error = Some(connect_error.clone());
            match &connect_error {
                ConnectError::Refused(error) => {
                    let is_new = shared.refuse(error.clone());
                    (std::mem::take(&mut shared.requests), is_new)
                }
                _ => Default::default(),
            }
        };
        let ConnectError::Refused(error) = connect_error else {
            sleep(PAUSE).await;
            return None;
        };
        if is_new {
            log(|| tracing::warn!(%error, "ZooKeeper refuses to be used; the last views hold"));
        }
        for request in refused {
            // A caller that has gone needs no reply.
            contain(|| match request {
                Request::Watch(_, reply) => drop(reply.send(Err(error.clone()))),
                Request::Topics(reply) => drop(reply.send(Err(error.clone()))),
            });
        }
        None
    }
}
