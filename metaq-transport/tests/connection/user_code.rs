//! No lock is held while code of others runs: each of these tests ends in a deadlock otherwise.

use std::{
    future::Future as _,
    io,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use metaq_transport::{
    CompletionToken, Completions, Connection, ConnectionConfig, ConnectionState, Reservation, TransportError,
};
use tokio::runtime::Builder;

use crate::support::*;

/// Runs a test on a thread of its own, so that a deadlock is a failure.
fn without_deadlock(test: impl AsyncFnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test());
        done.send(()).unwrap();
    });
    match ended.recv_timeout(Duration::from_secs(30)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs: code of others runs under a lock"),
        _ => thread.join().unwrap(),
    }
}

/// Code of others: it uses the connection for all that takes its lock.
#[derive(Debug)]
struct Meddler {
    connection: Arc<dyn Connection>,
    log: Arc<dyn Completions>,
    calls: Arc<AtomicUsize>,
}

impl Meddler {
    fn meddle(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        drop(submit(&self.connection, "from within", after(60_000)));
        let _ = submit_put(&self.connection, "from within", after(60_000), &self.log, 1_000);
        drop(self.connection.reserve(1, CompletionToken { completions: &self.log, token: 1_001 }));
        self.connection.stats();
        self.connection.expire(tokio::time::Instant::now());
    }
}

/// Meddles when it is dropped.
#[derive(Debug)]
struct OnDrop(Meddler);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.meddle();
    }
}

/// As a payload, a waker, or the cause of an error.
impl AsRef<[u8]> for OnDrop {
    fn as_ref(&self) -> &[u8] {
        &[7; 10_000]
    }
}

impl Wake for OnDrop {
    fn wake(self: Arc<Self>) {
        self.0.meddle();
    }
}

impl std::fmt::Display for OnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as asked")
    }
}

impl std::error::Error for OnDrop {}

