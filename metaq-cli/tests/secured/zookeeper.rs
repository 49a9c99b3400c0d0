//! ZooKeeper that demands credentials or certificates.

use metaq_testkit::peers::{Peers, ZooKeeper};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::{common::broker, file, produce};

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
