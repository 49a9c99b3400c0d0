//! The TCP connection against a scripted broker.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, BrokerAddr, Command, Decoder, Frame, Opaque, PutCommand, Response, Status, Topic,
};
use metaq_transport::{
    Connection, ConnectionState, PendingResponse, Progress, TcpConfig, TcpTransport, Transport,
    TransportErrorKind,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

const SOON: Duration = Duration::from_secs(10);

/// A broker that does what the test says.
struct Peer {
    listener: TcpListener,
    addr: BrokerAddr,
}

/// One connection to it.
struct Accepted {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Peer {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = BrokerAddr::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        Self { listener, addr }
    }

    async fn accept(&self) -> Accepted {
        let (stream, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        Accepted { stream, decoder: Decoder::new(), buffer: BytesMut::new() }
    }

    /// A ready connection to this peer, and its other end.
    async fn connect(&self, config: TcpConfig) -> (Arc<dyn Connection>, Accepted) {
        let connection = TcpTransport::new(config).connect(&self.addr).await.unwrap();
        let accepted = self.accept().await;
        until(&connection, ConnectionState::is_ready).await;
        (connection, accepted)
    }
}

impl Accepted {
    /// The next request, or none when the connection has ended.
    async fn request(&mut self) -> Option<Command> {
        loop {
            match self.decoder.decode(&mut self.buffer).unwrap() {
                Some(Frame::Command(command)) => return Some(command),
                Some(other) => panic!("a client sends no {other:?}"),
                None => {}
            }
            match timeout(SOON, self.stream.read_buf(&mut self.buffer)).await.unwrap() {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn put(&mut self) -> PutCommand {
        match self.request().await {
            Some(Command::Put(put)) => put,
            other => panic!("expected a put, got {other:?}"),
        }
    }

    async fn answer(&mut self, opaque: Opaque, text: &str) {
        let mut bytes = BytesMut::new();
        let text = Bytes::copy_from_slice(text.as_bytes());
        Response::from(BooleanCommand::new(Status::SUCCESS, text, opaque)).encode(&mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }
}

async fn until(connection: &Arc<dyn Connection>, wanted: impl FnMut(&ConnectionState) -> bool) {
    timeout(SOON, connection.state().wait_for(wanted)).await.expect("the state is reached").unwrap();
}

fn put(payload: impl Into<Bytes>) -> Command {
    PutCommand::new(Topic::new("t").unwrap(), 0, payload.into(), None).into()
}

fn after(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

async fn text(pending: PendingResponse) -> String {
    let Response::Boolean(answer) = timeout(SOON, pending).await.unwrap().unwrap() else {
        panic!("not a result")
    };
    answer.text().into_owned()
}

#[tokio::test]
async fn answers_in_any_order_find_their_requests() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    let pending: Vec<_> =
        (0..100).map(|n| connection.submit(put(n.to_string()), after(10_000)).unwrap()).collect();
    let mut puts = Vec::new();
    for _ in 0..100 {
        puts.push(accepted.put().await);
    }
    for (n, put) in puts.iter().enumerate() {
        assert_eq!(put.data.to_bytes(), n.to_string(), "requests go out in the order of the calls");
    }
    for put in puts.iter().rev() {
        let payload = String::from_utf8(put.data.to_bytes().to_vec()).unwrap();
        accepted.answer(put.opaque, &payload).await;
    }
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(text(pending).await, n.to_string(), "wire rule 1.2");
    }
}

#[tokio::test]
async fn large_and_small_payloads_arrive_whole_and_in_order() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    let payloads: Vec<_> = [0, 5, 1_000_000, 3, 8 * 1024, 100_000, 7]
        .iter()
        .map(|size| Bytes::from(vec![b'x'; *size]))
        .collect();
    let pending: Vec<_> = payloads
        .iter()
        .map(|payload| connection.submit(put(payload.clone()), after(10_000)).unwrap())
        .collect();
    for payload in &payloads {
        let put = accepted.put().await;
        assert!(put.data.to_bytes() == payload);
        assert_eq!(put.checksum, put.data.checksum());
        accepted.answer(put.opaque, "ok").await;
    }
    for pending in pending {
        assert_eq!(text(pending).await, "ok");
    }
}

#[tokio::test]
async fn a_deadline_ends_a_request_and_its_late_answer_reaches_nobody() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    let started = Instant::now();
    let pending = connection.submit(put("late"), after(100)).unwrap();
    let late = accepted.put().await;
    let error = pending.await.unwrap_err();
    assert!((100..200).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::TimedOut, Progress::Written), "M-27");

    let pending = connection.submit(put("next"), after(10_000)).unwrap();
    accepted.answer(late.opaque, "late").await;
    // The silence past the deadline has made the connection ask for a sign of life.
    let next = loop {
        match accepted.request().await.unwrap() {
            Command::Put(put) => break put,
            Command::Version(version) => accepted.answer(version.opaque, "0.1").await,
            other => panic!("{other:?}"),
        }
    };
    accepted.answer(late.opaque, "late again").await;
    accepted.answer(next.opaque, "next").await;
    assert_eq!(text(pending).await, "next", "N-14");
}

#[tokio::test]
async fn what_was_not_written_by_its_deadline_is_never_written() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    // More than the sockets' buffers hold; nobody reads.
    let submit = |n: usize, millis| connection.submit(put(vec![n as u8; 1_000_000]), after(millis)).unwrap();
    let pending: Vec<_> = (0..50).map(|n| submit(n, 300)).collect();
    let mut written = 0;
    for (n, pending) in pending.into_iter().enumerate() {
        let error = timeout(SOON, pending).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::TimedOut);
        if error.progress() == Progress::Written {
            assert_eq!(written, n, "in order");
            written += 1;
        }
    }
    assert!((1..50).contains(&written), "{written}");
    let last = submit(99, 10_000);
    for n in 0..written {
        assert_eq!(accepted.put().await.data.to_bytes()[0], n as u8, "what was begun is written to its end");
    }
    let put = loop {
        match accepted.request().await.unwrap() {
            Command::Put(put) => break put,
            Command::Version(version) => accepted.answer(version.opaque, "0.1").await,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(put.data.to_bytes()[0], 99);
    accepted.answer(put.opaque, "ok").await;
    assert_eq!(text(last).await, "ok");
}

#[tokio::test]
async fn a_lost_connection_fails_what_was_outstanding_and_is_made_again() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    let pending = connection.submit(put("x"), after(10_000)).unwrap();
    accepted.put().await;
    drop(accepted);
    let error = timeout(SOON, pending).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written), "M-26, N-13");
    let mut accepted = peer.accept().await;
    until(&connection, ConnectionState::is_ready).await;
    let pending = connection.submit(put("y"), after(10_000)).unwrap();
    let put = accepted.put().await;
    assert_eq!(put.data.to_bytes(), "y", "N-7: nothing is replayed");
    accepted.answer(put.opaque, "ok").await;
    assert_eq!(text(pending).await, "ok");
}