struct Scene {
    peer: Peer,
    connection: Arc<dyn Connection>,
    log: Arc<Log>,
    calls: Arc<AtomicUsize>,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut ConnectionConfig)) -> Self {
        let peer = Peer::default();
        let mut config = ConnectionConfig::default();
        change(&mut config);
        let connection = peer.connect(config).await;
        Self { peer, connection, log: Arc::new(Log::default()), calls: Arc::default() }
    }

    fn code(&self) -> OnDrop {
        let connection = Arc::clone(&self.connection);
        OnDrop(Meddler { connection, log: completions(&self.log), calls: Arc::clone(&self.calls) })
    }

    fn waker(&self) -> Waker {
        Arc::new(self.code()).into()
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[test]
fn wakers_that_are_replaced_dropped_or_woken() {
    without_deadlock(async || {
        let scene = Scene::new(|config| config.max_in_flight = 3).await;
        let mut pending = pin!(submit(&scene.connection, "x", after(60_000)).unwrap());
        for calls in 1..=3 {
            // Each polling replaces the waker of the one before, which is its last handle.
            assert!(pending.as_mut().poll(&mut Context::from_waker(&scene.waker())).is_pending());
            assert_eq!(scene.calls(), calls - 1);
        }
        let before = scene.calls();
        scene.peer.answer(scene.peer.puts(1).await[0].opaque);
        eventually(|| scene.calls() > before).await;
        assert!(soon(pending).await.is_ok());

        // A future that is dropped takes its waker along.
        let scene = Scene::new(|_| {}).await;
        let mut pending = Box::pin(submit(&scene.connection, "x", after(60_000)).unwrap());
        assert!(pending.as_mut().poll(&mut Context::from_waker(&scene.waker())).is_pending());
        drop(pending);
        assert_eq!(scene.calls(), 1);
    });
}

#[test]
fn wakers_of_those_who_wait_for_capacity() {
    without_deadlock(async || {
        let scene = Scene::new(|config| config.max_in_flight = 1).await;
        let first = submit(&scene.connection, "x", after(60_000)).unwrap();
        let mut commands = [put("a"), put("b")];
        let [a, b] = &mut commands;
        let mut granted = Box::pin(scene.connection.submit_when_free(a, after(60_000)));
        let mut given_up = Box::pin(scene.connection.submit_when_free(b, after(60_000)));
        for future in [&mut granted, &mut given_up] {
            for _ in 0..2 {
                assert!(future.as_mut().poll(&mut Context::from_waker(&scene.waker())).is_pending());
            }
        }
        let before = scene.calls();
        drop(given_up);
        assert!(scene.calls() > before);
        let before = scene.calls();
        scene.peer.answer(scene.peer.puts(1).await[0].opaque);
        assert!(soon(first).await.is_ok());
        eventually(|| scene.calls() > before).await;
        assert!(soon(granted).await.is_ok());
    });
}

#[test]
fn payloads_whose_destructor_submits() {
    for end in 0..4 {
        without_deadlock(async move || {
            let scene = Scene::new(|config| config.stall_after = Duration::from_secs(1)).await;
            scene.peer.set(|state| (state.write, state.greets) = (Mode::Hangs, false));
            let deadline = if end == 0 { after(100) } else { after(60_000) };
            let mut command = put(Bytes::from_owner(scene.code()));
            let pending = scene.connection.submit(&mut command, deadline).unwrap();
            drop(command);
            assert_eq!(scene.calls(), 0, "the connection holds it");
            match end {
                // It expires, stalls, is closed, is lost.
                0 | 1 => {}
                2 => scene.connection.close(after(0)),
                _ => scene.peer.hang_up(),
            }
            assert!(soon(pending).await.is_err());
            eventually(|| scene.calls() == 1).await;
            scene.connection.close(after(0));
        });
    }
    // It expires on another thread.
    without_deadlock(async || {
        let scene = Scene::new(|_| {}).await;
        scene.peer.set(|state| state.write = Mode::Hangs);
        let pending = scene.connection.submit(&mut put(Bytes::from_owner(scene.code())), after(100)).unwrap();
        tokio::task::yield_now().await;
        scene.connection.expire(after(1_000));
        assert_eq!(scene.calls(), 1);
        assert!(soon(pending).await.is_err());
    });
}

#[test]
fn watchers_of_the_state_that_submit() {
    without_deadlock(async || {
        let scene = Scene::new(|_| {}).await;
        let mut state = scene.connection.state();
        state.borrow_and_update();
        for wanted in ["lost", "ready", "stalled", "closed"] {
            let mut changed = Box::pin(state.changed());
            assert!(changed.as_mut().poll(&mut Context::from_waker(&scene.waker())).is_pending());
            let before = scene.calls();
            match wanted {
                "lost" => scene.peer.hang_up(),
                "ready" => {}
                "stalled" => {
                    scene.peer.set(|state| state.greets = false);
                    drop(submit(&scene.connection, "owed", after(60_000)));
                }
                _ => scene.connection.close(after(0)),
            }
            eventually(|| scene.calls() > before).await;
            soon(changed).await.unwrap();
            drop(state.borrow_and_update());
        }
        until(&scene.connection, ConnectionState::is_closed).await;
    });
}

/// Completions that meddle in every report.
#[derive(Debug)]
struct Meddling(Mutex<Option<Meddler>>, AtomicUsize);

impl Meddling {
    fn meddle(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        if let Some(meddler) = &*self.0.lock().unwrap() {
            meddler.meddle();
        }
    }
}

impl Completions for Meddling {
    fn completed(
        &self,
        completed: &mut Vec<(u64, Result<metaq_transport::ReceivedResponse, TransportError>)>,
    ) {
        completed.clear();
        self.meddle();
    }
    fn capacity(&self, _: u64, granted: Result<Reservation, TransportError>) {
        self.meddle();
        drop(granted);
    }
    fn released(&self, tokens: &mut Vec<u64>) {
        tokens.clear();
        self.meddle();
    }
}

#[test]
fn completions_that_submit() {
    without_deadlock(async || {
        let scene = Scene::new(|config| config.max_in_flight = 1).await;
        let meddling = Arc::new(Meddling(Mutex::new(Some(scene.code_parts())), AtomicUsize::new(0)));
        let listener = Arc::clone(&meddling) as Arc<dyn Completions>;
        submit_put(&scene.connection, "x", after(100), &listener, 1).unwrap();
        let put = scene.peer.puts(1).await.pop().unwrap();
        let _place =
            scene.connection.reserve(1, CompletionToken { completions: &listener, token: 2 }).unwrap();
        eventually(|| meddling.1.load(Ordering::SeqCst) >= 2).await;
        scene.peer.answer(put.opaque);
        eventually(|| meddling.1.load(Ordering::SeqCst) >= 3).await;
        meddling.0.lock().unwrap().take();
        scene.connection.close(after(0));
    });
}

impl Scene {
    fn code_parts(&self) -> Meddler {
        let connection = Arc::clone(&self.connection);
        Meddler { connection, log: completions(&self.log), calls: Arc::clone(&self.calls) }
    }
}

#[test]
fn causes_of_errors_whose_destructor_submits() {
    without_deadlock(async || {
        let scene = Scene::new(|_| {}).await;
        scene.peer.set(|state| state.write = Mode::FailsWith);
        *scene.peer.cause().lock().unwrap() = Some(io::Error::other(scene.code()));
        let pending = submit(&scene.connection, "x", after(60_000)).unwrap();
        let dropped = submit(&scene.connection, "y", after(60_000)).unwrap();
        eventually(|| scene.peer.state().dials >= 2).await;
        scene.peer.set(|state| state.write = Mode::Works);
        // The connection is ready again and forgets why it was lost; so do futures that were dropped.
        until(&scene.connection, ConnectionState::is_ready).await;
        drop(dropped);
        let error = soon(pending).await.unwrap_err();
        drop(error);
        eventually(|| scene.calls() == 1).await;
    });
}

#[test]
fn a_waker_that_panics_keeps_nothing_from_others() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("the waker panics");
        }
    }
    without_deadlock(async || {
        let scene = Scene::new(|_| {}).await;
        let mut panics = Box::pin(submit(&scene.connection, "x", after(60_000)).unwrap());
        let waker = Waker::from(Arc::new(Panics));
        assert!(panics.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let other = submit(&scene.connection, "y", after(60_000)).unwrap();
        let puts = scene.peer.puts(2).await;
        scene.peer.set(|state| puts.iter().for_each(|put| state.answer(put.opaque)));
        assert!(soon(other).await.is_ok());
        assert!(matches!(panics.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_))));
        works(&scene.peer, &scene.connection).await;
        assert_eq!(scene.peer.state().dials, 1, "the connection is the same");
    });
}
