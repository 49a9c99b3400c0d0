//! `metaq-protocol` alone: a put over a blocking socket, without a runtime.
//!
//! ```text
//! cargo run --example protocol_only
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use bytes::BytesMut;
use metaq_protocol::{Command, Decoder, Frame, Opaque, PutCommand, PutResponse, Response, Topic};
use metaq_testkit::Broker;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Only the embedded broker needs a runtime.
    let runtime = tokio::runtime::Runtime::new()?;
    let broker = runtime.block_on(Broker::builder().topic("orders", 1).start())?;

    let mut put = PutCommand::new(Topic::new("orders")?, 0, "one coffee".into(), Some("table-7"));
    put.opaque = Opaque(42);
    let mut request = BytesMut::new();
    Command::from(put).encode(&mut request);
    println!("sent:     {:?}", request);

    let mut stream = TcpStream::connect((broker.addr().host(), broker.addr().port()))?;
    stream.write_all(&request)?;

    let (mut decoder, mut received, mut chunk) = (Decoder::new(), BytesMut::new(), [0; 1024]);
    let frame = loop {
        if let Some(frame) = decoder.decode(&mut received)? {
            break frame;
        }
        let length = stream.read(&mut chunk)?;
        received.extend_from_slice(&chunk[..length]);
    };
    let Frame::Response(Response::Boolean(answer)) = frame else {
        return Err("not an answer to a put".into());
    };
    println!("received: {} {:?}, opaque {}", answer.status, answer.text(), answer.opaque);
    println!("stored at {}", PutResponse::parse(&answer.body)?.offset);
    Ok(())
}
