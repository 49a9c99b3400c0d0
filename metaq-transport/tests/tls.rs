//! Brokers behind something that speaks TLS: a real handshake, and what is refused, with each library that
//! is enabled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(any(feature = "tls", feature = "tls-ring"))]

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{BooleanCommand, BrokerAddr, Decoder, Frame, PutCommand, Response, Status, Topic};
use metaq_testkit::{Broker, peers::TestCa};
use metaq_transport::{
    Connection, ConnectionConfig, ConnectionState, ResponseBody, TlsTransport, Transport, TransportErrorKind,
    rustls::{
        ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier,
        client::WantsClientCert,
        crypto::{self, CryptoProvider},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

const SOON: Duration = Duration::from_secs(10);

/// The cryptography of each enabled feature.
fn providers() -> Vec<Arc<CryptoProvider>> {
    vec![
        #[cfg(feature = "tls")]
        Arc::new(crypto::aws_lc_rs::default_provider()),
        #[cfg(feature = "tls-ring")]
        Arc::new(crypto::ring::default_provider()),
    ]
}

/// A certificate authority, and the cryptography of both ends.
struct Tls {
    ca: TestCa,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    fn all() -> impl Iterator<Item = Self> {
        providers().into_iter().map(|provider| Self { ca: TestCa::new(), provider })
    }

    fn server(&self) -> ConfigBuilder<ServerConfig, WantsVerifier> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        builder.with_safe_default_protocol_versions().unwrap()
    }

    /// A client that trusts `ca`.
    fn trusting(&self, ca: &TestCa) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots(ca))
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.trusting(&self.ca).with_no_client_auth())
    }
}

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

