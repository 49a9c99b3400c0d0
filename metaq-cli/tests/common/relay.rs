//! A relay between the command and a broker that mistreats single puts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{BooleanCommand, Command, Decoder, Frame, PutCommand, PutData, Status};
use metaq_testkit::Broker;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// The treatment of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    Forward,
    /// The broker doesn't get it, and it is acknowledged all the same.
    Drop,
    /// The broker gets it twice.
    Double,
    /// The broker gets it with another last byte, and the checksum of that.
    Damage,
    /// The broker gets it, and its answer is lost.
    Swallow,
    /// The broker gets it after the next put.
    Delay,
    /// The broker gets it, and will get it again.
    Keep,
    /// The broker gets it and, before its answer is forwarded, the kept one for the second time.
    Overtake,
}

/// Starts a relay to a broker; returns its address. `treat` is asked for each put, counted from 0.
pub(crate) async fn relay(broker: &Broker, treat: fn(u64) -> Treatment) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("meta://{}", listener.local_addr().unwrap());
    let target = (broker.addr().host().to_owned(), broker.addr().port());
    let puts = Arc::<AtomicU64>::default();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(target.clone()).await.unwrap();
            tokio::spawn(forward(client, server, Arc::clone(&puts), treat));
        }
    });
    addr
}

/// Forwards one connection, frame by frame.
async fn forward(client: TcpStream, server: TcpStream, puts: Arc<AtomicU64>, treat: fn(u64) -> Treatment) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (answers, mut answered) = mpsc::unbounded_channel::<Bytes>();
    let forged = answers.clone();
    let swallowed = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let held = Arc::new(parking_lot::Mutex::new((None, None::<Bytes>)));
    let requests = {
        let (swallowed, held) = (Arc::clone(&swallowed), Arc::clone(&held));
        async move {
            let (mut decoder, mut input, mut delayed) = (Decoder::new(), BytesMut::new(), None::<Bytes>);
            let mut kept = None;
            while from_client.read_buf(&mut input).await.is_ok_and(|length| length > 0) {
                while let Some((frame, raw)) =
                    decoder.decode_raw(&mut input).unwrap().map(|raw| (raw.frame, raw.bytes))
                {
                    let Frame::Command(Command::Put(put)) = frame else {
                        to_server.write_all(&raw).await.unwrap();
                        continue;
                    };
                    let output = match treat(puts.fetch_add(1, Ordering::SeqCst)) {
                        Treatment::Forward => vec![raw],
                        Treatment::Double => vec![raw.clone(), raw],
                        Treatment::Damage => vec![damaged(put)],
                        Treatment::Drop => {
                            forged.send(receipt(&put)).unwrap();
                            Vec::new()
                        }
                        Treatment::Swallow => {
                            swallowed.lock().push(put.opaque);
                            vec![raw]
                        }
                        Treatment::Delay => {
                            delayed = Some(raw);
                            forged.send(receipt(&put)).unwrap();
                            // Its own answer comes later, and is dropped.
                            swallowed.lock().push(put.opaque);
                            continue;
                        }
                        Treatment::Keep => {
                            kept = Some((raw.clone(), put.opaque));
                            vec![raw]
                        }
                        Treatment::Overtake => {
                            let (copy, opaque) = kept.take().unwrap();
                            held.lock().0 = Some(put.opaque);
                            swallowed.lock().push(opaque);
                            vec![raw, copy]
                        }
                    };
                    for bytes in output.into_iter().chain(delayed.take()) {
                        to_server.write_all(&bytes).await.unwrap();
                    }
                }
            }
        }
    };
    let responses = async move {
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
        while from_server.read_buf(&mut input).await.is_ok_and(|length| length > 0) {
            while let Some((frame, raw)) =
                decoder.decode_raw(&mut input).unwrap().map(|raw| (raw.frame, raw.bytes))
            {
                let opaque = frame.opaque();
                let (mut swallowed, mut held) = (swallowed.lock(), held.lock());
                let at = swallowed.iter().position(|swallowed| *swallowed == opaque);
                match at {
                    Some(at) => {
                        swallowed.remove(at);
                        held.1.take().into_iter().for_each(|raw| answers.send(raw).unwrap());
                    }
                    None if held.0 == Some(opaque) => *held = (None, Some(raw)),
                    None => answers.send(raw).unwrap(),
                }
            }
        }
    };
    let writing = async move {
        while let Some(bytes) = answered.recv().await {
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = responses => {}
        () = writing => {}
    }
}

/// An answer that says that a put was stored.
fn receipt(put: &PutCommand) -> Bytes {
    let body = Bytes::from(format!("1 {} 0", put.partition));
    encoded(BooleanCommand::new(Status::SUCCESS, body, put.opaque))
}

/// The put with another last byte, and the checksum of that.
fn damaged(put: PutCommand) -> Bytes {
    let mut data = BytesMut::from(&*put.data.to_bytes());
    let last = data.len() - 1;
    data[last] ^= 1;
    let data = PutData::from(data.freeze());
    encoded(PutCommand::from_data(put.topic, put.partition, put.flag, data).with_opaque(put.opaque))
}

fn encoded(frame: impl Into<Frame>) -> Bytes {
    let mut bytes = BytesMut::new();
    frame.into().encode(&mut bytes);
    bytes.freeze()
}
