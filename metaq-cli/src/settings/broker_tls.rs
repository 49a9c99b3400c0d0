//! TLS to brokers, which are then behind something that speaks it.

use metaq_producer::{ProducerBuilder, ProducerConfig, error::BuildError};

use super::Settings;

/// The settings of TLS to brokers, besides those of the registry.
const NAMES: [&str; 4] = ["broker_tls.ca", "broker_tls.cert", "broker_tls.key", "broker_tls.name"];

/// A setting that can't be used, and the reason.
type Unusable = (&'static str, String);

/// What brokers are connected to with: TLS, or nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct BrokerTls {
    #[cfg(feature = "tls")]
    client: Option<tls::Client>,
}

impl Settings {
    /// Reads what the settings name for TLS to brokers.
    ///
    /// # Errors
    /// A text about the setting that can't be used.
    pub(super) fn broker_tls(&self) -> Result<BrokerTls, String> {
        let Some(first) = NAMES.into_iter().find(|name| self.get(name).is_some()) else {
            return Ok(BrokerTls::default());
        };
        if self.get("broker_tls.ca").is_none() {
            return Err(self.unusable(first)(format!("{first} needs broker_tls.ca, too")));
        }
        self.read_broker_tls().map_err(|(name, reason)| self.unusable(name)(reason))
    }

    #[cfg(not(feature = "tls"))]
    fn read_broker_tls(&self) -> Result<BrokerTls, Unusable> {
        let reason = "this metaq was built without TLS; cargo install it with --features tls";
        Err(("broker_tls.ca", reason.to_owned()))
    }

    #[cfg(feature = "tls")]
    fn read_broker_tls(&self) -> Result<BrokerTls, Unusable> {
        let [ca, certificate, key, name] = NAMES.map(|name| self.get(name));
        let client = tls::Client::read(ca.unwrap_or_default(), certificate.zip(key), name)?;
        if certificate.is_some() != key.is_some() {
            let name = if certificate.is_some() { "broker_tls.cert" } else { "broker_tls.key" };
            let reason = "broker_tls.cert and broker_tls.key are set together, or neither";
            return Err((name, reason.to_owned()));
        }
        Ok(BrokerTls { client: Some(client) })
    }
}

impl BrokerTls {
    /// Sets the transport on `builder`, if it is not the default one.
    ///
    /// # Errors
    /// When the limits of `config` are beyond what a connection can have.
    pub(crate) fn configure(
        self,
        builder: ProducerBuilder,
        config: &ProducerConfig,
    ) -> Result<ProducerBuilder, BuildError> {
        #[cfg(feature = "tls")]
        if let Some(client) = self.client {
            return Ok(builder.transport(client.transport(config.connection_config()?)));
        }
        let _ = config;
        Ok(builder)
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::{fs, sync::Arc};

    use metaq_producer::transport::{
        ConnectionConfig, TlsTransport,
        rustls::{
            ClientConfig, RootCertStore,
            pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        },
    };

    use super::Unusable;

    /// The trusted authorities, the client's own certificate, and the name that brokers have to have.
    #[derive(Clone, Debug)]
    pub(super) struct Client {
        config: Arc<ClientConfig>,
        name: Option<ServerName<'static>>,
    }

    impl Client {
        /// Reads the files. `identity` is the client's certificate and its key.
        pub(super) fn read(
            ca: &str,
            identity: Option<(&str, &str)>,
            name: Option<&str>,
        ) -> Result<Self, Unusable> {
            let of_ca = |reason| ("broker_tls.ca", reason);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca).map_err(of_ca)? {
                let added = roots.add(certificate);
                let described = |error| format!("{ca} has a certificate that is not that of a CA: {error}");
                added.map_err(|error| of_ca(described(error)))?;
            }
            let builder = ClientConfig::builder_with_provider(TlsTransport::crypto_provider());
            let builder = builder.with_safe_default_protocol_versions();
            let builder = builder.map_err(|error| of_ca(format!("TLS can't be used: {error}")))?;
            let builder = builder.with_root_certificates(roots);
            let config = match identity {
                None => builder.with_no_client_auth(),
                Some((certificate, key)) => {
                    let of_key = |reason| ("broker_tls.key", reason);
                    let of_certificate = |reason| ("broker_tls.cert", reason);
                    let private = PrivateKeyDer::from_pem_slice(&bytes(key).map_err(of_key)?);
                    let private = private
                        .map_err(|error| of_key(format!("{key} has no usable private key: {error}")))?;
                    let chain = certificates(certificate).map_err(of_certificate)?;
                    let built = builder.with_client_auth_cert(chain, private);
                    built.map_err(|error| {
                        of_certificate(format!(
                            "{certificate} and {key} are no certificate and its key: {error}"
                        ))
                    })?
                }
            };
            let name = name.map(|name| {
                let parsed = ServerName::try_from(name.to_owned());
                parsed.map_err(|_| {
                    let reason = format!("broker_tls.name is {name:?}, which no certificate can be for");
                    ("broker_tls.name", reason)
                })
            });
            Ok(Self { config: Arc::new(config), name: name.transpose()? })
        }

        pub(super) fn transport(self, connection: ConnectionConfig) -> TlsTransport {
            match self.name {
                Some(name) => TlsTransport::with_server_name(connection, self.config, name),
                None => TlsTransport::new(connection, self.config),
            }
        }
    }

    fn bytes(path: &str) -> Result<Vec<u8>, String> {
        fs::read(path).map_err(|error| format!("{path} can't be read: {error}"))
    }

    fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
        match read {
            Ok(certificates) if certificates.is_empty() => Err(format!("{path} has no certificate")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(format!("{path} is not PEM: {error}")),
        }
    }
}
