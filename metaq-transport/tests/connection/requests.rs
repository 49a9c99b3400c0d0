//! The TCP connection against a scripted broker.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, BrokerAddr, Command, Decoder, Flag, Frame, Opaque, PutCommand, PutData, PutRef,
    PutResponse, Response, Status, Topic,
};
use metaq_transport::{
    CompletionToken, Completions, Connection, ConnectionConfig, ConnectionState, PendingResponse, Progress,
    ReceivedResponse, ResponseBody, TcpTransport, Transport, TransportError, TransportErrorKind,
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

    /// The next connection, whose first request, which asks whether a broker is there, is not answered yet.
    async fn accept_silently(&self) -> Accepted {
        let (stream, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        Accepted { stream, decoder: Decoder::new(), buffer: BytesMut::new() }
    }

    async fn accept(&self) -> Accepted {
        let mut accepted = self.accept_silently().await;
        accepted.greet().await;
        accepted
    }

    /// A ready connection to this peer, and its other end.
    async fn connect(&self, config: ConnectionConfig) -> (Arc<dyn Connection>, Accepted) {
        let connection = TcpTransport::new(config).connect(&self.addr).await.unwrap();
        let accepted = self.accept().await;
        until(&connection, ConnectionState::is_ready).await;
        (connection, accepted)
    }
}

impl Accepted {
    /// Answers the first request of the connection.
    async fn greet(&mut self) {
        match self.request().await {
            Some(Command::Version(version)) => self.answer(version.opaque, "0.1").await,
            other => panic!("a connection begins with asking for the version, not {other:?}"),
        }
    }

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

/// Submits a put with this payload.
fn submit(
    connection: &Arc<dyn Connection>,
    payload: impl Into<Bytes>,
    deadline: Instant,
) -> Result<PendingResponse, TransportError> {
    connection.submit(&mut put(payload), deadline)
}

fn after(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

async fn text(pending: PendingResponse) -> String {
    match timeout(SOON, pending).await.unwrap().unwrap().into_response() {
        Some(Response::Boolean(answer)) => answer.text().into_owned(),
        other => panic!("not a result: {other:?}"),
    }
}

#[tokio::test]
async fn answers_in_any_order_find_their_requests() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let pending: Vec<_> =
        (0..100).map(|n| submit(&connection, n.to_string(), after(10_000)).unwrap()).collect();
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
        assert_eq!(text(pending).await, n.to_string(), "protocol §1.2");
    }
}

#[tokio::test]
async fn large_and_small_payloads_arrive_whole_and_in_order() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let payloads: Vec<_> = [0, 5, 1_000_000, 3, 8 * 1024, 100_000, 7]
        .iter()
        .map(|size| Bytes::from(vec![b'x'; *size]))
        .collect();
    let pending: Vec<_> =
        payloads.iter().map(|payload| submit(&connection, payload.clone(), after(10_000)).unwrap()).collect();
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
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let started = Instant::now();
    let pending = submit(&connection, "late", after(100)).unwrap();
    let late = accepted.put().await;
    let error = pending.await.unwrap_err();
    assert!((100..200).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::TimedOut, Progress::Written), "M-27");

    let pending = submit(&connection, "next", after(10_000)).unwrap();
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
    let mut config = ConnectionConfig::default();
    config.stall_after = SOON;
    let (connection, mut accepted) = peer.connect(config).await;
    // More than the sockets' buffers hold, and the peer doesn't read.
    let submit = |n: usize, millis| submit(&connection, vec![n as u8; 1_000_000], after(millis)).unwrap();
    let mut commands: Vec<_> = (0..50).map(|n| put(vec![n; 1_000_000])).collect();
    let deadline = after(300);
    let pending: Vec<_> =
        commands.iter_mut().map(|command| connection.submit(command, deadline).unwrap()).collect();
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
async fn a_lost_connection_fails_what_is_outstanding_and_reconnects() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let pending = submit(&connection, "x", after(10_000)).unwrap();
    accepted.put().await;
    drop(accepted);
    let error = timeout(SOON, pending).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written), "M-26, N-13");
    let mut accepted = peer.accept().await;
    until(&connection, ConnectionState::is_ready).await;
    let pending = submit(&connection, "y", after(10_000)).unwrap();
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
        let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
        let answered = submit(&connection, "answered", after(10_000)).unwrap();
        let pending = submit(&connection, "x", after(10_000)).unwrap();
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
    let mut config = ConnectionConfig::default();
    config.stall_after = SOON;
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
    let pending = submit(&connection, "x", after(10_000)).unwrap();
    let error = timeout(SOON, pending).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written));
    let _accepted = peer.accept().await;
    until(&connection, ConnectionState::is_ready).await;
}

