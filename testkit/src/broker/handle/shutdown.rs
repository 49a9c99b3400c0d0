//! Ending a broker: shutting it down, killing it, dropping it.

use std::io;

use super::broker::Broker;
use crate::broker::builder::BrokerBuilder;
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
use crate::broker::registration;

impl Broker {
    /// Never returns while the broker runs: for programs that only serve.
    pub async fn serve(&mut self) {
        // Only dropping this broker aborts the task.
        let _ = (&mut self.accepting).await;
    }

    /// Ends the broker as a planned shutdown does: it leaves the registries, closes its port and its
    /// connections, then writes its messages through to the disk. When this returns, the port is free,
    /// nothing is written any more, and another broker can use the data folder.
    ///
    /// # Errors
    /// When a registry fails or doesn't answer within 10 s, or the disk fails. The broker has ended all the
    /// same.
    ///
    /// # Cancel safety
    /// Dropping the future ends the broker immediately, as dropping the broker does.
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

    /// Ends the broker as if its process were killed: its connections break, registries list it until its
    /// session expires, and prepared or committed messages survive only in a
    /// [`data_dir`](BrokerBuilder::data_dir). When this returns, the port is free, and another broker can use
    /// the data folder.
    ///
    /// Returns a builder that starts the broker again with the same settings and on the same port, which
    /// nothing else in this crate takes while the builder lives. Start a broker without a port by
    /// [`start_without_port`](BrokerBuilder::start_without_port) again. Producers with its
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
    /// Dropping the future ends the broker immediately, as dropping the broker does.
    pub async fn kill(mut self) -> BrokerBuilder {
        let mut builder = self.builder.clone();
        self.stop_serving().await;
        // Clients with this registry find the next broker.
        builder.own_registry = self.shared.own_registry.get().cloned();
        builder
    }

    /// Closes the port and the connections, and waits until their tasks have ended.
    async fn stop_serving(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Sending fails if the task has ended with its runtime.
            let _ = stop.send(());
        }
        // The task may have panicked, or ended with its runtime.
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
