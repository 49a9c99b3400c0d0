//! The registration of a broker in ZooKeeper and etcd, with the entries of a Java broker (registry).
//!
//! - `registry`: the registry to register in: its kind, hosts, root and session timeout.
//! - `layout`: the entries of a broker: paths and texts.
//! - `session`: the calls that a session with either registry offers; `zookeeper` and `etcd` implement them.
//! - `task`: registers the broker, follows changes of its topics, and registers it again after a lost
//!   session.
//!
//! [`Registration`] is the handle of one running task. The registry of a test's own process is
//! [`EmbeddedRegistry`](crate::EmbeddedRegistry), which needs none of this.

#[cfg(feature = "etcd")]
mod etcd;
mod layout;
mod registry;
mod session;
mod task;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use std::{io, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

pub use registry::Registry;

use super::shared::BrokerShared;
use task::{RegistrationTask, Unregistration};

/// The time limit of leaving a registry: a frozen one answers no call.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// A broker's registration. Dropping it ends it like the registration of a killed process.
#[derive(Debug)]
pub(super) struct Registration {
    task: JoinHandle<()>,
    unregistrations: mpsc::Sender<Unregistration>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Removes the broker from all of its registries.
pub(super) async fn unregister_all(registrations: &[Registration]) -> io::Result<()> {
    let unregistered = join_all(registrations.iter().map(Registration::unregister)).await;
    unregistered.into_iter().collect()
}

impl Registration {
    /// Registers the broker, and keeps it registered.
    pub(super) async fn new(registry: Registry, shared: Arc<BrokerShared>) -> io::Result<Self> {
        let mut task = RegistrationTask::new(registry, shared);
        let registered = task.register_first().await?;
        let (unregistrations, requests) = mpsc::channel(1);
        Ok(Self { task: tokio::spawn(task.run(registered, requests)), unregistrations })
    }

    async fn unregister(&self) -> io::Result<()> {
        let ended = || io::Error::other("the broker's registration has ended already");
        let unregistered = async {
            let (done, answer) = oneshot::channel();
            self.unregistrations.send(done).await.map_err(|_| ended())?;
            answer.await.unwrap_or_else(|_| Err(ended()))
        };
        match timeout(UNREGISTER_TIMEOUT, unregistered).await {
            Ok(unregistered) => unregistered,
            Err(_) => {
                // Entries that are left there expire.
                self.task.abort();
                let text =
                    format!("the registry did not let the broker withdraw within {UNREGISTER_TIMEOUT:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unregistering_times_out_whatever_the_registry_does() {
        let frozen = || {
            let (unregistrations, requests) = mpsc::channel(1);
            // A task that is busy and never looks at its requests.
            let task = tokio::spawn(async move {
                let _requests = requests;
                std::future::pending().await
            });
            Registration { task, unregistrations }
        };
        let registrations = [frozen(), frozen()];
        let started = tokio::time::Instant::now();
        let waited = timeout(Duration::from_secs(3600), unregister_all(&registrations)).await;
        assert_eq!(waited.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), UNREGISTER_TIMEOUT, "both at the same time");
    }
}
