//! Odd orders and odd code of others, found by reading.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant as StdInstant},
};

use async_trait::async_trait;
use bytes::Bytes;
use metaq_protocol::{BooleanCommand, BrokerAddr, Command, Opaque, Response, Status};
use metaq_transport::{
    Capacity, CompletionToken, Completions, Connection, ConnectionConfig, ConnectionState, Dialer,
    PendingResponse, Progress, ReceivedResponse, StreamTransport, Transport as _, TransportError,
    TransportErrorKind,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
    sync::watch,
    time::Instant,
};

use crate::support::*;

/// A connection whose runtime exists, but isn't driven.
fn undriven() -> (Runtime, Peer, Arc<dyn Connection>) {
    let home = Builder::new_current_thread().enable_all().build().unwrap();
    let peer = Peer::default();
    let connection = home.block_on(peer.connect(ConnectionConfig::default()));
    (home, peer, connection)
}

fn other_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn every_put_has_a_guard_on_a_driven_runtime_not_only_the_first() {
    let (_home, _peer, connection) = undriven();
    let log = Arc::new(Log::default());
    other_runtime().block_on(async {
        for token in 0..5 {
            submit_put(&connection, "x", after(20), &completions(&log), token).unwrap();
            let events = log.take(1).await;
            assert!(matches!(events[..], [Event::Ended(_, Err(_))]), "{events:?}");
            // The guard ends when nothing is in flight.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
}

#[test]
fn a_put_has_a_guard_after_others_were_ended_on_another_thread() {
    let (_home, _peer, connection) = undriven();
    let log = Arc::new(Log::default());
    submit_put(&connection, "x", after(20), &completions(&log), 0).unwrap();
    connection.expire(after(10_000));
    assert_eq!(log.take_now().len(), 1);
    other_runtime().block_on(async {
        submit_put(&connection, "x", after(5), &completions(&log), 1).unwrap();
        assert_eq!(log.take(1).await.len(), 1);
    });
}

#[test]
fn a_put_has_a_guard_whatever_timeouts_those_before_it_had() {
    let (home, _peer, connection) = undriven();
    let log = Arc::new(Log::default());
    // The task is woken, but has no opportunity to run.
    home.block_on(async { submit_put(&connection, "x", after(60_000), &completions(&log), 0).unwrap() });
    other_runtime().block_on(async {
        submit_put(&connection, "x", after(20), &completions(&log), 1).unwrap();
        assert!(matches!(log.take(1).await[..], [Event::Ended(1, Err(_))]));
    });
    // Nor does the guard on a runtime that has ended by now look after it.
    other_runtime().block_on(async {
        submit_put(&connection, "x", after(20), &completions(&log), 2).unwrap();
        assert!(matches!(log.take(1).await[..], [Event::Ended(2, Err(_))]));
    });
}

#[test]
fn an_idle_connection_closes_although_no_runtime_is_driven() {
    let (_home, _peer, connection) = undriven();
    other_runtime().block_on(async {
        connection.close(after(30));
        until(&connection, ConnectionState::is_closed).await;
    });
}

/// Waits within `ended` until it may go on.
#[derive(Debug)]
struct Waits {
    entered: Mutex<mpsc::Sender<()>>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Completions for Waits {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        completed.clear();
        self.entered.lock().unwrap().send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
    }
}

#[test]
fn a_request_is_released_after_its_outcome_was_reported() {
    let ((entered, has_entered), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let (ready, is_ready) = mpsc::channel();
    let waits: Arc<dyn Completions> =
        Arc::new(Waits { entered: Mutex::new(entered), go_on: Mutex::new(may_go_on) });
    let home = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let peer = Peer::default();
            let connection = peer.connect(ConnectionConfig::default()).await;
            let (log, deadline) = (Arc::new(Log::default()), after(500));
            for (token, listener) in [completions(&log), waits, completions(&log)].iter().enumerate() {
                submit_put(&connection, "x", deadline, listener, token as u64).unwrap();
            }
            peer.puts(3).await;
            ready.send(Arc::clone(&connection)).unwrap();
            let mut events = Vec::new();
            while events.len() < 4 {
                events.extend(log.take(1).await);
            }
            for token in [0, 2] {
                let of_token: Vec<_> = events.iter().filter(|event| event.token() == token).collect();
                assert!(matches!(of_token[..], [Event::Ended(..), Event::Released(_)]), "{events:?}");
            }
        });
    });
    let connection = is_ready.recv().unwrap();
    has_entered.recv().unwrap();
    // All have timed out. One listener is being notified, and the other was not notified of all yet.
    connection.close(Instant::now());
    connection.expire(Instant::now());
    go_on.send(()).unwrap();
    home.join().unwrap();
}

