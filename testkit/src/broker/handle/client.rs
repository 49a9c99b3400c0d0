//! The means by which a client finds and reaches a broker: discoveries, transports and connections without a port.

use metaq_discovery::MockDiscovery;
use metaq_transport::StreamTransport;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use super::broker::Broker;
use crate::{BrokerConnector, EmbeddedRegistry, connector::pipe};

impl Broker {
    /// Connects to the broker without a port. The stream is the client's end of the connection.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = pipe();
        self.serve_stream(server);
        client
    }

    /// A connector to the broker that needs no port and doesn't keep it alive: for a transport that is to reach it as long
    /// as it is there.
    #[must_use]
    pub fn connector(&self) -> BrokerConnector {
        BrokerConnector::new(self.streams.clone())
    }

    /// Serves one more connection, whose broker's end this stream is.
    pub fn serve_stream(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        // Once the broker was shut down, the connection is closed by being dropped.
        let _ = self.streams.send(Box::new(stream));
    }

    /// A registry of its own that names this broker, besides those that it was [built](crate::BrokerBuilder::register_with)
    /// with. It is made by the first call; later ones return the same, also those on a broker that was started again after
    /// [`kill`](Self::kill).
    #[must_use]
    pub fn registry(&self) -> &EmbeddedRegistry {
        let mut is_new = false;
        let registry = self.shared.own_registry.get_or_init(|| {
            is_new = true;
            let registry = EmbeddedRegistry::new();
            // It can't fail where no other broker is.
            let _ = registry.claim(self.id(), self.addr(), self.connector());
            registry
        });
        if is_new {
            self.shared.update_registries();
        }
        registry
    }

    /// A discovery that finds this broker alone, also when it was started again after [`kill`](Self::kill), for one
    /// producer. Together with [`transport`](Self::transport) it is all that a producer needs:
    ///
    /// ```
    /// # use metaq_producer::Producer;
    /// # use metaq_testkit::Broker;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::builder().topic("orders", 4).start_without_port()?;
    /// let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport()).build()?;
    /// producer.publish_topic(&"orders".parse()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn discovery(&self) -> MockDiscovery {
        self.registry().discovery()
    }

    /// A transport that reaches this broker, whether it has a port or not, with the default settings for connections. It
    /// uses no network.
    #[must_use]
    pub fn transport(&self) -> StreamTransport<EmbeddedRegistry> {
        self.registry().transport()
    }
}
