//! etcd that demands credentials or certificates.

use data_encoding::BASE64;
use metaq_testkit::peers::{Etcd, EtcdProgram, PeerTls, TestCa};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    common::{Metaq, broker},
    file, look, produce, tls,
};

/// etcd's gateway for JSON.
struct Gateway {
    host: String,
    /// By TLS, if it listens for that.
    tls: Option<TlsConnector>,
}

impl Gateway {
    /// Makes a request, which has to succeed.
    async fn request(&self, path: &str, body: &str) {
        let stream = TcpStream::connect(&self.host).await.unwrap();
        let Some(tls) = &self.tls else { return self.exchange(stream, path, body).await };
        let stream = tls.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
        self.exchange(stream, path, body).await;
    }

    async fn exchange(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, body: &str) {
        let text = format!(
            "POST /v3/{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // The server may close a connection by TLS without notice.
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }

    async fn put(&self, key: &str, value: &str) {
        let [key, value] = [key, value].map(|text| BASE64.encode(text.as_bytes()));
        self.request("kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#)).await;
    }

    /// Lets only the user `root` in from now on.
    async fn demand_password(&self) {
        self.request("auth/role/add", r#"{"name":"root"}"#).await;
        self.request("auth/user/add", r#"{"name":"root","password":"s3cret"}"#).await;
        self.request("auth/user/grant", r#"{"user":"root","role":"root"}"#).await;
        self.request("auth/enable", "{}").await;
    }
}

#[tokio::test]
async fn etcd_takes_credentials_from_a_file() {
    let Some(program) = EtcdProgram::get("etcd_takes_credentials_from_a_file") else { return };
    let etcd = Etcd::start(&program).await.unwrap();
    let gateway = Gateway { host: etcd.endpoint(), tls: None };
    let cluster = format!("etcd://{}", gateway.host);
    let mut broker = Metaq::start(&["dev-broker", "--topic", "t:1", "--register", &cluster]);
    broker.next_line().await;
    assert_eq!(produce(&["-b", &cluster]).await.status, 0);
    gateway.demand_password().await;
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| format!("file:{}", file(folder.path(), name, text));
    let (right, wrong) = (place("right", "root:s3cret\n"), place("wrong", "root:s3crets"));
    let finished = produce(&["-b", &cluster, "--etcd-auth", &right]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    for args in [&["-b", &cluster][..], &["-b", &cluster, "--etcd-auth", &wrong]] {
        let finished = produce(args).await;
        assert_eq!((finished.status, &*finished.stdout), (5, ""), "{args:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("s3cret"), "{}", finished.stderr);
    }
    broker.signal(Signal::SIGKILL);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn etcd_is_reached_by_tls_with_certificate_and_password() {
    let Some(program) = EtcdProgram::get("etcd_is_reached_by_tls_with_certificate_and_password") else {
        return;
    };
    let (ca, other) = (TestCa::new(), TestCa::new());
    let setup = PeerTls::new(&ca, "127.0.0.1").demanding_certificates();
    let etcd = Etcd::start_with_tls(&program, setup).await.unwrap();
    let (master, slave) = (broker().await, broker().await);
    let gateway = Gateway { host: etcd.endpoint(), tls: Some(tls::client(&ca, "client")) };
    gateway.put("/meta/brokers/ids/0/master", &master.addr().to_string()).await;
    gateway.put("/meta/brokers/ids/0/slave1", &slave.addr().to_string()).await;
    gateway.put("/meta/brokers/ids/4/master", "meta://127.0.0.1:1").await;
    gateway.put("/meta/brokers/topics-pub/t/0-m", r#"{"numParts":2}"#).await;
    gateway.demand_password().await;

    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| file(folder.path(), name, text);
    let (certificate, key) = ca.issue("client");
    let (strange, strange_key) = other.issue("client");
    let (trusted, untrusted) = (place("ca.pem", ca.certificate()), place("other.pem", other.certificate()));
    let (certificate, key) = (place("client.pem", &certificate), place("client.key", &key));
    let (strange, strange_key) = (place("strange.pem", &strange), place("strange.key", &strange_key));
    let (right, wrong) = (place("right", "root:s3cret\n"), place("wrong", "root:s3crets"));
    let (right, wrong) = (format!("file:{right}"), format!("file:{wrong}"));
    let cluster = format!("etcd://{}", gateway.host);
    let named = ["-b", &cluster, "--tls-ca", &trusted];
    let own = ["--tls-cert", &certificate, "--tls-key", &key];
    let all = [&named[..], &own, &["--etcd-auth", &right]].concat();
    let finished = produce(&all).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!((master.messages("t").len(), slave.messages("t").len()), (1, 0));
    let brokers = look("brokers", &all).await;
    let rows: Vec<Vec<_>> = brokers.stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    let (first, second) = (master.addr().to_string(), slave.addr().to_string());
    let expected = [
        ["ID", "ROLE", "ADDRESS", "TOPICS"],
        ["0", "master", &first, "1"],
        ["0", "slave1", &second, "-"],
        ["4", "master", "meta://127.0.0.1:1", "0"],
    ];
    assert_eq!((brokers.status, rows), (0, expected.map(Vec::from).to_vec()), "{}", brokers.stderr);
    let settings = format!(
        "[profiles.own]\ncluster = '{cluster}'\netcd_auth = '{right}'\n[profiles.own.tls]\nca = '{trusted}'\n\
         cert = '{certificate}'\nkey = '{key}'\n"
    );
    let settings = place("settings.toml", &settings);
    let finished = produce(&["--config", &settings, "--profile", "own", "-vv"]).await;
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    assert!(finished.stderr.contains(" INFO ") && !finished.stderr.contains("s3cret"), "{}", finished.stderr);

    let strangers = ["--tls-cert", &strange, "--tls-key", &strange_key, "--etcd-auth", &right];
    for (args, status, said) in [
        (vec!["-b", &cluster, "--etcd-auth", &right], 5, "no etcd answered at "),
        ([&named[..], &["--etcd-auth", &right]].concat(), 5, "it demands a client certificate, and none is"),
        ([&named[..], &strangers].concat(), 5, "it rejects the client certificate in "),
        (
            [&["-b", &cluster, "--tls-ca", &untrusted], &own[..], &["--etcd-auth", &right]].concat(),
            5,
            "can't be verified by the CA certificates in ",
        ),
        ([&named[..], &own, &["--etcd-auth", &wrong]].concat(), 5, "invalid user ID or password"),
        ([&named[..], &own].concat(), 5, "refuses access without credentials"),
        ([&named[..], &own, &["--zk-auth", &right]].concat(), 2, "zk_auth is not for this cluster"),
        ([&named[..], &own[..2], &["--etcd-auth", &right]].concat(), 2, "are set together, or neither"),
    ] {
        for finished in [produce(&args).await, look("topics", &args).await] {
            assert_eq!((finished.status, &*finished.stdout), (status, ""), "{args:?}: {}", finished.stderr);
            assert!(finished.stderr.contains(said), "{args:?}: {}", finished.stderr);
            assert_eq!(finished.stderr.lines().count(), 1, "{args:?}: {}", finished.stderr);
            assert!(!finished.stderr.contains("s3cret"), "{}", finished.stderr);
        }
    }
}
