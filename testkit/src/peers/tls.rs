//! Certificates for peers that are reached by TLS.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::PeerError;

/// A certificate authority of a test, which no system trusts.
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl TestCa {
    /// Creates a certificate authority.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        // A name of its own: an error is then about an unknown authority, not about a wrong signature.
        let name = format!("CA {} of a test", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a key signs its own certificate").pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Returns its own certificate, as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns a certificate for a host or a client of this name, and its private key, both as PEM.
    ///
    /// # Panics
    /// When the name can't be in a certificate, or no key can be made.
    #[must_use]
    pub fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name can be in a certificate");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).expect("the CA signs it");
        (certificate.pem(), key.serialize_pem())
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

/// The certificate of a peer, and its demands on clients.
#[derive(Clone, Debug)]
pub struct PeerTls {
    certificate: String,
    key: String,
    ca: String,
    pub(super) demands_certificate: bool,
}

impl PeerTls {
    /// Returns the settings of a server with a certificate for `host`, which accepts all clients.
    ///
    /// # Panics
    /// The same as for [`TestCa::issue`].
    #[must_use]
    pub fn new(ca: &TestCa, host: &str) -> Self {
        let (certificate, key) = ca.issue(host);
        Self { certificate, key, ca: ca.certificate.clone(), demands_certificate: false }
    }

    /// Accepts only clients that have a certificate of the same CA.
    #[must_use]
    pub fn demanding_certificates(mut self) -> Self {
        self.demands_certificate = true;
        self
    }

    /// Writes `server.pem` (the key and the certificate), `server.crt`, `server.key` and `ca.pem`.
    pub(super) fn write(&self, folder: &Path) -> Result<(), PeerError> {
        let both = format!("{}{}", self.key, self.certificate);
        [
            ("server.pem", &both),
            ("server.crt", &self.certificate),
            ("server.key", &self.key),
            ("ca.pem", &self.ca),
        ]
        .into_iter()
        .try_for_each(|(name, text)| fs::write(folder.join(name), text))
        .map_err(PeerError::io("write the certificates of a peer"))
    }
}
