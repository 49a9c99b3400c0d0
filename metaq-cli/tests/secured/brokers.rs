//! Brokers that are behind something that speaks TLS.

use metaq_testkit::peers::TestCa;

use crate::{
    common::{Metaq, broker},
    file, look, produce, tls,
};

#[tokio::test]
async fn brokers_are_reached_by_tls_with_a_certificate() {
    let broker = broker().await;
    let (ca, other) = (TestCa::new(), TestCa::new());
    let cluster = tls::in_front_of(&broker, &ca, "broker.example").await;
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| file(folder.path(), name, text);
    let (certificate, key) = ca.issue("client");
    let (trusted, untrusted) = (place("ca.pem", ca.certificate()), place("other.pem", other.certificate()));
    let (certificate, key) = (place("client.pem", &certificate), place("client.key", &key));
    let own = ["--broker-tls-cert", &certificate, "--broker-tls-key", &key];
    let name = ["--broker-tls-name", "broker.example"];
    let trusting = ["-b", &cluster, "--broker-tls-ca", &trusted];
    let all = [&trusting[..], &own, &name].concat();
    let finished = produce(&all).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(broker.messages("t").len(), 1);
    for command in ["topics", "brokers", "stats", "doctor"] {
        let finished = look(command, &all).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{command}");
    }
    let verify = [&["verify", "t", "--count", "50"], &all[..]].concat();
    let finished = Metaq::start(&verify).finish(b"").await;
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    let bench = ["bench", "-t", "t", "--messages", "1000", "--size", "100", "--in-flight", "64"];
    let finished = Metaq::start(&[&bench[..], &all].concat()).finish(b"").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    // A file of settings has them in a table.
    let settings = format!(
        "cluster = '{cluster}'\n[broker_tls]\nca = '{trusted}'\ncert = '{certificate}'\nkey = '{key}'\n\
         name = 'broker.example'\n"
    );
    let settings = place("settings.toml", &settings);
    assert_eq!(produce(&["--config", &settings]).await.status, 0);

    for (args, status, said) in [
        ([&trusting[..], &own].concat(), 5, "not valid for name"),
        (
            [&["-b", &cluster, "--broker-tls-ca", &untrusted], &own[..], &name].concat(),
            5,
            "invalid peer certificate: UnknownIssuer",
        ),
        (vec!["-b", &cluster], 5, ""),
        ([&trusting[..], &name, &own[..2]].concat(), 2, "are set together, or neither"),
        (vec!["-b", &cluster, "--broker-tls-name", "x"], 2, "broker_tls.name needs broker_tls.ca, too"),
        ([&trusting[..], &["--broker-tls-name", "a b"]].concat(), 2, "which no certificate can be for"),
        (vec!["-b", &cluster, "--broker-tls-ca", "/no/such.pem"], 2, "/no/such.pem can't be read"),
        (vec!["-b", &cluster, "--broker-tls-ca", &key], 2, "has no certificate"),
        // These are for the registry, and a broker has none.
        (
            vec!["-b", &cluster, "--tls-ca", &trusted],
            2,
            "takes no tls.ca; it is for registries, and broker_tls",
        ),
    ] {
        for finished in [produce(&args).await, look("topics", &args).await] {
            assert_eq!((finished.status, &*finished.stdout), (status, ""), "{args:?}: {}", finished.stderr);
            assert!(finished.stderr.contains(said), "{args:?}: {}", finished.stderr);
            assert_eq!(finished.stderr.lines().count(), 1, "{args:?}: {}", finished.stderr);
        }
    }
}