#[tokio::test]
async fn garbage_and_requests_from_the_broker_end_the_connection() {
    for garbage in
        [&b"bogus\r\n"[..], b"result 200 x 1\r\n", b"result 200 99999999999 1\r\n", b"put t 0 0 0 0 1\r\n"]
    {
        let peer = Peer::new().await;
        let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
        let answered = connection.submit(put("answered"), after(10_000)).unwrap();
        let pending = connection.submit(put("x"), after(10_000)).unwrap();
        let first = accepted.put().await;
        accepted.put().await;
        accepted.answer(first.opaque, "ok").await;
        accepted.stream.write_all(garbage).await.unwrap();
        assert_eq!(text(answered).await, "ok");
        let error = timeout(SOON, pending).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Lost, "N-16");
        peer.accept().await;
    }
}

#[tokio::test]
async fn a_broker_that_answers_no_heartbeat_is_given_up() {
    let peer = Peer::new().await;
    let mut config = TcpConfig::default();
    config.heartbeat_after = Duration::from_millis(100);
    config.heartbeat_timeout = Duration::from_millis(200);
    let (connection, mut accepted) = peer.connect(config).await;
    for _ in 0..3 {
        let Some(Command::Version(version)) = accepted.request().await else {
            panic!("expected a heartbeat")
        };
        accepted.answer(version.opaque, "0.1").await;
    }
    assert!(connection.state().borrow().is_ready());
    // Writes are no sign of life of the broker's (K-31).
    let pending = connection.submit(put("x"), after(10_000)).unwrap();
    let error = timeout(SOON, pending).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written));
    peer.accept().await;
    until(&connection, ConnectionState::is_ready).await;
}

#[tokio::test]
async fn closing_waits_for_answers_and_refuses_requests() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    let pending = connection.submit(put("x"), after(10_000)).unwrap();
    connection.close(after(10_000));
    let refused = connection.submit(put("y"), after(10_000)).unwrap_err();
    assert_eq!(refused.error.kind(), TransportErrorKind::Closed);
    assert_eq!(refused.command, put("y"), "it comes back");
    let first = accepted.put().await;
    assert!(!connection.state().borrow().is_closed());
    accepted.answer(first.opaque, "ok").await;
    assert_eq!(text(pending).await, "ok");
    until(&connection, ConnectionState::is_closed).await;
    assert!(accepted.request().await.is_none());
}

