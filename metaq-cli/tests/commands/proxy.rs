//! `metaq proxy` as a process.

use metaq_testkit::Broker;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{Finished, Metaq, broker, wait_until};

/// Starts a proxy; returns it with its address.
async fn start(broker: &Broker) -> (Metaq, String) {
    let upstream = format!("{}:{}", broker.addr().host(), broker.addr().port());
    let mut proxy = Metaq::start(&["proxy", &upstream]);
    let addr = proxy.next_line().await;
    assert!(addr.starts_with("meta://127.0.0.1:"), "{addr}");
    (proxy, addr)
}

/// Gives a command; returns the answer.
async fn command(proxy: &mut Metaq, command: &str) -> Value {
    proxy.write(format!("{command}\n").as_bytes()).await;
    let answer: Value = serde_json::from_str(&proxy.next_line().await).unwrap();
    assert_eq!(answer["command"], command);
    answer
}

async fn ok(proxy: &mut Metaq, text: &str) {
    let answer = command(proxy, text).await;
    assert_eq!(answer["ok"], true, "{answer}");
}

async fn produce(cluster: &str, timeout: &str) -> Finished {
    let args = ["produce", "--cluster", cluster, "--topic", "t", "--timeout", timeout];
    Metaq::start(&args).finish(b"line\n").await
}

#[tokio::test]
async fn everything_is_forwarded_until_a_command() {
    let broker = broker().await;
    let (mut proxy, cluster) = start(&broker).await;
    assert_eq!(produce(&cluster, "5s").await.status, 0);
    assert_eq!(broker.messages("t").len(), 1);
    let status = command(&mut proxy, "status").await;
    assert!(status["status"]["accepted"].as_u64().unwrap() >= 1, "{status}");
    assert!(status["status"]["to_server_bytes"].as_u64().unwrap() > 20, "{status}");

    // The acknowledgement is lost: the outcome is unknown, and the message is stored.
    let args = ["produce", "--cluster", &cluster, "--topic", "t", "--timeout", "500ms"];
    let mut metaq = Metaq::start(&args);
    metaq.write(b"first\n").await;
    assert!(metaq.next_line().await.contains("\"offset\""));
    ok(&mut proxy, "swallow to-client").await;
    let finished = metaq.finish(b"second\n").await;
    assert_eq!(finished.status, 6, "{}", finished.stdout);
    wait_until(|| broker.messages("t").len() == 3).await;

    ok(&mut proxy, "forward").await;
    assert_eq!(produce(&cluster, "5s").await.status, 0);
    proxy.signal(Signal::SIGTERM);
    let finished = proxy.wait().await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
}

#[tokio::test]
async fn connections_are_refused_cut_and_delayed_on_command() {
    let broker = broker().await;
    let (mut proxy, cluster) = start(&broker).await;
    ok(&mut proxy, "refuse").await;
    let refused = Metaq::start(&["topics", "--cluster", &cluster]).finish(b"").await;
    assert_eq!(refused.status, 5, "{}", refused.stderr);
    ok(&mut proxy, "accept").await;
    assert_eq!(produce(&cluster, "5s").await.status, 0);
    ok(&mut proxy, "delay 150ms to-client").await;
    let ping = Metaq::start(&["brokers", "--ping", "--json", "--cluster", &cluster]).finish(b"").await;
    assert_eq!(ping.status, 0, "{}", ping.stderr);
    assert!(ping.json()[0]["round_trip_us"].as_f64().unwrap() >= 150_000.0, "{}", ping.stdout);
    ok(&mut proxy, "forward").await;
    ok(&mut proxy, "cut 5 to-client").await;
    let cut =
        Metaq::start(&["brokers", "--ping", "--cluster", &cluster, "--timeout", "1s"]).finish(b"").await;
    assert_eq!(cut.status, 5, "{}", cut.stderr);
    for text in [
        "bandwidth 100000",
        "freeze to-server",
        "duplicate 10 5",
        "close",
        "reset",
        "strand",
        "ignore",
        "forward",
    ] {
        ok(&mut proxy, text).await;
    }
    assert_eq!(produce(&cluster, "5s").await.status, 0);
    proxy.write(b"quit\n").await;
    let finished = proxy.wait().await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
}

#[tokio::test]
async fn planned_cut_survives_other_commands() {
    let broker = broker().await;
    let (mut proxy, cluster) = start(&broker).await;
    for text in ["cut 5 to-client", "delay 1ms", "duplicate 100000 1 to-client", "bandwidth 1000000"] {
        ok(&mut proxy, text).await;
    }
    let ping = ["brokers", "--ping", "--cluster", &cluster, "--timeout", "1s"];
    let cut = Metaq::start(&ping).finish(b"").await;
    assert_eq!(cut.status, 5, "{}", cut.stderr);
    ok(&mut proxy, "forward").await;
    assert_eq!(Metaq::start(&ping).finish(b"").await.status, 0);
}

#[tokio::test]
async fn wrong_commands_are_answered_and_change_nothing() {
    let broker = broker().await;
    let (mut proxy, cluster) = start(&broker).await;
    for (text, said) in
        [("stop", "there is no command stop"), ("delay", "delay needs a time"), ("cut x", "x is not")]
    {
        let answer = command(&mut proxy, text).await;
        assert!(answer["ok"] == false && answer["error"].as_str().unwrap().contains(said), "{answer}");
    }
    proxy.write(b"refuse \xff\n").await;
    let answer: Value = serde_json::from_str(&proxy.next_line().await).unwrap();
    assert_eq!((&answer["ok"], &answer["error"]), (&false.into(), &"the line is not UTF-8".into()));
    assert_eq!(command(&mut proxy, "status").await["ok"], true, "further commands are read");
    assert_eq!(produce(&cluster, "5s").await.status, 0);
    // The end of the input is not the end of the proxy.
    drop(proxy.take_stdin());
    assert_eq!(produce(&cluster, "5s").await.status, 0);
    proxy.signal(Signal::SIGINT);
    assert_eq!(proxy.wait().await.status, 0);
    let refused = Metaq::start(&["proxy", "no port"]).finish(b"").await;
    assert_eq!((refused.status, &*refused.stdout), (2, ""), "{}", refused.stderr);
}
