//! One connection, over a stream in memory to a task that answers at once: what the pieces between a command
//! and its answer take together.
//!
//! `cargo bench -p metaq-transport`

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_main};
use metaq_protocol::{
    BooleanCommand, BrokerAddr, Decoder, Flag, Frame, PutData, PutRef, PutResponse, Response, Status, Topic,
};
use metaq_transport::{
    CompletionToken, Completions, Connection, ConnectionConfig, Dialer, ReceivedResponse, StreamTransport,
    Transport, TransportError,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime::Builder,
    sync::Notify,
    time::Instant,
};

const IN_FLIGHT: usize = 1024;

#[derive(Debug)]
struct Memory;

#[async_trait]
impl Dialer for Memory {
    type Stream = DuplexStream;

    async fn dial(&self, _: &BrokerAddr) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(answer(theirs));
        Ok(ours)
    }
}

/// Answers every request as if a put was stored.
async fn answer(mut stream: DuplexStream) -> io::Result<()> {
    let (mut decoder, mut input, mut output) = (Decoder::new(), BytesMut::new(), BytesMut::new());
    let body = PutResponse::new(-5_468_924_307_537_133_568, 0, 0).to_body();
    loop {
        while let Ok(Some(Frame::Command(command))) = decoder.decode(&mut input) {
            let answer = BooleanCommand::new(Status::SUCCESS, body.clone(), command.opaque());
            Response::from(answer).encode(&mut output);
        }
        stream.write_all_buf(&mut output).await?;
        input.reserve(1 << 16);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Counts the outcomes that are reported.
#[derive(Debug, Default)]
struct Counted {
    left: std::sync::atomic::AtomicUsize,
    done: Notify,
}

impl Completions for Counted {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        let count = completed.drain(..).count();
        if self.left.fetch_sub(count, std::sync::atomic::Ordering::AcqRel) == count {
            self.done.notify_one();
        }
    }
}

fn connection(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let connection: Arc<dyn Connection> = runtime.block_on(async {
        let transport = StreamTransport::new(Memory, ConnectionConfig::default());
        let addr = BrokerAddr::new("memory", 1).expect("an address");
        let connection = transport.connect(&addr).await.expect("it never fails");
        connection.state().wait_for(|state| state.is_ready()).await.expect("it answers");
        connection
    });
    let topic: Topic = "orders".parse().expect("a name");
    let mut group = criterion.benchmark_group("connection");
    for (name, size) in [("128B", 128), ("1KiB", 1 << 10), ("16KiB", 16 << 10)] {
        let data = PutData::new(Bytes::from(vec![0x5a; size]), None);
        let checksum = data.checksum();
        let counted = Arc::new(Counted::default());
        let completions = Arc::clone(&counted) as Arc<dyn Completions>;
        group.throughput(Throughput::Elements(IN_FLIGHT as u64));
        group.bench_function(format!("puts/{name}"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    counted.left.store(IN_FLIGHT, std::sync::atomic::Ordering::Release);
                    let deadline = Instant::now() + Duration::from_secs(60);
                    for token in 0..IN_FLIGHT as u64 {
                        let put = PutRef::new(&topic, 3, Flag::EMPTY, checksum, &data);
                        let notify = CompletionToken { completions: &completions, token };
                        connection.submit_put(put, deadline, notify).expect("there is capacity");
                    }
                    counted.done.notified().await;
                });
            });
        });
    }
    group.finish();
}

fn main_group() {
    connection(&mut Criterion::default().configure_from_args());
}

criterion_main!(main_group);
