//! Probes over HTTP: `/live`; `/ready`, which answers 503 with the reasons while messages can't be sent; and
//! `/health`, the producer's health as JSON.
//!
//! ```text
//! cargo run -p metaq-examples --features http --example health_endpoint -- 127.0.0.1:8081
//! curl -i http://127.0.0.1:8081/ready
//! ```
//!
//! serves until it is stopped, and prints each probe with the status of its answer.
#![allow(clippy::print_stdout, reason = "examples show what they do")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod health;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use metaq_producer::{Producer, Topic};
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
                    println!("{} {}: {}", request.method(), request.uri().path(), answer.status());
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
            "/health" => as_json(StatusCode::OK, &health::to_json(&self.producer.health())),
            path => {
                let text = format!("there is no {path}; ask for /live, /ready or /health");
                as_json(StatusCode::NOT_FOUND, &json!({ "error": text }))
            }
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        match self.producer.ready(&self.topics) {
            Ok(()) => as_json(StatusCode::OK, &json!({ "ready": true })),
            Err(not_ready) => as_json(StatusCode::SERVICE_UNAVAILABLE, &health::not_ready(&not_ready)),
        }
    }
}

fn as_json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    let broker = Broker::builder().topic("orders", 4).start().await?;
    let orders: Topic = "orders".parse()?;
    let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    producer.publish_topic(&orders).await?;

    let listener = TcpListener::bind(&address).await.with_context(|| format!("{address} can't be served"))?;
    println!("answering /live, /ready and /health at http://{}", listener.local_addr()?);
    match Arc::new(Probes { producer, topics: vec![orders] }).serve(listener).await {}
}
