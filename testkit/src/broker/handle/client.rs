//! Finding and reaching a broker: discoveries, transports and connections without a port.

use metaq_discovery::MockDiscovery;
use metaq_transport::StreamTransport;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use super::broker::Broker;
use crate::{BrokerConnector, EmbeddedRegistry, connector::pipe};

impl Broker {
    /// Connects to the broker without a port. Returns the client's end of the connection.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = pipe();
        self.serve_stream(server);
        client
    }

    /// Returns a connector to the broker that needs no port and doesn't keep it alive, for a transport that
    /// reaches the broker while it runs.
    #[must_use]
    pub fn connector(&self) -> BrokerConnector {
        BrokerConnector::new(self.streams.clone())
    }

    /// Serves one more connection. The stream is the broker's end of it.
    pub fn serve_stream(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        // After a shutdown the stream is dropped, which closes the connection.
        let _ = self.streams.send(Box::new(stream));
    }

    /// Returns the broker's own registry, which lists this broker, in addition to those that it was
    /// [built](crate::BrokerBuilder::register_with) with. The first call makes it; later ones return the
    /// same, also on a broker that was started again after [`kill`](Self::kill).
    #[must_use]
    pub fn registry(&self) -> &EmbeddedRegistry {
        let mut is_new = false;
        let registry = self.shared.own_registry.get_or_init(|| {
            is_new = true;
            let registry = EmbeddedRegistry::new();
            // A new registry holds no other broker.
            let _ = registry.claim(self.id(), self.addr(), self.connector());
            registry
        });
        if is_new {
            self.shared.update_registries();
        }
        registry
    }

    /// Returns a discovery that finds this broker alone, also after it was started again by
    /// [`kill`](Self::kill), for one producer. With [`transport`](Self::transport) it is all that a producer
    /// needs:
    ///
    /// ```
    /// # use metaq_producer::Producer;
    /// # use metaq_testkit::Broker;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::builder().topic("orders", 4).start_without_port()?;
    /// let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    /// let producer = producer.build()?;
    /// producer.publish_topic(&"orders".parse()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn discovery(&self) -> MockDiscovery {
        self.registry().discovery()
    }

    /// Returns a transport that reaches this broker, with or without a port, with the default settings for
    /// connections. It uses no network.
    #[must_use]
    pub fn transport(&self) -> StreamTransport<EmbeddedRegistry> {
        self.registry().transport()
    }
}
