//! TLS to the servers of a registry: trusted authorities, the client's identity, and the reasons of failed
//! handshakes.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject as _},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{DiscoveryError, DiscoveryErrorKind};

/// The limit for each step of the probe that finds the reason of a failed handshake.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The time to wait for an alert after the handshake: with TLS 1.3 the server rejects a client certificate
/// only then.
const ALERT_TIMEOUT: Duration = Duration::from_millis(300);

/// The trusted authorities for servers of a registry and, where the servers demand it, the identity of the
/// client. PEM, as files or as text; files are read once. `Debug` does not show the private key.
///
/// The certificate of a server must be valid for the host by which the server is named, a DNS name or an IP
/// address.
///
/// The cryptography is the one that the program has installed
/// ([`CryptoProvider::install_default`](rustls::crypto::CryptoProvider::install_default)). If there is none,
/// the first `TlsConfig` installs one: ring with the feature `tls-ring`, even if `tls` is enabled too, and
/// otherwise aws-lc-rs.
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use metaq_discovery::TlsConfig;
///
/// let tls = TlsConfig::from_ca_file("ca.pem")?.with_identity_files("client.pem", "client.key")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsConfig {
    ca: Pem,
    identity: Option<(Pem, Pem)>,
    rustls: Arc<ClientConfig>,
}

/// Text in PEM format, and the file that it was read from.
#[derive(Clone)]
struct Pem {
    file: Option<PathBuf>,
    text: String,
}

impl TlsConfig {
    /// Trusts servers whose certificate was signed by one of the certificates in `file`.
    ///
    /// # Errors
    /// When the file can't be read, or contains no usable certificate.
    pub fn from_ca_file(file: impl AsRef<Path>) -> Result<Self, DiscoveryError> {
        Self::new(Pem::read("the CA certificates", file.as_ref())?)
    }

    /// Like [`from_ca_file`](Self::from_ca_file), with the PEM text.
    ///
    /// # Errors
    /// When the text contains no usable certificate.
    pub fn from_ca_pem(text: impl Into<String>) -> Result<Self, DiscoveryError> {
        Self::new(Pem { file: None, text: text.into() })
    }

    fn new(ca: Pem) -> Result<Self, DiscoveryError> {
        let rustls = Arc::new(client_config(&ca, None)?);
        Ok(Self { ca, identity: None, rustls })
    }

