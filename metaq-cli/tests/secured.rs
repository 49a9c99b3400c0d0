//! Registries that demand credentials or certificates.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs, path::Path};

use common::{Finished, Metaq, broker};
use metaq_testkit::peers::{Peers, ZooKeeper};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

async fn produce(args: &[&str]) -> Finished {
    Metaq::start(&[&["produce", "-t", "t"], args].concat()).finish(b"x\n").await
}

/// Writes a file, and returns its path.
fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn zookeeper_takes_credentials_from_files_and_variables() {
    let Some(peers) = Peers::get("zookeeper_takes_credentials_from_files_and_variables") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = broker().await;
    let owner = Client::connector().with_auth("digest", b"owner:s3cret");
    let owner = owner.connect(&zookeeper.connect_string()).await.unwrap();
    let own = [Acl::new(Permission::ALL, AuthId::authed())];
    let options = CreateMode::Persistent.with_acls(Acls::new(&own));
    owner.mkdir("/meta/brokers/ids/0", &options).await.unwrap();
    owner.mkdir("/meta/brokers/topics-pub/t", &options).await.unwrap();
    let addr = broker.addr().to_string();
    owner.create("/meta/brokers/ids/0/master", addr.as_bytes(), &options).await.unwrap();
    owner.create("/meta/brokers/topics-pub/t/0-m", br#"{"numParts":2}"#, &options).await.unwrap();

    let cluster = format!("zk://{}", zookeeper.connect_string());
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (
        format!("digest:file:{}", file(folder.path(), "right", "owner:s3cret\n")),
        format!("digest:file:{}", file(folder.path(), "wrong", "owner:s3crets\n")),
    );
    let finished = produce(&["-b", &cluster, "--zk-auth", &right]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    for args in [&["-b", &cluster][..], &["-b", &cluster, "--zk-auth", &wrong]] {
        let finished = produce(args).await;
        assert!(matches!(finished.status, 4 | 5), "{args:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("s3cret") && finished.stdout.is_empty(), "{}", finished.stderr);
    }
    // A profile names the place, which the log doesn't show either.
    let settings = format!("[profiles.own]\ncluster = '{cluster}'\nzk_auth = '{right}'\n");
    let settings = file(folder.path(), "settings.toml", &settings);
    let finished = produce(&["--config", &settings, "--profile", "own", "-vv"]).await;
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    assert!(finished.stderr.contains(" INFO ") && !finished.stderr.contains("s3cret"), "{}", finished.stderr);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn zookeeper_is_reached_by_tls() {
    use metaq_testkit::{
        Broker, Registry,
        peers::{PeerTls, TestCa},
    };

    let Some(peers) = Peers::get("zookeeper_is_reached_by_tls") else { return };
    let (ca, other) = (TestCa::new(), TestCa::new());
    let setup = PeerTls::new(&ca, "127.0.0.1").demanding_certificates();
    let zookeeper = ZooKeeper::builder().tls(setup).start(&peers).await.unwrap();
    let registry = Registry::zookeeper(&zookeeper.connect_string());
    let broker = Broker::builder().topic("t", 1).register_in(registry).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = ca.issue("client");
    let trusted = file(folder.path(), "ca.pem", ca.certificate());
    let untrusted = file(folder.path(), "other.pem", other.certificate());
    let certificate = file(folder.path(), "client.pem", &certificate);
    let key = file(folder.path(), "client.key", &key);
    let cluster = format!("zk://{}", zookeeper.secure_connect_string());
    let args = ["-b", &cluster, "--tls-ca", &trusted, "--tls-cert", &certificate, "--tls-key", &key];
    let finished = produce(&args).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(broker.messages("t").len(), 1);
    for (args, said) in [
        (&args[..4], "it demands a client certificate, and none is configured"),
        (&["-b", &cluster, "--tls-ca", &untrusted], "can't be verified by the CA certificates in"),
    ] {
        let finished = produce(args).await;
        assert_eq!((finished.status, finished.stderr.lines().count()), (5, 1), "{}", finished.stderr);
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
    }
}

#[cfg(feature = "etcd")]
mod etcd {
    use metaq_testkit::peers::{Etcd, EtcdProgram};
    use nix::sys::signal::Signal;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::{Metaq, file, produce};

    /// Makes a request of etcd's gateway for JSON.
    async fn request(host: &str, path: &str, body: &str) {
        let mut stream = TcpStream::connect(host).await.unwrap();
        let text = format!(
            "POST /v3/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }

    #[tokio::test]
    async fn etcd_takes_credentials_from_a_file() {
        let Some(program) = EtcdProgram::get("etcd_takes_credentials_from_a_file") else { return };
        let etcd = Etcd::start(&program).await.unwrap();
        let endpoint = etcd.endpoint();
        let host = endpoint.trim_start_matches("http://");
        let cluster = format!("etcd://{host}");
        let mut broker = Metaq::start(&["dev-broker", "--topic", "t:1", "--register", &cluster]);
        broker.next_line().await;
        assert_eq!(produce(&["-b", &cluster]).await.status, 0);
        request(host, "auth/role/add", r#"{"name":"root"}"#).await;
        request(host, "auth/user/add", r#"{"name":"root","password":"s3cret"}"#).await;
        request(host, "auth/user/grant", r#"{"user":"root","role":"root"}"#).await;
        request(host, "auth/enable", "{}").await;
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
}
