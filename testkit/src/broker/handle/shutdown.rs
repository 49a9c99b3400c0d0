//! The end of a broker: shut down, killed or dropped.

use std::io;

use super::broker::Broker;
use crate::broker::builder::BrokerBuilder;
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
use crate::broker::registration;

impl Broker {
    /// Waits until the broker is stopped by being dropped elsewhere, which is never: for programs that only serve.
    pub async fn serve(&mut self) {
        // The task ends by being aborted, which only the drop of this broker does.
        let _ = (&mut self.accepting).await;
    }

    /// Ends the broker in the order of a planned shutdown: it leaves the registries first, closes its port and its
    /// connections, then has its messages written to the disk. When this returns, the port is free, nothing is written any
    /// more, and the data folder can be another broker's.
    ///
    /// # Errors
    /// When a registry could not be told, or did not answer within 10 s, or the disk failed. It is ended all the same.
    ///
    /// # Cancel safety
    /// Dropping the future ends the broker at once, as dropping the broker does.
    pub async fn shut_down(mut self) -> io::Result<()> {
        #[cfg(any(feature = "zookeeper", feature = "etcd"))]
        let unregistered = registration::unregister_all(&self.registrations).await;
        #[cfg(not(any(feature = "zookeeper", feature = "etcd")))]
        let unregistered = Ok(());
        for registry in self.shared.registries() {
            registry.remove(self.shared.id, &self.shared.addr);
        }
        self.stop_serving().await;
        let flushed = self.flush();
        unregistered.and(flushed)
    }

    /// Ends the broker as if its process were killed: its connections break, registries keep it until its session expires,
    /// and what was prepared or committed outlives it only in a [`data_dir`](BrokerBuilder::data_dir). When this returns, the
    /// port is free, and the data folder can be another broker's.
    ///
    /// Returns a builder that starts the broker again: as it was built, and on the same port, which nothing else of this
    /// crate takes as long as the builder lives. If it had no port, start it by
    /// [`start_without_port`](BrokerBuilder::start_without_port) again. Producers that were given its
    /// [`discovery`](Self::discovery) and [`transport`](Self::transport) find it again in either case.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use metaq_testkit::Broker;
    ///
    /// let broker = Broker::builder().topic("orders", 4).start().await?;
    /// let addr = broker.addr().clone();
    /// let killed = broker.kill().await;
    /// // … what the service does meanwhile …
    /// let broker = killed.start().await?;
    /// assert_eq!(*broker.addr(), addr);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future ends the broker at once, as dropping the broker does.
    pub async fn kill(mut self) -> BrokerBuilder {
        let mut builder = self.builder.clone();
        self.stop_serving().await;
        // Clients that know it by this find it again.
        builder.own_registry = self.shared.own_registry.get().cloned();
        builder
    }

    /// Ends the port and the connections, and waits until they have ended.
    async fn stop_serving(&mut self) {
        if let Some(stop) = self.stop.take() {
            // If it fails, the task has ended with its runtime.
            let _ = stop.send(());
        }
        // It may have ended by a panic, or with its runtime.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.accepting.abort();
        // Connections that run on other threads may not be aborted yet.
        self.shared.close();
        for registry in self.shared.registries() {
            registry.expire(self.shared.id, &self.shared.addr);
        }
    }
}