    /// Authenticates to the servers with the certificate in one file, followed by intermediate certificates
    /// if there are any, and the private key in the other.
    ///
    /// # Errors
    /// When a file can't be read, contains no certificate or no key, or the key doesn't match the
    /// certificate.
    pub fn with_identity_files(
        self,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, DiscoveryError> {
        let certificate = Pem::read("the client certificate", certificate.as_ref())?;
        self.with_identity(certificate, Pem::read("the client's private key", key.as_ref())?)
    }

    /// Like [`with_identity_files`](Self::with_identity_files), with the PEM texts.
    ///
    /// # Errors
    /// When there is no certificate or no key, or the key doesn't match the certificate.
    pub fn with_identity_pem(
        self,
        certificate: impl Into<String>,
        key: impl Into<String>,
    ) -> Result<Self, DiscoveryError> {
        let certificate = Pem { file: None, text: certificate.into() };
        self.with_identity(certificate, Pem { file: None, text: key.into() })
    }

    fn with_identity(mut self, certificate: Pem, key: Pem) -> Result<Self, DiscoveryError> {
        self.rustls = Arc::new(client_config(&self.ca, Some((&certificate, &key)))?);
        self.identity = Some((certificate, key));
        Ok(self)
    }

    pub(crate) fn ca(&self) -> &str {
        &self.ca.text
    }

    /// The certificate and its key.
    pub(crate) fn identity(&self) -> Option<(&str, &str)> {
        self.identity.as_ref().map(|(certificate, key)| (certificate.text.as_str(), key.text.as_str()))
    }

    /// The reason why TLS fails with a server at `HOST:PORT`, or `None` if TLS is not the problem; the client
    /// libraries don't report it. [`Failed`](DiscoveryErrorKind::Failed) if the failure is permanent,
    /// [`Unreachable`](DiscoveryErrorKind::Unreachable) if it may be temporary.
    pub(crate) async fn handshake_error(&self, kind: &str, host: &str, name: &str) -> Option<DiscoveryError> {
        let name = ServerName::try_from(name.to_owned()).ok()?;
        let stream = timeout(PROBE_TIMEOUT, TcpStream::connect(host)).await.ok()?.ok()?;
        let connector = TlsConnector::from(Arc::clone(&self.rustls));
        let (error, agreed) = match timeout(PROBE_TIMEOUT, connector.connect(name, stream)).await {
            Ok(Ok(mut stream)) => (timeout(ALERT_TIMEOUT, stream.read_u8()).await.ok()?.err()?, true),
            Ok(Err(error)) => (error, false),
            Err(late) => (late.into(), false),
        };
        let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let (error_kind, why) = match reason {
            Some(reason) => (DiscoveryErrorKind::Failed, self.explain(reason)),
            None if agreed => return None,
            None => {
                let why = "it does not answer the handshake; this port may not use TLS";
                (DiscoveryErrorKind::Unreachable, why.to_owned())
            }
        };
        Some(DiscoveryError::with_source(
            error_kind,
            format!("TLS with {kind} at {host} failed: {why}"),
            error,
        ))
    }

    fn explain(&self, reason: &rustls::Error) -> String {
        use AlertDescription as Alert;
        match (reason, &self.identity) {
            (rustls::Error::InvalidCertificate(_), _) => {
                format!("its certificate can't be verified by {}", self.ca.show("the CA certificates"))
            }
            (
                rustls::Error::AlertReceived(
                    Alert::BadCertificate | Alert::CertificateRequired | Alert::HandshakeFailure,
                ),
                None,
            ) => "it demands a client certificate, and none is configured".to_owned(),
            (rustls::Error::AlertReceived(_), Some((certificate, _))) => {
                format!("it rejects {}", certificate.show("the client certificate"))
            }
            (rustls::Error::InvalidMessage(_), _) => "it does not use TLS on this port".to_owned(),
            _ => "the handshake failed".to_owned(),
        }
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.as_ref().map(|(certificate, _)| certificate.source());
        f.debug_struct("TlsConfig")
            .field("ca", &self.ca.source())
            .field("identity", &identity)
            .finish_non_exhaustive()
    }
}

impl Pem {
    fn read(what: &str, file: &Path) -> Result<Self, DiscoveryError> {
        let text = fs::read_to_string(file).map_err(|error| {
            let text = format!("{what} in {} can't be read", file.display());
            DiscoveryError::with_source(DiscoveryErrorKind::Config, text, error)
        })?;
        Ok(Self { file: Some(file.to_owned()), text })
    }

    fn source(&self) -> String {
        self.file.as_ref().map_or_else(|| "PEM".to_owned(), |file| file.display().to_string())
    }

    fn show(&self, what: &str) -> String {
        match &self.file {
            Some(file) => format!("{what} in {}", file.display()),
            None => what.to_owned(),
        }
    }

    fn certificates(&self, what: &str) -> Result<Vec<CertificateDer<'static>>, DiscoveryError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.text.as_bytes()).collect();
        let certificates = read.map_err(|error| self.unusable(what, "the content is not PEM", error))?;
        if certificates.is_empty() {
            return Err(self.unusable(what, "there is no certificate", pem::Error::NoItemsFound));
        }
        Ok(certificates)
    }

    fn unusable(
        &self,
        what: &str,
        why: &str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> DiscoveryError {
        let text = format!("{} can't be used: {why}", self.show(what));
        DiscoveryError::with_source(DiscoveryErrorKind::Config, text, error)
    }
}

/// Reads all certificates and keys, so that faults are reported before the first connection.
fn client_config(ca: &Pem, identity: Option<(&Pem, &Pem)>) -> Result<ClientConfig, DiscoveryError> {
    install_provider();
    let mut roots = RootCertStore::empty();
    for certificate in ca.certificates("the CA certificates")? {
        roots.add(certificate).map_err(|error| {
            ca.unusable("the CA certificates", "one of them is not a CA certificate", error)
        })?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificate.certificates("the client certificate")?;
    let private = PrivateKeyDer::from_pem_slice(key.text.as_bytes())
        .map_err(|error| key.unusable("the client's private key", "there is no usable private key", error))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| {
        let why = format!("it does not belong to {}", certificate.show("the client certificate"));
        key.unusable("the client's private key", &why, error)
    })
}

/// The ZooKeeper client library uses the provider of the process, and panics when a program was built with
/// several and has selected none.
fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have installed one first.
        let _ = provider().install_default();
    }
}

