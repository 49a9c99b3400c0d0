//! The number of puts a second that the embedded broker handles: `cargo bench --package metaq-testkit`. The
//! load of the machine and the client's own work are included.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for developers")]

use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use metaq_protocol::{Decoder, PutCommand};
use metaq_testkit::Broker;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::TcpStream,
    task::JoinSet,
};

/// The number of puts in one write.
const BATCH: usize = 1000;

/// The duration of each measurement.
const TIME: Duration = Duration::from_secs(1);

/// Puts until the time is up. Returns the number of acknowledged puts.
async fn put(stream: impl AsyncRead + AsyncWrite + Send + 'static, partition: i32, payload: usize) -> u64 {
    let topic = "bench".parse().unwrap();
    let put = PutCommand::new(topic, partition, Bytes::from(vec![b'x'; payload]), None);
    let mut batch = BytesMut::new();
    for _ in 0..BATCH {
        put.encode(&mut batch);
    }
    let batch = batch.freeze();
    let (mut read, mut write) = split(stream);
    let end = Instant::now() + TIME;
    let writing = async {
        while Instant::now() < end {
            write.write_all(&batch).await.unwrap();
        }
        write.write_all(b"version 1\r\n").await.unwrap();
    };
    let reading = async {
        let (mut decoder, mut input, mut acknowledged) = (Decoder::new(), BytesMut::new(), 0);
        loop {
            let mut used = 0;
            while let Some((answer, length)) = decoder.decode_response_in_place(&input[used..]).unwrap() {
                assert!(answer.status().unwrap().is_success());
                // Responses arrive in order: this is the last.
                if answer.put_response().is_err() {
                    return acknowledged;
                }
                used += length;
                acknowledged += 1;
            }
            input.advance(used);
            input.reserve(64 * 1024);
            read.read_buf(&mut input).await.unwrap();
        }
    };
    tokio::join!(writing, reading).1
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    for (what, over_tcp, on_disk, connections, payload) in [
        ("128 B, in memory, no port, 1 connection", false, false, 1, 128),
        ("128 B, in memory, TCP, 1 connection", true, false, 1, 128),
        ("128 B, in memory, TCP, 4 connections", true, false, 4, 128),
        ("16 KiB, in memory, TCP, 1 connection", true, false, 1, 16 * 1024),
        ("128 B, on disk, TCP, 1 connection", true, true, 1, 128),
    ] {
        let mut builder = Broker::builder().topic("bench", 4);
        if on_disk {
            builder = builder.data_dir(folder.path());
        }
        let broker = builder.start().await.unwrap();
        let mut clients = JoinSet::new();
        let started = Instant::now();
        for n in 0..connections {
            if over_tcp {
                let stream = TcpStream::connect(("127.0.0.1", broker.addr().port())).await.unwrap();
                clients.spawn(put(stream, n % 4, payload));
            } else {
                clients.spawn(put(broker.connect(), n % 4, payload));
            }
        }
        let all: u64 = clients.join_all().await.into_iter().sum();
        println!("{what}: {:.0} puts/s", all as f64 / started.elapsed().as_secs_f64());
    }
}