/// An embedded broker behind TLS, which is for `name` and accepts every client with a certificate of the CA.
async fn broker(tls: &Tls, name: &str, demands_certificate: bool) -> (Broker, BrokerAddr) {
    let builder = tls.server();
    let builder = if demands_certificate {
        let provider = Arc::clone(&tls.provider);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(&tls.ca), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let (chain, key) = identity(&tls.ca, name);
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let broker = Broker::builder().topic("t", 1).start_without_port().unwrap();
    let connector = broker.connector();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = BrokerAddr::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            tokio::spawn(async move {
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = connector.connect()?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    (broker, addr)
}

async fn connect(addr: &BrokerAddr, transport: TlsTransport) -> Result<Arc<dyn Connection>, String> {
    let connection = transport.connect(addr).await.unwrap();
    let mut state = connection.state();
    let settled = state.wait_for(|state| match state {
        ConnectionState::Connecting { last_error, .. } => last_error.is_some(),
        _ => true,
    });
    match &*timeout(SOON, settled).await.unwrap().unwrap() {
        ConnectionState::Ready => Ok(Arc::clone(&connection)),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn puts_of_every_size_go_through_tls() {
    for tls in Tls::all() {
        let (broker, addr) = broker(&tls, "127.0.0.1", false).await;
        let transport = TlsTransport::new(ConnectionConfig::default(), tls.client());
        let connection = connect(&addr, transport).await.unwrap();
        let topic = Topic::new("t").unwrap();
        let deadline = Instant::now() + SOON;
        let pending: Vec<_> = [0, 5, 1_000, 20_000, 1_000_000, 7, 300_000]
            .map(|size| {
                let put = PutCommand::new(topic.clone(), 0, Bytes::from(vec![b'x'; size]), None);
                (size, connection.submit(&mut put.into(), deadline).unwrap())
            })
            .into();
        let mut sizes = Vec::new();
        for (size, pending) in pending {
            let answer = timeout(SOON, pending).await.unwrap().unwrap();
            assert!(matches!(answer.body, ResponseBody::Stored(_)), "{answer:?}");
            sizes.push(size);
        }
        let stored: Vec<_> = broker.messages("t").iter().map(|stored| stored.payload.len()).collect();
        assert_eq!(stored, sizes);
    }
}

#[tokio::test]
async fn a_broker_that_can_not_prove_who_it_is_gets_nothing() {
    for tls in Tls::all() {
        let foreign = TestCa::new();
        let (broker, addr) = broker(&tls, "broker.example", false).await;
        let config = ConnectionConfig::default;
        let error = connect(&addr, TlsTransport::new(config(), tls.client())).await.unwrap_err();
        assert!(error.contains("NotValidForName"), "{error}");
        let name = || ServerName::try_from("broker.example").unwrap();
        let trusting_others = TlsTransport::with_server_name(
            config(),
            Arc::new(tls.trusting(&foreign).with_no_client_auth()),
            name(),
        );
        let error = connect(&addr, trusting_others).await.unwrap_err();
        assert!(error.contains("UnknownIssuer"), "{error}");
        assert_eq!(broker.accepted_connections(), 0);
        let named = TlsTransport::with_server_name(config(), tls.client(), name());
        assert!(connect(&addr, named).await.is_ok(), "a name of its own may be given");
    }
}

#[tokio::test]
async fn one_can_prove_who_one_is() {
    for tls in Tls::all() {
        let (_broker, addr) = broker(&tls, "127.0.0.1", true).await;
        let config = ConnectionConfig::default;
        let error = connect(&addr, TlsTransport::new(config(), tls.client())).await.unwrap_err();
        assert!(error.contains("CertificateRequired"), "{error}");
        let (chain, key) = identity(&tls.ca, "producer");
        let proven = tls.trusting(&tls.ca).with_client_auth_cert(chain, key);
        assert!(connect(&addr, TlsTransport::new(config(), Arc::new(proven.unwrap()))).await.is_ok());
    }
}

#[tokio::test]
async fn a_port_without_tls_differs_from_a_broker_that_is_away() {
    for tls in Tls::all() {
        let plain = Broker::builder().topic("t", 1).start().await.unwrap();
        let mut config = ConnectionConfig::default();
        config.connect_timeout = Duration::from_millis(500);
        let error = connect(plain.addr(), TlsTransport::new(config, tls.client())).await.unwrap_err();
        assert!(!error.contains("refused"), "{error}");
    }
}

/// A TLS peer that shakes hands, answers the first request and then reads nothing more, so that its window
/// fills.
async fn frozen(tls: &Tls) -> (BrokerAddr, tokio::task::JoinHandle<()>) {
    let (chain, key) = identity(&tls.ca, "127.0.0.1");
    let config = tls.server().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = BrokerAddr::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
        let opaque = loop {
            if let Some(Frame::Command(command)) = decoder.decode(&mut input).unwrap() {
                break command.opaque();
            }
            stream.read_buf(&mut input).await.unwrap();
        };
        let mut output = BytesMut::new();
        let answer = BooleanCommand::new(Status::SUCCESS, Bytes::from_static(b"0.1"), opaque);
        Response::from(answer).encode(&mut output);
        stream.write_all(&output).await.unwrap();
        stream.flush().await.unwrap();
        std::future::pending::<()>().await;
    });
    (addr, task)
}

#[tokio::test]
async fn a_frozen_peer_does_not_stop_the_clock() {
    for tls in Tls::all() {
        let (addr, peer) = frozen(&tls).await;
        let mut config = ConnectionConfig::default();
        config.stall_after = SOON;
        let connection = connect(&addr, TlsTransport::new(config, tls.client())).await.unwrap();
        let topic = Topic::new("t").unwrap();
        // More than the buffers of both ends hold.
        let mut commands: Vec<metaq_protocol::Command> = (0..30)
            .map(|_| PutCommand::new(topic.clone(), 0, Bytes::from(vec![b'x'; 1_000_000]), None).into())
            .collect();
        let (long, short) = (Instant::now() + 6 * SOON, Instant::now() + Duration::from_millis(300));
        let deadlines = (0..30).map(|n| if n % 2 == 0 { long } else { short });
        let pending: Vec<_> = commands
            .iter_mut()
            .zip(deadlines)
            .map(|(command, deadline)| (deadline, connection.submit(command, deadline).unwrap()))
            .collect();
        let (longs, shorts): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|(deadline, _)| *deadline == long);
        for (_, pending) in shorts {
            let error = timeout(SOON / 2, pending).await.expect("it ends by its deadline").unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::TimedOut);
        }
        connection.close(Instant::now() + Duration::from_millis(200));
        let mut unwritten = 0;
        for (_, pending) in longs {
            let error =
                timeout(SOON / 2, pending).await.expect("closing doesn't wait for the peer").unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Closed);
            unwritten += usize::from(error.progress() == metaq_transport::Progress::NotWritten);
        }
        assert!(unwritten > 0, "the window is full");
        let mut state = connection.state();
        timeout(SOON / 2, state.wait_for(ConnectionState::is_closed)).await.expect("it closes").unwrap();
        peer.abort();
    }
}

#[test]
fn ring_is_chosen_if_enabled_and_otherwise_aws_lc_rs() {
    let chosen = format!("{:?}", TlsTransport::crypto_provider().secure_random);
    assert_eq!(chosen, if cfg!(feature = "tls-ring") { "Ring" } else { "AwsLcRs" });
}
