//! Both ends of TLS, with certificates of a test.
#![allow(dead_code, reason = "some features need a part of this")]

use std::sync::Arc;

use metaq_testkit::{Broker, peers::TestCa};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

fn roots(ca: &TestCa) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate().as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

fn identity(ca: &TestCa, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let (certificate, key) = ca.issue(name);
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
}

/// A client that trusts `ca`, and has a certificate of it.
pub(crate) fn client(ca: &TestCa, name: &str) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots(ca));
    let (chain, key) = identity(ca, name);
    TlsConnector::from(Arc::new(builder.with_client_auth_cert(chain, key).unwrap()))
}

/// Puts TLS in front of a broker, with a certificate for `name`, and lets in who has one of the same CA.
/// Returns the address.
pub(crate) async fn in_front_of(broker: &Broker, ca: &TestCa, name: &str) -> String {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), Arc::clone(&provider));
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_client_cert_verifier(verifier.build().unwrap());
    let (chain, key) = identity(ca, name);
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let target = (broker.addr().host().to_owned(), broker.addr().port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("meta://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = TcpStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    addr
}
