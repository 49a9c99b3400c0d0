//! A connection survives what panics on its task, and says what became of it when its runtime ends.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant as StdInstant},
};

use async_trait::async_trait;
use metaq_protocol::{BrokerAddr, Command};
use metaq_transport::{
    Completions, Connection, ConnectionConfig, ConnectionState, PendingResponse, Progress, ReceivedResponse,
    TransportError, TransportErrorKind,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::Instant,
};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_stream_or_the_dialer_ends_in_a_new_connection() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    let written = submit(&connection, "written", after(60_000)).unwrap();
    peer.puts(1).await;
    peer.set(|state| (state.write, state.dial) = (Mode::Panics, Mode::Panics));
    let in_write = submit(&connection, "in write", after(60_000)).unwrap();
    for pending in [written, in_write] {
        let error = soon(pending).await.unwrap_err();
        assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written));
        assert!(whole_text(&error).contains("panicked: the stream panics"), "{error:?}");
    }
    eventually(|| peer.state().dials >= 4).await;
    let error = submit(&connection, "x", after(60_000)).unwrap_err();
    assert!(whole_text(&error).contains("the dialer panics"), "{error:?}");
    peer.set(|state| (state.write, state.dial) = (Mode::Works, Mode::Works));
    works(&peer, &connection).await;
}

/// Panics once.
#[derive(Debug)]
struct PanicsOnce(AtomicBool, Log);

impl Completions for PanicsOnce {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        if !self.0.swap(true, Ordering::SeqCst) {
            panic!("completions panic");
        }
        self.1.completed(completed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_completions_ends_in_a_new_connection() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    let panics = Arc::new(PanicsOnce(AtomicBool::new(false), Log::default()));
    let listener = Arc::clone(&panics) as Arc<dyn Completions>;
    submit_put(&connection, "x", after(60_000), &listener, 1).unwrap();
    submit_put(&connection, "y", after(60_000), &listener, 2).unwrap();
    let pending = submit(&connection, "z", after(60_000)).unwrap();
    let also_answered = submit(&connection, "z", after(60_000)).unwrap();
    let puts = peer.puts(4).await;
    peer.set(|state| [0, 3].iter().for_each(|n| state.answer(puts[*n].opaque)));
    assert!(soon(also_answered).await.is_ok(), "the panic keeps nothing from others");
    let error = soon(pending).await.unwrap_err();
    assert!(whole_text(&error).contains("completions panic"), "{error:?}");
    match panics.1.take(1).await.pop().unwrap() {
        Event::Ended(2, Err(error)) => assert_eq!(error.kind(), TransportErrorKind::Lost),
        other => panic!("{other:?}"),
    }
    works(&peer, &connection).await;
}

#[test]
fn the_end_of_its_runtime_says_what_a_connection_has_written() {
    let peer = Peer::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (connection, written, unwritten) = runtime.block_on(async {
        let connection = peer.connect(ConnectionConfig::default()).await;
        let written = submit(&connection, "written", after(60_000)).unwrap();
        peer.puts(1).await;
        let unwritten = submit(&connection, "unwritten", after(60_000)).unwrap();
        (connection, written, unwritten)
    });
    drop(runtime);
    let other = Builder::new_current_thread().enable_all().build().unwrap();
    for (pending, progress) in [(written, Progress::Written), (unwritten, Progress::NotWritten)] {
        let error = other.block_on(soon(pending)).unwrap_err();
        assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Closed, progress));
        assert!(whole_text(&error).contains("the tokio runtime that the connection was made on has ended"));
    }
    assert!(connection.state().borrow().is_closed());
    let error = submit(&connection, "x", after(1_000)).unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Closed);
    assert!(whole_text(&error).contains("has ended"), "{error:?}");
}

/// A connection of one's own that only has what has to be.
#[derive(Debug)]
struct Custom(BrokerAddr);

#[async_trait]
impl Connection for Custom {
    fn broker(&self) -> &BrokerAddr {
        &self.0
    }
    fn submit(&self, _: &mut Command, _: Instant) -> Result<PendingResponse, TransportError> {
        Ok(PendingResponse::channel(self.0.clone()).1)
    }
    async fn submit_when_free(&self, _: &mut Command, _: Instant) -> Result<PendingResponse, TransportError> {
        unreachable!("not called")
    }
    fn state(&self) -> watch::Receiver<ConnectionState> {
        watch::channel(ConnectionState::Ready).1
    }
    fn close(&self, _: Instant) {}
}

/// Runs a future without any runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(1)),
        }
    }
}

#[test]
fn outside_of_a_runtime_there_are_errors_and_no_panics() {
    let peer = Peer::default();
    let error = block_on(peer.try_connect(ConnectionConfig::default())).unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::NoRuntime);
    assert!(error.to_string().contains("tokio runtime"), "{error}");
    let without_timers = Builder::new_current_thread().build().unwrap();
    let error = without_timers.block_on(peer.try_connect(ConnectionConfig::default())).unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::NoRuntime);

    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut config = ConnectionConfig::default();
    config.max_in_flight = 1;
    let connection = runtime.block_on(peer.connect(config));
    let pending = submit(&connection, "x", after(60_000)).unwrap();
    let full = block_on(connection.submit_when_free(&mut put("y"), after(60_000))).unwrap_err();
    assert_eq!(full.kind(), TransportErrorKind::NoRuntime, "it would have to wait, which takes a timer");
    peer.answer(runtime.block_on(peer.puts(1))[0].opaque);
    assert!(block_on(pending).is_ok());
    let pending = block_on(connection.submit_when_free(&mut put("z"), after(60_000))).unwrap();
    peer.answer(runtime.block_on(peer.puts(1))[0].opaque);
    assert!(block_on(pending).is_ok());
    let log = Arc::new(Log::default());
    submit_put(&connection, "w", after(60_000), &completions(&log), 1).unwrap();
    connection.expire(Instant::now());
    connection.close(after(0));
    drop(connection);
    assert!(matches!(runtime.block_on(log.take(1))[..], [Event::Ended(1, Err(_))]));

    let custom = Arc::new(Custom(BrokerAddr::new("h", 1).unwrap())) as Arc<dyn Connection>;
    let error = submit_put(&custom, "x", after(1), &completions(&log), 2).unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::NoRuntime);
    runtime.block_on(async { submit_put(&custom, "x", after(1), &completions(&log), 3) }).unwrap();
    assert!(matches!(runtime.block_on(log.take(1))[..], [Event::Ended(3, Err(_))]));
}

