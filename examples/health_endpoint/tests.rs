//! Tests of the example itself.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends one request; returns the status and the body of the answer.
async fn ask(addr: SocketAddr, request: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(TIMEOUT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// Repeats a request until the status is `wanted`; returns the body.
async fn ask_until(addr: SocketAddr, request: &str, wanted: u16) -> Value {
    let asked = async {
        loop {
            let (status, body) = ask(addr, request).await;
            if status == wanted {
                return body;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, asked).await.expect("the status is reached in time")
}

#[tokio::test]
async fn probes_follow_a_broker_that_goes_away_and_comes_back() {
    let broker = Broker::builder().topic("orders", 4).start().await.unwrap();
    let orders: Topic = "orders".parse().unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let probes = Arc::new(Probes { producer: producer.clone(), topics: vec![orders.clone()] });
    let serving = tokio::spawn(probes.serve(listener));

    let (_, body) = ask(addr, "GET /health").await;
    assert_eq!(body["sending"], json!(false), "no topic is published");
    let (status, body) = ask(addr, "GET /ready").await;
    assert_eq!((status, body["ready"].clone()), (503, json!(false)));
    assert_eq!(body["reasons"], json!([{ "topic": "orders", "reason": "it is not published" }]));
    producer.publish_topic(&orders).await.unwrap();
    assert_eq!(ask(addr, "GET /ready").await, (200, json!({ "ready": true })));

    let killed = broker.kill().await;
    let body = ask_until(addr, "GET /ready", 503).await;
    let reason = body["reasons"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("no broker is connected"), "{body}");
    // The program itself is alive.
    assert_eq!(ask(addr, "GET /live").await, (200, json!({ "live": true })));
    let (status, body) = ask(addr, "GET /health").await;
    assert_eq!((status, body["sending"].clone()), (200, json!(false)), "{body}");
    assert_ne!(body["brokers"][0]["connections"][0]["phase"], json!("ready"), "{body}");

    let _back = killed.start().await.unwrap();
    assert_eq!(ask_until(addr, "GET /ready", 200).await, json!({ "ready": true }));
    let (_, body) = ask(addr, "GET /health").await;
    assert_eq!((body["sending"].clone(), body["topics"][0]["partitions"].clone()), (json!(true), json!(4)));
    assert_eq!(body["brokers"][0]["connections"][0]["reconnects"], json!(1), "{body}");

    assert_eq!(ask(addr, "GET /").await.0, 404);
    assert_eq!(ask(addr, "DELETE /ready").await.0, 405);
    producer.close(Duration::from_secs(1)).await;
    let (status, body) = ask(addr, "GET /ready").await;
    assert_eq!((status, body["closed"].clone()), (503, json!(true)));
    let (_, body) = ask(addr, "GET /health").await;
    assert_eq!((body["sending"].clone(), body["closed"].clone()), (json!(false), json!(true)));
    serving.abort();
}