#[tokio::test]
async fn closing_waits_for_answers_and_refuses_requests() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let pending = submit(&connection, "x", after(10_000)).unwrap();
    connection.close(after(10_000));
    let refused = submit(&connection, "y", after(10_000)).unwrap_err();
    assert_eq!(refused.kind(), TransportErrorKind::Closed);
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
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let pending = submit(&connection, "x", after(60_000)).unwrap();
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
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let pending = submit(&connection, "x", after(10_000)).unwrap();
    drop(connection);
    let first = accepted.put().await;
    accepted.answer(first.opaque, "ok").await;
    assert_eq!(text(pending).await, "ok");
    assert!(accepted.request().await.is_none());
}

#[tokio::test]
async fn a_full_connection_gives_the_request_back_or_lets_it_wait() {
    let peer = Peer::new().await;
    let mut config = ConnectionConfig::default();
    config.max_in_flight = 2;
    let (connection, mut accepted) = peer.connect(config).await;
    let first = submit(&connection, "1", after(10_000)).unwrap();
    // The future of this request is dropped; it takes capacity until its response comes all the same.
    drop(submit(&connection, "2", after(10_000)).unwrap());
    let refused = submit(&connection, "3", after(10_000)).unwrap_err();
    assert_eq!(refused.kind(), TransportErrorKind::Full);
    let refused = connection.submit_when_free(&mut put("3"), after(50)).await.unwrap_err();
    assert_eq!(refused.kind(), TransportErrorKind::TimedOut);
    assert_eq!(refused.progress(), Progress::NotWritten);

    let (one, two) = (accepted.put().await, accepted.put().await);
    let waiting = tokio::spawn({
        let connection = Arc::clone(&connection);
        async move { connection.submit_when_free(&mut put("4"), after(10_000)).await.unwrap().await }
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
    let mut config = ConnectionConfig::default();
    config.max_in_flight_bytes = 10_000;
    let (connection, mut accepted) = peer.connect(config).await;
    let large = submit(&connection, vec![0; 50_000], after(10_000)).unwrap();
    let refused = submit(&connection, "small", after(10_000)).unwrap_err();
    assert_eq!(refused.kind(), TransportErrorKind::Full);
    let put_command = accepted.put().await;
    accepted.answer(put_command.opaque, "ok").await;
    assert_eq!(text(large).await, "ok");
    assert!(submit(&connection, "small", after(10_000)).is_ok());
}

#[tokio::test]
async fn an_absent_broker_is_tried_until_it_comes() {
    let port = metaq_testkit::unused_addr().unwrap().port();
    let addr = BrokerAddr::new("127.0.0.1", port).unwrap();
    let connection = TcpTransport::default().connect(&addr).await.unwrap();
    let failed =
        |state: &ConnectionState| matches!(state, ConnectionState::Connecting { last_error: Some(_), .. });
    until(&connection, failed).await;
    let refused = submit(&connection, "x", after(1000)).unwrap_err();
    assert_eq!(refused.kind(), TransportErrorKind::NotConnected);
    let cause = std::error::Error::source(&refused).expect("it says why");
    assert!(std::error::Error::source(cause).unwrap().to_string().contains("refused"), "{cause:?}");

    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let _accepted = Peer { listener, addr }.accept().await;
    until(&connection, ConnectionState::is_ready).await;
    connection.close(after(0));
    until(&connection, ConnectionState::is_closed).await;
}

#[test]
fn a_runtime_that_ends_resolves_what_was_outstanding() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pending, _peer, _accepted) = runtime.block_on(async {
        let peer = Peer::new().await;
        let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
        let pending = submit(&connection, "x", after(60_000)).unwrap();
        accepted.put().await;
        (pending, peer, accepted)
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let error = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(pending).unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Closed, Progress::Written));
}

