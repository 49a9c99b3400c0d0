//! Probes over HTTP: `/live`; `/ready`, which answers 503 with the reasons while messages can't be sent; and
//! `/health`, the producer's health as JSON.
//!
//! ```text
//! cargo run --example health_endpoint
//! curl -i http://127.0.0.1:8081/ready
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use metaq_producer::{
    Producer, Topic,
    health::{BrokerHealth, ConnectionHealth, ProducerHealth, TopicHealth},
};
use metaq_testkit::Broker;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};

/// The producer and the topics that the probes report on.
struct Probes {
    producer: Producer,
    /// The topics that the program needs to be ready.
    topics: Vec<Topic>,
}

impl Probes {
    /// Answers probes. Each connection has its own task.
    async fn serve(self: Arc<Self>, listener: TcpListener) -> Infallible {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // For example, no descriptor is free at the moment. That must not end the program.
                Err(error) => {
                    println!("a probe can't be accepted: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let probes = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = probes.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut server = http1::Builder::new();
                // Closes a connection that sends nothing.
                server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
                // A failed connection concerns only its client.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer =
                as_json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "only GET and HEAD" }));
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            // The program runs and answers. A producer reconnects on its own, so a restart would repair
            // nothing.
            "/live" => as_json(StatusCode::OK, &json!({ "live": true })),
            "/ready" => self.ready(),
            "/health" => as_json(StatusCode::OK, &health(&self.producer.health())),
            path => {
                let text = format!("there is no {path}; ask for /live, /ready or /health");
                as_json(StatusCode::NOT_FOUND, &json!({ "error": text }))
            }
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        match self.producer.ready(&self.topics) {
            Ok(()) => as_json(StatusCode::OK, &json!({ "ready": true })),
            Err(not_ready) => {
                let reason =
                    |(topic, reason): (&Topic, &str)| json!({ "topic": topic.as_str(), "reason": reason });
                let reasons: Vec<_> = not_ready.topics().map(reason).collect();
                let body = json!({ "ready": false, "closed": not_ready.is_closed(), "reasons": reasons });
                as_json(StatusCode::SERVICE_UNAVAILABLE, &body)
            }
        }
    }
}

fn as_json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn health(health: &ProducerHealth) -> Value {
    json!({
        "sending": health.is_sending(),
        "closed": health.is_closed,
        "registry": {
            "state": health.registry.state.to_string(),
            "since_seconds": health.registry.since.map(|since| since.as_secs_f64()),
        },
        "topics": health.topics.iter().map(of_topic).collect::<Vec<_>>(),
        "brokers": health.brokers.iter().map(of_broker).collect::<Vec<_>>(),
    })
}

fn of_topic(topic: &TopicHealth) -> Value {
    json!({
        "topic": topic.topic.as_str(),
        "partitions": topic.partitions,
        "connected": topic.connected.iter().map(|id| id.0).collect::<Vec<_>>(),
        "missing": topic.missing.iter().map(|id| id.0).collect::<Vec<_>>(),
        "view_age_seconds": topic.view_age.map(|age| age.as_secs_f64()),
    })
}

fn of_broker(broker: &BrokerHealth) -> Value {
    let connection = |connection: &ConnectionHealth| {
        json!({
            "phase": connection.phase.to_string(),
            "since_seconds": connection.since.as_secs_f64(),
            "last_error": connection.last_error.as_ref().map(ToString::to_string),
            "in_flight": connection.in_flight,
            "reconnects": connection.reconnects,
        })
    };
    json!({
        "address": broker.addr.to_string(),
        "ids": broker.ids.iter().map(|id| id.0).collect::<Vec<_>>(),
        "cooling_down": broker.cooling_down,
        "connections": broker.connections.iter().map(connection).collect::<Vec<_>>(),
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().topic("orders", 4).start().await?;
    let orders: Topic = "orders".parse()?;
    let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    producer.publish_topic(&orders).await?;

    let listener = TcpListener::bind("127.0.0.1:8081").await?;
    println!("http://{}/ready", listener.local_addr()?);
    match Arc::new(Probes { producer, topics: vec![orders] }).serve(listener).await {}
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            (body["sending"].clone(), body["topics"][0]["partitions"].clone()),
            (json!(true), json!(4))
        );
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
}
