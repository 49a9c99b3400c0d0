//! Registering the broker as a Java broker registers (registry).

#[cfg(feature = "etcd")]
mod etcd;
mod keeper;
mod layout;
mod registry;
mod session;
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

use super::{Broker, Shared};
use keeper::{Keeper, Withdrawal};

/// The time that a withdrawal may take: a registry that is frozen answers no call of it.
const WITHDRAWAL: Duration = Duration::from_secs(10);

/// A broker's registration. It ends with this, like that of a process that is killed.
#[derive(Debug)]
pub(super) struct Registration {
    keeping: JoinHandle<()>,
    withdrawals: mpsc::Sender<Withdrawal>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.keeping.abort();
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
pub(super) async fn withdraw_all(registrations: &[Registration]) -> io::Result<()> {
    let withdrawn = join_all(registrations.iter().map(Registration::withdraw)).await;
    withdrawn.into_iter().collect()
}

impl Registration {
    /// Registers the broker, and keeps it registered.
    pub(super) async fn new(registry: Registry, shared: Arc<Shared>) -> io::Result<Self> {
        let mut keeper = Keeper::new(registry, shared);
        let entered = keeper.enter_first().await?;
        let (withdrawals, orders) = mpsc::channel(1);
        Ok(Self { keeping: tokio::spawn(keeper.keep(entered, orders)), withdrawals })
    }

    async fn withdraw(&self) -> io::Result<()> {
        let gone = || io::Error::other("the broker's registration has ended already");
        let withdrawn = async {
            let (done, answer) = oneshot::channel();
            self.withdrawals.send(done).await.map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        };
        match timeout(WITHDRAWAL, withdrawn).await {
            Ok(withdrawn) => withdrawn,
            Err(_) => {
                // What is left there expires.
                self.keeping.abort();
                let text = format!("the registry did not let the broker withdraw within {WITHDRAWAL:?}");
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
            let (withdrawals, orders) = mpsc::channel(1);
            // It is in the middle of something, and never looks at its orders.
            let keeping = tokio::spawn(async move {
                let _orders = orders;
                std::future::pending().await
            });
            Registration { keeping, withdrawals }
        };
        let registrations = [frozen(), frozen()];
        let started = tokio::time::Instant::now();
        let waited = timeout(Duration::from_secs(3600), withdraw_all(&registrations)).await;
        assert_eq!(waited.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), WITHDRAWAL, "both at the same time");
    }
}
