//! Registering the broker as a Java broker registers (registry).

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

use super::{Broker, BrokerShared};
use task::{RegistrationTask, Unregistration};

/// The time that a withdrawal may take: a registry that is frozen answers no call of it.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// A broker's registration. It ends with this, like that of a process that is killed.
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

impl Broker {
    /// Registers a running broker in one more registry, as [`register_in`](super::BrokerBuilder::register_in) does for one that
    /// is started. Whoever may have to give up while a registry doesn't answer can [`shut_down`](Self::shut_down) the broker
    /// then, which takes it out of those where it is registered already.
    ///
    /// # Errors
    /// When the broker can't be registered there: `AlreadyExists` when its id is that of another live broker. Its other
    /// registrations are not affected.
    ///
    /// # Cancel safety
    /// When the future is dropped before it is done, the broker is not kept registered there; what was entered expires.
    pub async fn register(&mut self, registry: Registry) -> io::Result<()> {
        let registration = Registration::new(registry, Arc::clone(&self.shared)).await?;
        self.registrations.push(registration);
        Ok(())
    }
}

/// Takes the broker out of all its registries.
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
                // What is left there expires.
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
    async fn withdrawing_has_a_deadline_whatever_the_registry_does() {
        let frozen = || {
            let (unregistrations, requests) = mpsc::channel(1);
            // It is in the middle of something, and never looks at its orders.
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