/// A connection whose runtime exists, but isn't driven.
fn undriven(config: ConnectionConfig) -> (Runtime, Peer, Arc<dyn Connection>) {
    let home = Builder::new_current_thread().enable_all().build().unwrap();
    let peer = Peer::default();
    let connection = home.block_on(peer.connect(config));
    (home, peer, connection)
}

#[test]
fn requests_time_out_although_the_runtime_is_not_driven() {
    let (home, peer, connection) = undriven(ConnectionConfig::default());
    let other = Builder::new_current_thread().enable_all().build().unwrap();
    let log = Arc::new(Log::default());
    other.block_on(async {
        for round in 0..3 {
            let started = StdInstant::now();
            submit_put(&connection, "x", after(50), &completions(&log), round).unwrap();
            let pending = submit(&connection, "y", after(50)).unwrap();
            let error = soon(pending).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.progress()),
                (TransportErrorKind::TimedOut, Progress::NotWritten)
            );
            assert!(started.elapsed() >= Duration::from_millis(50));
            match log.take(1).await.pop().unwrap() {
                Event::Ended(token, Err(error)) => {
                    assert_eq!((token, error.progress()), (round, Progress::NotWritten));
                }
                other => panic!("{other:?}"),
            }
        }
        // The same for closing.
        let pending = submit(&connection, "z", after(60_000)).unwrap();
        connection.close(after(50));
        assert_eq!(soon(pending).await.unwrap_err().kind(), TransportErrorKind::Closed);
        until(&connection, ConnectionState::is_closed).await;
    });
    assert_eq!(connection.stats().in_flight, 0);
    // When it is driven again nothing of it is written.
    home.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
    assert!(peer.state().puts.is_empty());
}

#[test]
fn overdue_requests_end_on_any_thread_and_once() {
    let mut config = ConnectionConfig::default();
    config.stall_after = SOON;
    let (home, peer, connection) = undriven(config);
    let log = Arc::new(Log::default());
    let written = home.block_on(async {
        peer.set(|state| state.write = Mode::Bytes(60));
        for token in 0..4 {
            submit_put(&connection, "0123456789", after(60_000), &completions(&log), token).unwrap();
        }
        peer.puts(1).await
    });
    connection.expire(Instant::now());
    assert_eq!(log.len(), 0);
    connection.expire(after(120_000));
    connection.expire(after(120_000));
    let mut ended: Vec<_> = log
        .take_now()
        .into_iter()
        .map(|event| match event {
            Event::Ended(token, Err(error)) => (token, error.progress()),
            other => panic!("{other:?}"),
        })
        .collect();
    ended.sort_by_key(|(token, _)| *token);
    let begun = ended.iter().filter(|(_, progress)| *progress == Progress::Written).count();
    assert!((1..4).contains(&begun) && ended.len() == 4, "{ended:?}");
    peer.answer(written[0].opaque);
    home.block_on(async {
        assert!(matches!(log.take(1).await[..], [Event::Released(0)]));
        peer.set(|state| state.write = Mode::Works);
        let next = submit(&connection, "next", after(60_000)).unwrap();
        let puts = peer.puts(begun).await;
        assert_eq!(
            payload(puts.last().unwrap()),
            "next",
            "what was begun is finished, the rest is not written"
        );
        peer.answer(puts.last().unwrap().opaque);
        assert!(soon(next).await.is_ok());
    });
}

/// Ends the connection's runtime while an outcome is reported.
#[derive(Debug)]
struct EndsRuntime(Mutex<Option<Runtime>>, Log);

impl Completions for EndsRuntime {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        self.1.completed(completed);
        drop(self.0.lock().unwrap().take());
    }

    fn released(&self, tokens: &mut Vec<u64>) {
        self.1.released(tokens);
    }
}

#[test]
fn a_request_is_released_if_the_connection_ends_as_it_completes() {
    let (home, peer, connection) = undriven(ConnectionConfig::default());
    let listener = Arc::new(EndsRuntime(Mutex::new(None), Log::default()));
    let completions = Arc::clone(&listener) as Arc<dyn Completions>;
    home.block_on(async {
        submit_put(&connection, "x", after(60_000), &completions, 1).unwrap();
        peer.puts(1).await;
    });
    *listener.0.lock().unwrap() = Some(home);
    connection.expire(after(120_000));
    let events = listener.1.take_now();
    assert!(matches!(events[..], [Event::Ended(1, Err(_)), Event::Released(1)]), "{events:?}");
    assert!(connection.state().borrow().is_closed());
    drop(completions);
    assert_eq!(Arc::strong_count(&listener), 1, "the connection has let go of it");
}
