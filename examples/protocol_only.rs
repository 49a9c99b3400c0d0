//! The crate `metaq-protocol` alone: a put over a blocking socket, without a runtime and without the
//! producer.
//!
//! ```text
//! cargo run -p metaq-examples --example protocol_only
//! ```
//!
//! prints the bytes of the request, and the broker's answer to it.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use metaq_protocol::{Command, Decoder, Frame, Opaque, PutCommand, PutResponse, Response, Topic};
use metaq_testkit::Broker;

/// Reads from the socket until a whole frame is there.
fn read_frame(stream: &mut TcpStream, decoder: &mut Decoder) -> Result<Frame> {
    let (mut received, mut chunk) = (BytesMut::new(), [0; 1024]);
    loop {
        // Fails on bytes that are no frame, and on one that is larger than the decoder's limits.
        if let Some(frame) = decoder.decode(&mut received)? {
            return Ok(frame);
        }
        let length = stream.read(&mut chunk).context("the answer can't be read")?;
        ensure!(length > 0, "the broker has closed the connection: the message may be stored");
        received.extend_from_slice(&chunk[..length]);
    }
}

fn main() -> Result<()> {
    // Only the embedded broker needs a runtime.
    let runtime = tokio::runtime::Runtime::new()?;
    let broker = runtime.block_on(Broker::builder().topic("orders", 1).start())?;

    let mut put = PutCommand::new(Topic::new("orders")?, 0, "one coffee".into(), Some("table-7"));
    // The broker repeats it in its answer, by which answers find their requests.
    put.opaque = Opaque(42);
    let mut request = BytesMut::new();
    Command::from(put).encode(&mut request);
    println!("sent:     {request:?}");

    let mut stream = TcpStream::connect((broker.addr().host(), broker.addr().port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(&request)?;

    let Frame::Response(Response::Boolean(answer)) = read_frame(&mut stream, &mut Decoder::new())? else {
        bail!("the broker's answer is not one to a put");
    };
    println!("received: {} {:?}, opaque {}", answer.status, answer.text(), answer.opaque);
    ensure!(answer.opaque == Opaque(42), "this is the answer to another request: the message may be stored");
    ensure!(answer.status.is_success(), "the broker has refused the message: {:?}", answer.text());
    let stored = PutResponse::parse(&answer.body)
        .context("the broker has stored the message, and its answer can't be read")?;
    println!("stored at byte {}", stored.offset);
    Ok(())
}