#[tokio::test]
async fn a_broker_that_accepts_but_does_not_answer_is_never_ready() {
    let peer = Peer::new().await;
    let mut config = ConnectionConfig::default();
    config.connect_timeout = Duration::from_millis(200);
    let connection = TcpTransport::new(config).connect(&peer.addr).await.unwrap();
    let mut state = connection.state();
    let frozen = peer.accept_silently().await;
    let failed =
        |state: &ConnectionState| matches!(state, ConnectionState::Connecting { last_error: Some(_), .. });
    until(&connection, failed).await;
    let error = format!("{:?}", state.borrow_and_update());
    assert!(error.contains("HandshakeTimeout"), "{error}");
    drop(frozen);
    let _accepted = peer.accept().await;
    until(&connection, ConnectionState::is_ready).await;
}

#[tokio::test]
async fn a_silent_broker_gets_nothing_more_until_it_speaks_again() {
    let peer = Peer::new().await;
    let mut config = ConnectionConfig::default();
    config.stall_after = Duration::from_millis(200);
    let (connection, mut accepted) = peer.connect(config).await;
    // More than the sockets' buffers hold, and the peer doesn't read.
    let mut pending: Vec<_> =
        (0..50).map(|n| submit(&connection, vec![n; 1_000_000], after(10_000)).unwrap()).collect();
    until(&connection, |state| matches!(state, ConnectionState::Stalled)).await;
    let refused = submit(&connection, "x", after(10_000)).unwrap_err();
    assert_eq!((refused.kind(), refused.progress()), (TransportErrorKind::Stalled, Progress::NotWritten));
    let taken_back = timeout(SOON, pending.pop().unwrap()).await.unwrap().unwrap_err();
    assert_eq!(
        (taken_back.kind(), taken_back.progress()),
        (TransportErrorKind::Stalled, Progress::NotWritten)
    );

    let first = accepted.put().await;
    accepted.answer(first.opaque, "late but in time").await;
    until(&connection, ConnectionState::is_ready).await;
    assert_eq!(text(pending.remove(0)).await, "late but in time");
    let next = submit(&connection, "next", after(10_000)).unwrap();
    let put = loop {
        match accepted.request().await.unwrap() {
            Command::Put(put) if put.data.to_bytes() == "next" => break put,
            Command::Put(put) => accepted.answer(put.opaque, "ok").await,
            Command::Version(version) => accepted.answer(version.opaque, "0.1").await,
            other => panic!("{other:?}"),
        }
    };
    accepted.answer(put.opaque, "ok").await;
    assert_eq!(text(next).await, "ok");
    let mut counts = [0, 0];
    for pending in pending {
        match timeout(SOON, pending).await.unwrap() {
            Ok(_) => counts[0] += 1,
            Err(error) => {
                assert_eq!(error.progress(), Progress::NotWritten, "what was written was answered");
                counts[1] += 1;
            }
        }
    }
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    let stats = connection.stats();
    assert_eq!((stats.established, stats.requests, stats.in_flight), (1, 51, 0), "{stats:?}");
}

#[tokio::test]
async fn the_place_of_a_stored_message_is_read_from_the_answer() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let pending = submit(&connection, "x", after(10_000)).unwrap();
    let put = accepted.put().await;
    accepted.answer(put.opaque, "-5468924307537133568 3 99").await;
    let answer = timeout(SOON, pending).await.unwrap().unwrap();
    assert_eq!(
        answer.body,
        ResponseBody::Stored(PutResponse::new(-5_468_924_307_537_133_568, 3, 99)),
        "M-20"
    );
}