struct PanicsWhenDropped;

impl AsRef<[u8]> for PanicsWhenDropped {
    fn as_ref(&self) -> &[u8] {
        &[7; 10_000]
    }
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("the payload's destructor panics");
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_panic_after_a_streams_ends_only_the_connection() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    peer.set(|state| state.write = Mode::Panics);
    let mut command = put(Bytes::from_owner(PanicsWhenDropped));
    let pending = connection.submit(&mut command, after(60_000)).unwrap();
    drop(command);
    let error = soon(pending).await.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written));
    peer.set(|state| state.write = Mode::Works);
    works(&peer, &connection).await;
}

/// Drops what it is granted, as the default does.
#[derive(Debug, Default)]
struct Declines(AtomicUsize);

impl Completions for Declines {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        completed.clear();
    }

    fn capacity(&self, _: u64, granted: Result<metaq_transport::Reservation, TransportError>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        drop(granted);
    }
}

#[tokio::test(start_paused = true)]
async fn many_waiters_that_decline_their_capacity_one_after_another() {
    let mut config = ConnectionConfig::default();
    config.max_in_flight = 1;
    let peer = Peer::default();
    let connection = peer.connect(config).await;
    let pending = submit(&connection, "x", after(60_000)).unwrap();
    let declines = Arc::new(Declines::default());
    let listener = Arc::clone(&declines) as Arc<dyn Completions>;
    let waiting: Vec<_> = (0..20_000)
        .map(|token| connection.reserve(1, CompletionToken { completions: &listener, token }).unwrap())
        .collect();
    assert!(waiting.iter().all(|wait| matches!(wait, Capacity::Waiting(_))));
    peer.answer(peer.puts(1).await[0].opaque);
    assert!(soon(pending).await.is_ok());
    eventually(|| declines.0.load(Ordering::SeqCst) == 20_000).await;
    drop(waiting);
    works(&peer, &connection).await;
}

/// A stream that always has more to read: responses to no request.
#[derive(Debug)]
struct Flood;

struct FloodStream(Bytes);

#[async_trait]
impl Dialer for Flood {
    type Stream = FloodStream;

    async fn dial(&self, _: &BrokerAddr) -> io::Result<FloodStream> {
        let mut answers = bytes::BytesMut::new();
        for _ in 0..10 {
            Response::from(BooleanCommand::new(Status::SUCCESS, Bytes::new(), Opaque(-1)))
                .encode(&mut answers);
        }
        Ok(FloodStream(answers.freeze()))
    }
}

impl AsyncRead for FloodStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(&self.0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FloodStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_broker_that_never_stops_talking_is_closed_all_the_same() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for outstanding in [false, true] {
        runtime.block_on(async {
            let addr = BrokerAddr::new("memory", 1).unwrap();
            let transport = StreamTransport::new(Flood, ConnectionConfig::default());
            let connection = transport.connect(&addr).await.unwrap();
            until(&connection, ConnectionState::is_ready).await;
            let pending = outstanding.then(|| submit(&connection, "x", after(60_000)).unwrap());
            connection.close(after(100));
            until(&connection, ConnectionState::is_closed).await;
            if let Some(pending) = pending {
                let error = soon(pending).await.unwrap_err();
                assert_eq!(error.kind(), TransportErrorKind::Closed);
            }
        });
    }
}

/// A connection of one's own that answers nothing.
#[derive(Debug)]
struct Custom(BrokerAddr, Mutex<Vec<metaq_transport::Responder>>);