#[tokio::test]
async fn closing_does_not_wait_beyond_its_deadline() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    let pending = connection.submit(put("x"), after(60_000)).unwrap();
    accepted.put().await;
    let started = Instant::now();
    connection.close(after(100));
    let error = timeout(SOON, pending).await.unwrap().unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Closed, Progress::Written));
    until(&connection, ConnectionState::is_closed).await;
}

#[tokio::test]
async fn dropping_the_last_handle_closes_after_the_answers() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
    let pending = connection.submit(put("x"), after(10_000)).unwrap();
    drop(connection);
    let first = accepted.put().await;
    accepted.answer(first.opaque, "ok").await;
    assert_eq!(text(pending).await, "ok");
    assert!(accepted.request().await.is_none());
}

#[tokio::test]
async fn a_full_connection_gives_the_request_back_or_lets_it_wait() {
    let peer = Peer::new().await;
    let mut config = TcpConfig::default();
    config.max_in_flight = 2;
    let (connection, mut accepted) = peer.connect(config).await;
    let first = connection.submit(put("1"), after(10_000)).unwrap();
    // Nobody waits for this one's answer; it takes room until it comes all the same.
    drop(connection.submit(put("2"), after(10_000)).unwrap());
    let refused = connection.submit(put("3"), after(10_000)).unwrap_err();
    assert_eq!((refused.error.kind(), &refused.command), (TransportErrorKind::Full, &put("3")));
    let refused = connection.submit_when_free(put("3"), after(50)).await.unwrap_err();
    assert_eq!(refused.error.kind(), TransportErrorKind::TimedOut);
    assert_eq!(refused.error.progress(), Progress::NotWritten);

    let (one, two) = (accepted.put().await, accepted.put().await);
    let waiting = tokio::spawn({
        let connection = Arc::clone(&connection);
        async move { connection.submit_when_free(put("4"), after(10_000)).await.unwrap().await }
    });
    accepted.answer(two.opaque, "ok").await;
    let four = accepted.put().await;
    assert_eq!(four.data.to_bytes(), "4");
    accepted.answer(four.opaque, "ok").await;
    accepted.answer(one.opaque, "ok").await;
    assert!(waiting.await.unwrap().is_ok());
    assert_eq!(text(first).await, "ok");
}

#[tokio::test]
async fn bytes_are_limited_too_but_a_large_request_may_go_alone() {
    let peer = Peer::new().await;
    let mut config = TcpConfig::default();
    config.max_in_flight_bytes = 10_000;
    let (connection, mut accepted) = peer.connect(config).await;
    let large = connection.submit(put(vec![0; 50_000]), after(10_000)).unwrap();
    let refused = connection.submit(put("small"), after(10_000)).unwrap_err();
    assert_eq!(refused.error.kind(), TransportErrorKind::Full);
    let put_command = accepted.put().await;
    accepted.answer(put_command.opaque, "ok").await;
    assert_eq!(text(large).await, "ok");
    assert!(connection.submit(put("small"), after(10_000)).is_ok());
}

#[tokio::test]
async fn an_absent_broker_is_tried_until_it_comes() {
    let peer = Peer::new().await;
    let port = peer.addr.port();
    drop(peer);
    let addr = BrokerAddr::new("127.0.0.1", port).unwrap();
    let connection = TcpTransport::default().connect(&addr).await.unwrap();
    let failed =
        |state: &ConnectionState| matches!(state, ConnectionState::Connecting { last_error: Some(_), .. });
    until(&connection, failed).await;
    let refused = connection.submit(put("x"), after(1000)).unwrap_err();
    assert_eq!(refused.error.kind(), TransportErrorKind::NotConnected);
    let cause = std::error::Error::source(&refused.error).expect("it says why");
    assert!(std::error::Error::source(cause).unwrap().to_string().contains("refused"), "{cause:?}");

    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    timeout(SOON, listener.accept()).await.unwrap().unwrap();
    until(&connection, ConnectionState::is_ready).await;
    connection.close(after(0));
    until(&connection, ConnectionState::is_closed).await;
}

#[test]
fn a_runtime_that_ends_resolves_what_was_outstanding() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pending, _peer, _accepted) = runtime.block_on(async {
        let peer = Peer::new().await;
        let (connection, mut accepted) = peer.connect(TcpConfig::default()).await;
        let pending = connection.submit(put("x"), after(60_000)).unwrap();
        accepted.put().await;
        (pending, peer, accepted)
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let error = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(pending).unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Closed, Progress::Written));
}