/// Records the outcomes that are reported.
#[derive(Debug, Default)]
struct Recorder(std::sync::Mutex<Vec<(u64, Result<ReceivedResponse, TransportError>)>>);

impl Completions for Recorder {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        self.0.lock().unwrap().append(completed);
    }
}

#[tokio::test]
async fn outcomes_are_reported_once_to_their_listeners() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let recorders: [Arc<Recorder>; 2] = Default::default();
    let listeners = recorders.clone().map(|recorder| recorder as Arc<dyn Completions>);
    let (topic, data) = (Topic::new("t").unwrap(), PutData::new("x".into(), None));
    let submit = |token: u64, millis| {
        let put = PutRef::new(&topic, 0, Flag::EMPTY, data.checksum(), &data);
        let notify = CompletionToken { completions: &listeners[token as usize % 2], token };
        connection.submit_put(put, after(millis), notify).unwrap();
    };
    (0..200).for_each(|token| submit(token, 10_000));
    let awaited = connection.submit(&mut put("awaited"), after(10_000)).unwrap();
    let mut puts = Vec::new();
    for _ in 0..201 {
        puts.push(accepted.put().await);
    }
    for (n, put) in puts.iter().enumerate().rev() {
        accepted.answer(put.opaque, &format!("{n} 0 0")).await;
    }
    assert!(timeout(SOON, awaited).await.unwrap().is_ok());
    submit(1000, 50);
    submit(1001, 10_000);
    accepted.put().await;
    drop((accepted, peer));
    let all = || recorders.iter().map(|recorder| recorder.0.lock().unwrap().len()).sum::<usize>();
    let complete = async {
        while all() < 202 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, complete).await.expect("all are reported");
    for (listener, recorder) in recorders.iter().enumerate() {
        let mut reported = std::mem::take(&mut *recorder.0.lock().unwrap());
        reported.sort_by_key(|(token, _)| *token);
        let tokens: Vec<_> = reported.iter().map(|(token, _)| *token).collect();
        let expected: Vec<_> =
            (0..200).chain([1000, 1001]).filter(|token| *token as usize % 2 == listener).collect();
        assert_eq!(tokens, expected);
        for (token, outcome) in reported {
            match outcome {
                Ok(answer) => {
                    let place = PutResponse::new(token as i64, 0, 0);
                    assert_eq!(answer.body, ResponseBody::Stored(place));
                }
                Err(error) => assert!(token >= 1000, "{token}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn says_when_a_write_is_worth_it() {
    let peer = Peer::new().await;
    let (connection, mut accepted) = peer.connect(ConnectionConfig::default()).await;
    let completions = Arc::new(Recorder::default()) as Arc<dyn Completions>;
    let topic = Topic::new("t").unwrap();
    // The connection's task doesn't run meanwhile.
    let submit = |size: usize, count: usize| {
        let data = PutData::new(vec![0; size].into(), None);
        let put = PutRef::new(&topic, 0, Flag::EMPTY, data.checksum(), &data);
        let submit = |token| {
            let notify = CompletionToken { completions: &completions, token };
            connection.submit_put(put, after(10_000), notify).unwrap()
        };
        (0..count as u64).map(submit).collect::<Vec<_>>()
    };
    let worth = |flags: Vec<bool>| flags.iter().position(|worth| *worth).map(|first| first + 1);
    let small = submit(10, 60);
    assert_eq!(small.iter().filter(|worth| **worth).count(), 1, "once, when the broker can begin");
    assert_eq!(worth(small), Some(32));
    let kib = worth(submit(1024, 100)).unwrap();
    assert!((55..64).contains(&kib), "64 KiB wait after {kib}");
    for _ in 0..160 {
        accepted.put().await;
    }
    // The broker owes 160 answers, and has enough to do.
    assert_eq!(worth(submit(10, 60)), None);
    for _ in 0..60 {
        accepted.put().await;
    }
    let large = worth(submit(16 * 1024, 100)).unwrap();
    assert!((30..=32).contains(&large), "half a MiB that isn't copied waits after {large}");
}
