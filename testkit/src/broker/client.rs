//! The means by which a client finds and reaches a broker: discoveries, transports and connections without a port.

use std::io;

use async_trait::async_trait;
use metaq_discovery::MockDiscovery;
use metaq_protocol::BrokerAddr;
use metaq_transport::{ConnectionConfig, Dialer, StreamTransport};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    sync::mpsc,
};

use super::{Broker, listener::Io};
use crate::EmbeddedRegistry;

/// The number of bytes that may be under way in each direction on a connection without a port.
const PIPE: usize = 64 * 1024;

impl Broker {
    /// Connects to the broker without a port. The stream is the client's end of the connection.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(PIPE);
        self.serve_stream(server);
        client
    }

    /// A connector to the broker that needs no port and doesn't keep it alive: for a transport that is to reach it as long
    /// as it is there.
    #[must_use]
    pub fn connector(&self) -> BrokerConnector {
        BrokerConnector { streams: self.streams.clone() }
    }

    /// Serves one more connection, whose broker's end this stream is.
    pub fn serve_stream(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        // Once the broker was shut down, the connection is closed by being dropped.
        let _ = self.streams.send(Box::new(stream));
    }

    /// A registry of its own that names this broker, besides those that it was [built](super::BrokerBuilder::register_with)
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

/// Connects to a [`Broker`] without a port; got by [`Broker::connector`].
#[derive(Clone, Debug)]
pub struct BrokerConnector {
    pub(super) streams: mpsc::UnboundedSender<Box<dyn Io>>,
}

impl BrokerConnector {
    /// The client's end of a new connection.
    ///
    /// # Errors
    /// `ConnectionRefused` when the broker has ended.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (client, server) = tokio::io::duplex(PIPE);
        match self.streams.send(Box::new(server)) {
            Ok(()) => Ok(client),
            Err(_) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the embedded broker has ended")),
        }
    }
}

impl EmbeddedRegistry {
    /// A transport that reaches the brokers of this registry, whether they have ports or not, with the default settings
    /// for connections. It uses no network. Together with [`discovery`](Self::discovery) it is all that a producer needs:
    ///
    /// ```
    /// # use metaq_producer::Producer;
    /// # use metaq_testkit::{Broker, EmbeddedRegistry};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let registry = EmbeddedRegistry::new();
    /// let broker = |id| Broker::builder().id(id).topic("orders", 4).register_with(&registry).start_without_port();
    /// let (_zero, _one) = (broker(0)?, broker(1)?);
    /// let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport()).build()?;
    /// producer.publish_topic(&"orders".parse()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn transport(&self) -> StreamTransport<Self> {
        self.transport_with(ConnectionConfig::default())
    }

    /// A [`transport`](Self::transport) with other settings.
    #[must_use]
    pub fn transport_with(&self, config: ConnectionConfig) -> StreamTransport<Self> {
        StreamTransport::new(self.clone(), config)
    }
}

/// Reaches the brokers that have registered.
#[async_trait]
impl Dialer for EmbeddedRegistry {
    type Stream = DuplexStream;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<DuplexStream> {
        self.connect(broker)
    }
}

/// Reaches its broker, whatever the address.
#[async_trait]
impl Dialer for BrokerConnector {
    type Stream = DuplexStream;

    async fn dial(&self, _: &BrokerAddr) -> io::Result<DuplexStream> {
        self.connect()
    }
}