#[cfg(feature = "tls-ring")]
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(not(feature = "tls-ring"))]
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// The host of `HOST:PORT`, in the form used by certificates.
pub(crate) fn server_name(kind: &str, host: &str) -> Result<String, DiscoveryError> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match ServerName::try_from(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(error) => {
            let name = super::connect_string::without_secrets(name);
            let text = format!("no certificate can name {name:?}, a host of {kind}");
            Err(DiscoveryError::with_source(DiscoveryErrorKind::Config, text, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// A CA, a certificate that it signed, and the key of that certificate.
    fn made() -> (String, String, String) {
        let ca = metaq_testkit::peers::TestCa::new();
        let (certificate, key) = ca.issue("localhost");
        (ca.certificate().to_owned(), certificate, key)
    }

    #[test]
    fn debug_shows_neither_key_nor_text() {
        let (ca, certificate, key) = made();
        let tls = TlsConfig::from_ca_pem(ca).unwrap().with_identity_pem(certificate, key).unwrap();
        assert_eq!(format!("{tls:?}"), r#"TlsConfig { ca: "PEM", identity: Some("PEM"), .. }"#);
    }

    #[test]
    fn ring_is_installed_if_enabled_and_otherwise_aws_lc_rs() {
        let (ca, ..) = made();
        TlsConfig::from_ca_pem(ca).unwrap();
        let installed = format!("{:?}", CryptoProvider::get_default().unwrap().secure_random);
        assert_eq!(installed, if cfg!(feature = "tls-ring") { "Ring" } else { "AwsLcRs" });
    }

    #[test]
    fn errors_name_the_unusable_file() {
        let (ca, certificate, key) = made();
        let other_key = made().2;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (missing, empty) = (folder.path().join("missing.pem"), file("empty.pem", ""));
        let (ca, certificate) = (file("ca.pem", &ca), file("client.pem", &certificate));
        let (key, other_key) = (file("client.key", &key), file("other.key", &other_key));
        let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        let odd = file("odd.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let trusting = || TlsConfig::from_ca_file(&ca).unwrap();
        assert!(trusting().with_identity_files(&certificate, &key).is_ok());
        for (made, text) in [
            (TlsConfig::from_ca_file(&missing), "the CA certificates in MISSING can't be read"),
            (
                TlsConfig::from_ca_file(&empty),
                "the CA certificates in EMPTY can't be used: there is no certificate",
            ),
            (
                TlsConfig::from_ca_file(&broken),
                "the CA certificates in BROKEN can't be used: the content is not PEM",
            ),
            (
                TlsConfig::from_ca_file(&odd),
                "the CA certificates in ODD can't be used: one of them is not a CA certificate",
            ),
            (TlsConfig::from_ca_pem("?"), "the CA certificates can't be used: there is no certificate"),
            (
                trusting().with_identity_files(&missing, &key),
                "the client certificate in MISSING can't be read",
            ),
            (
                trusting().with_identity_files(&certificate, &empty),
                "the client's private key in EMPTY can't be used: there is no usable private key",
            ),
            (
                trusting().with_identity_files(&certificate, &other_key),
                "the client's private key in OTHER can't be used: it does not belong to the client certificate in CLIENT",
            ),
        ] {
            let error = made.unwrap_err();
            let place = |text: &str, name: &str, path: &Path| text.replace(name, &path.display().to_string());
            let text = place(&place(text, "MISSING", &missing), "EMPTY", &empty);
            let text = place(&place(&text, "OTHER", &other_key), "CLIENT", &certificate);
            let text = place(&place(&text, "BROKEN", &broken), "ODD", &odd);
            assert_eq!(error.to_string(), text);
            assert_eq!(error.kind(), DiscoveryErrorKind::Config);
            assert!(error.source().is_some(), "{text}");
        }
    }

    #[test]
    fn server_names_have_the_form_of_certificates() {
        for (host, name) in
            [("[::1]:2281", "::1"), ("127.0.0.1:1", "127.0.0.1"), ("zk-1.example:2", "zk-1.example")]
        {
            assert_eq!(server_name("ZooKeeper", host).unwrap(), name);
        }
        let error = server_name("ZooKeeper", "a b:1").unwrap_err();
        assert_eq!(error.to_string(), "no certificate can name \"a b\", a host of ZooKeeper");
        let error = server_name("ZooKeeper", "root:s3cret@h:1").unwrap_err();
        assert_eq!(error.to_string(), "no certificate can name \"...@h\", a host of ZooKeeper");
    }
}
