//! TLS to brokers. Brokers don't speak it themselves, so that each needs a proxy in front of it.

use std::{io, sync::Arc};

use async_trait::async_trait;
use metaq_protocol::BrokerAddr;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, crypto::CryptoProvider, pki_types::ServerName},
};

use crate::{
    Connection, ConnectionConfig, Dialer, StreamTransport, Transport, TransportError, tcp::TcpDialer,
};

/// Connects to brokers by TLS over TCP, and is otherwise like [`TcpTransport`](crate::TcpTransport).
///
/// Brokers don't speak TLS themselves: each needs a proxy in front of it that does. A [`ClientConfig`] of
/// `rustls` has the trusted certificates and the client's own. A broker's certificate has to be for the host
/// by which the registry names the broker, unless another name is given.
/// [`crypto_provider`](Self::crypto_provider) has the cryptography of the enabled feature.
///
/// ```no_run
/// use std::sync::Arc;
/// use metaq_transport::{ConnectionConfig, TlsTransport, rustls::{ClientConfig, RootCertStore}};
/// # use metaq_transport::rustls::pki_types::{CertificateDer, pem::PemObject as _};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut roots = RootCertStore::empty();
/// roots.add(CertificateDer::from_pem_file("ca.pem")?)?;
/// let tls = ClientConfig::builder_with_provider(TlsTransport::crypto_provider())
///     .with_safe_default_protocol_versions()?
///     .with_root_certificates(roots)
///     .with_no_client_auth();
/// let transport = TlsTransport::new(ConnectionConfig::default(), Arc::new(tls));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TlsTransport {
    streams: StreamTransport<TlsDialer>,
}

impl TlsTransport {
    /// Creates a transport with the given settings.
    #[must_use]
    pub fn new(config: ConnectionConfig, tls: Arc<ClientConfig>) -> Self {
        Self::with_name(config, tls, None)
    }

    /// Creates a transport to brokers that all have a certificate for `name`, whatever the registry calls
    /// them.
    #[must_use]
    pub fn with_server_name(
        config: ConnectionConfig,
        tls: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Self {
        Self::with_name(config, tls, Some(name))
    }

    /// Returns the cryptography for a [`ClientConfig`]: the one that the program has installed
    /// ([`CryptoProvider::install_default`]) or else ring with the feature `tls-ring`, even if `tls` is
    /// enabled too, and otherwise aws-lc-rs.
    ///
    /// `ClientConfig::builder` panics where a program was built with several and has installed none.
    #[must_use]
    pub fn crypto_provider() -> Arc<CryptoProvider> {
        CryptoProvider::get_default().map_or_else(|| Arc::new(provider()), Arc::clone)
    }

    fn with_name(
        config: ConnectionConfig,
        tls: Arc<ClientConfig>,
        name: Option<ServerName<'static>>,
    ) -> Self {
        Self { streams: StreamTransport::new(TlsDialer { tcp: TcpDialer::default(), tls, name }, config) }
    }
}

#[async_trait]
impl Transport for TlsTransport {
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        self.streams.connect(broker).await
    }
}

#[cfg(feature = "tls-ring")]
fn provider() -> CryptoProvider {
    tokio_rustls::rustls::crypto::ring::default_provider()
}

#[cfg(not(feature = "tls-ring"))]
fn provider() -> CryptoProvider {
    tokio_rustls::rustls::crypto::aws_lc_rs::default_provider()
}

#[derive(Debug)]
struct TlsDialer {
    tcp: TcpDialer,
    tls: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

#[async_trait]
impl Dialer for TlsDialer {
    type Stream = TlsStream<TcpStream>;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(broker.host().to_owned()).map_err(|error| {
                let text = format!("no certificate can be for {:?}: {error}", broker.host());
                io::Error::new(io::ErrorKind::InvalidInput, text)
            })?,
        };
        let stream = self.tcp.dial(broker).await?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
    }

    fn abort(&self, stream: &TlsStream<TcpStream>) {
        self.tcp.abort(stream.get_ref().0);
    }
}