#[async_trait]
impl Connection for Custom {
    fn broker(&self) -> &BrokerAddr {
        &self.0
    }
    fn submit(&self, _: &mut Command, _: Instant) -> Result<PendingResponse, TransportError> {
        let (responder, pending) = PendingResponse::channel(self.0.clone());
        self.1.lock().unwrap().push(responder);
        Ok(pending)
    }
    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.submit(command, deadline)
    }
    fn state(&self) -> watch::Receiver<ConnectionState> {
        watch::channel(ConnectionState::Ready).1
    }
    fn close(&self, _: Instant) {}
}

#[test]
fn a_custom_connection_reports_puts_when_the_runtime_ends() {
    let connection: Arc<dyn Connection> =
        Arc::new(Custom(BrokerAddr::new("memory", 1).unwrap(), Mutex::default()));
    let log = Arc::new(Log::default());
    let runtime = other_runtime();
    runtime.block_on(async {
        submit_put(&connection, "x", after(60_000), &completions(&log), 7).unwrap();
    });
    assert_eq!(log.len(), 0);
    drop(runtime);
    match &log.take_now()[..] {
        [Event::Ended(7, Err(error))] => assert_eq!(error.progress(), Progress::Written),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_closed_on_another_thread_drops_its_listeners() {
    let (_home, _peer, connection) = undriven();
    let log = Arc::new(Log::default());
    submit_put(&connection, "x", after(60_000), &completions(&log), 0).unwrap();
    connection.close(after(0));
    connection.expire(after(100));
    assert!(connection.state().borrow().is_closed());
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn capacity_is_whole_after_threads_reserved_across_losses() {
    const THREADS: u64 = 4;
    let mut config = ConnectionConfig::default();
    config.max_in_flight = 3;
    config.initial_backoff = Duration::from_millis(1);
    config.max_backoff = Duration::from_millis(1);
    let home = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let peer = Peer::default();
    let connection = home.block_on(peer.connect(config));
    let end = StdInstant::now() + Duration::from_secs(2);
    let threads: Vec<_> = (0..THREADS)
        .map(|n| {
            let connection = Arc::clone(&connection);
            let peer = peer.clone();
            thread::spawn(move || {
                let log = Arc::new(Log::default());
                let listener = completions(&log);
                let mut random = fastrand::Rng::with_seed(n);
                let mut kept = Vec::new();
                let mut token = 0;
                while StdInstant::now() < end {
                    token += 1;
                    match random.u32(0..8) {
                        0 if n == 0 => peer.hang_up(),
                        0..3 => {
                            let notify = CompletionToken { completions: &listener, token };
                            kept.extend(connection.reserve(random.usize(0..40), notify));
                        }
                        3 => drop(submit_put(&connection, "x", after(random.u64(0..3)), &listener, token)),
                        4 => connection.expire(Instant::now()),
                        5 => drop(log.take_now()),
                        6 => {
                            let opaques: Vec<_> = peer.state().puts.drain(..).map(|put| put.opaque).collect();
                            peer.set(|state| opaques.into_iter().for_each(|opaque| state.answer(opaque)));
                        }
                        _ if !kept.is_empty() => match kept.swap_remove(random.usize(0..kept.len())) {
                            Capacity::Reserved(reservation) => {
                                let _ = submit_reserved(
                                    &connection,
                                    "x",
                                    after(random.u64(0..3)),
                                    &listener,
                                    token,
                                    reservation,
                                );
                            }
                            Capacity::Waiting(wait) => drop(wait),
                        },
                        _ => {}
                    }
                    if kept.len() > 4 {
                        kept.clear();
                    }
                }
                kept.clear();
                log
            })
        })
        .collect();
    let logs: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    home.block_on(async {
        eventually(|| {
            let opaques: Vec<_> = peer.state().puts.drain(..).map(|put| put.opaque).collect();
            peer.set(|state| opaques.into_iter().for_each(|opaque| state.answer(opaque)));
            logs.iter().for_each(|log| drop(log.take_now()));
            connection.stats().in_flight == 0
        })
        .await;
        logs.iter().for_each(|log| drop(log.take_now()));
        let listener = completions(&Arc::new(Log::default()));
        eventually(|| {
            let reserve = |token| connection.reserve(1, CompletionToken { completions: &listener, token });
            (0..3).map(reserve).collect::<Vec<_>>().iter().all(|one| matches!(one, Ok(Capacity::Reserved(_))))
        })
        .await;
    });
}

/// Threads submit, expire, answer, hang up and close in any order, on runtimes of their own and on none: each
/// put ends once, and the broker is done with each that was written and timed out, after that.
#[test]
fn every_put_completes_once_and_is_then_released() {
    const THREADS: u64 = 5;
    let home = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let end = StdInstant::now() + Duration::from_secs(3);
    let mut life = 0;
    while StdInstant::now() < end {
        life += 1;
        let mut config = ConnectionConfig::default();
        config.max_in_flight = 20;
        config.stall_after = Duration::from_millis(3);
        config.initial_backoff = Duration::from_millis(1);
        config.max_backoff = Duration::from_millis(1);
        let peer = Peer::default();
        let connection = home.block_on(peer.connect(config));
        let log = Arc::new(Log::default());
        let others = [Arc::new(Log::default()), Arc::new(Log::default())];
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (connection, peer) = (Arc::clone(&connection), peer.clone());
                let listener = completions([&log, &others[0], &others[1]][n as usize % 3]);
                thread::spawn(move || {
                    let runtime = (n % 2 == 0).then(other_runtime);
                    let _entered = runtime.as_ref().map(Runtime::enter);
                    let mut random = fastrand::Rng::with_seed(life * THREADS + n);
                    let mut accepted = Vec::new();
                    for step in 0..60 {
                        let token = n * 1000 + step;
                        match random.u32(0..10) {
                            0 if n == 1 && random.u32(0..8) == 0 => peer.hang_up(),
                            1 if n == 2 && step > 40 => connection.close(after(random.u64(0..2))),
                            2 => connection.expire(Instant::now()),
                            3 => {
                                let puts = std::mem::take(&mut peer.state().puts);
                                let answered = puts.iter().filter(|_| random.bool());
                                peer.set(|state| answered.for_each(|put| state.answer(put.opaque)));
                            }
                            4 => (0..random.u32(0..30)).for_each(|_| thread::yield_now()),
                            5 if n == 3 => peer.set(|state| {
                                state.write = if random.bool() { Mode::Bytes(100) } else { Mode::Works };
                            }),
                            _ => {
                                let deadline = Instant::now() + Duration::from_micros(random.u64(0..2000));
                                if submit_put(&connection, "0123456789", deadline, &listener, token).is_ok() {
                                    accepted.push(token);
                                }
                            }
                        }
                    }
                    accepted
                })
            })
            .collect();
        let mut accepted: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        connection.close(after(5));
        let mut events = Vec::new();
        home.block_on(async {
            until(&connection, ConnectionState::is_closed).await;
            eventually(|| {
                [&log, &others[0], &others[1]].iter().for_each(|log| events.extend(log.take_now()));
                let late = events.iter().filter(|event| is_late(event)).count();
                events.len() >= accepted.len() + late
            })
            .await;
        });
        let mut ended: Vec<_> = Vec::new();
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Ended(token, _) => {
                    ended.push(*token);
                    let released = events
                        .iter()
                        .enumerate()
                        .filter(|(_, other)| matches!(other, Event::Released(of) if of == token))
                        .map(|(at, _)| at);
                    let released: Vec<_> = released.collect();
                    assert_eq!(released.len(), usize::from(is_late(event)), "{token}: {event:?}");
                    assert!(released.iter().all(|released| *released > at), "{token}");
                }
                Event::Released(_) => {}
                Event::Capacity(..) => panic!("{event:?}"),
            }
        }
        ended.sort_unstable();
        accepted.sort_unstable();
        assert_eq!(ended, accepted, "life {life}");
        assert_eq!(connection.stats().in_flight, 0);
    }
}

fn is_late(event: &Event) -> bool {
    matches!(event, Event::Ended(_, Err(error))
        if error.kind() == TransportErrorKind::TimedOut && error.progress() == Progress::Written)
}
