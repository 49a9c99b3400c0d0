//! Many threads use one connection while its broker hangs, fails and comes back; then every request is accounted for.
//!
//! `METAQ_RELIABILITY=full` runs it for a minute and a half.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it did"
)]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant as StdInstant},
};

use metaq_transport::{
    Answer, Capacity, CapacityWait, Completions, Connection, ConnectionConfig, ConnectionState, Progress,
    Reservation, Ticket, TransportError, TransportErrorKind,
};
use support::*;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::Instant,
};

const HAMMERS: usize = 4;
const MAX_IN_FLIGHT: usize = 200;

/// What a request may be late.
const LATE: Duration = Duration::from_millis(100);

/// How a request ended.
#[derive(Clone, Debug)]
struct Outcome {
    result: Result<(), (TransportErrorKind, Progress)>,
    at: Instant,
}

#[derive(Debug, Default)]
struct Request {
    deadline: Option<Instant>,
    is_told: bool,
    outcomes: Vec<Outcome>,
    released: usize,
}

/// Everything that is known of the requests of one connection.
#[derive(Debug, Default)]
struct Ledger {
    requests: Mutex<HashMap<u64, Request>>,
    next: AtomicU64,
    reservations: Mutex<Vec<Reservation>>,
}

impl Ledger {
    fn new_token(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn len(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn accepted(&self, token: u64, deadline: Instant, is_told: bool) {
        let mut requests = self.requests.lock().unwrap();
        let request = requests.entry(token).or_default();
        (request.deadline, request.is_told) = (Some(deadline), is_told);
    }

    fn ended(&self, token: u64, result: Result<Answer, TransportError>) {
        let result = result.map(drop).map_err(|error| (error.kind(), error.progress()));
        let outcome = Outcome { result, at: Instant::now() };
        self.requests.lock().unwrap().entry(token).or_default().outcomes.push(outcome);
    }
}

impl Completions for Ledger {
    fn ended(&self, ended: &mut Vec<(u64, Result<Answer, TransportError>)>) {
        ended.drain(..).for_each(|(token, result)| Self::ended(self, token, result));
    }

    fn capacity(&self, _: u64, granted: Result<Reservation, TransportError>) {
        if let Ok(reservation) = granted {
            self.reservations.lock().unwrap().push(reservation);
        }
    }

    fn released(&self, tokens: &mut Vec<u64>) {
        let mut requests = self.requests.lock().unwrap();
        for token in tokens.drain(..) {
            let request = requests.entry(token).or_default();
            // Before it ended it counts twice, which is found wrong later.
            request.released += if request.outcomes.is_empty() { 2 } else { 1 };
        }
    }
}

/// How late threads and tasks are at most, because others have the processors.
#[derive(Debug, Default)]
struct Lateness(AtomicU64);

impl Lateness {
    fn note(&self, due: Instant) {
        self.0.fetch_max(due.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    fn most(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    async fn watch(self: Arc<Self>) {
        loop {
            let due = after(1);
            tokio::time::sleep_until(due).await;
            self.note(due);
        }
    }
}

/// The connection's runtime, on a thread of its own that can be stopped.
struct Home {
    handle: Handle,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Home {
    fn new(lateness: &Arc<Lateness>) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, stop) = (runtime.handle().clone(), Arc::new(AtomicBool::new(false)));
        let (stopped, lateness) = (Arc::clone(&stop), Arc::clone(lateness));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let due = after(1);
                runtime.block_on(async { tokio::time::sleep_until(due).await });
                lateness.note(due);
            }
        });
        Self { handle, stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// What the broker has received, and when it answered.
type Received = HashMap<u64, Option<Instant>>;

/// Receives and answers puts, most of them at once, and misbehaves.
fn broker(peer: &Peer, stop: &AtomicBool, calm: &AtomicBool, seed: u64) -> Received {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut received = Received::new();
    while !stop.load(Ordering::SeqCst) {
        let is_calm = calm.load(Ordering::SeqCst);
        peer.set(|state| {
            let puts = std::mem::take(&mut state.puts);
            for (token, opaque) in puts.iter().map(|put| (token_of(&payload(put)), put.opaque)) {
                received.entry(token).or_insert(None);
                match random.u32(..20) {
                    0 if !is_calm => {}
                    _ => {
                        state.answer(opaque);
                        received.insert(token, Some(Instant::now()));
                    }
                }
            }
            if is_calm {
                (state.write, state.greets) = (Mode::Works, true);
                return;
            }
            match random.u32(..60) {
                0 => state.write = Mode::Bytes(random.usize(..5_000)),
                1 => (state.write, state.greets) = (Mode::Hangs, false),
                2 => state.write = Mode::Fails,
                3 => state.hang_up(),
                4..7 => (state.write, state.greets) = (Mode::Works, true),
                _ => {}
            }
        });
        pause(random.u64(..2_000));
    }
    for put in std::mem::take(&mut peer.state().puts) {
        received.entry(token_of(&payload(&put))).or_insert(None);
    }
    received
}

#[expect(
    clippy::disallowed_methods,
    reason = "chance decides when something happens here, and nothing is awaited"
)]
fn pause(micros: u64) {
    thread::sleep(Duration::from_micros(micros));
}

fn token_of(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().trim_start_matches('x').parse().unwrap()
}

/// A payload that says which request it belongs to; some are large.
fn payload_of(token: u64, random: &mut fastrand::Rng) -> Vec<u8> {
    let size = if random.u32(..20) == 0 { 10_000 } else { random.usize(..40) };
    let mut payload = vec![b'x'; size];
    payload.extend_from_slice(token.to_string().as_bytes());
    payload
}

/// Uses the connection in every way there is.
fn hammer(
    connection: &Arc<dyn Connection>,
    ledger: &Arc<Ledger>,
    tasks: &Handle,
    stop: &AtomicBool,
    lateness: &Lateness,
    seed: u64,
) {
    let mut random = fastrand::Rng::with_seed(seed);
    let completions = Arc::clone(ledger) as Arc<dyn Completions>;
    let _runtime = seed.is_multiple_of(2).then(|| tasks.enter());
    let mut places: Vec<CapacityWait> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let (started, token) = (Instant::now(), ledger.new_token());
        let deadline = Instant::now() + Duration::from_millis(random.u64(..200));
        let payload = payload_of(token, &mut random);
        let told = |accepted: Result<bool, TransportError>| match accepted {
            Ok(_) => ledger.accepted(token, deadline, true),
            Err(error) => assert_eq!(error.progress(), Progress::NotWritten),
        };
        match random.u32(..100) {
            0..50 => told(submit_put(connection, payload, deadline, &completions, token)),
            50..65 => {
                if let Ok(pending) = submit(connection, payload, deadline) {
                    ledger.accepted(token, deadline, false);
                    let ledger = Arc::clone(ledger);
                    drop(tasks.spawn(async move { ledger.ended(token, pending.await) }));
                }
            }
            65..75 => {
                let (connection, ledger) = (Arc::clone(connection), Arc::clone(ledger));
                let waits = Duration::from_millis(random.u64(..50));
                drop(tasks.spawn(async move {
                    let mut command = put(payload);
                    let waiting = connection.submit_when_free(&mut command, deadline);
                    if let Ok(Ok(pending)) = tokio::time::timeout(waits, waiting).await {
                        drop(connection);
                        ledger.accepted(token, deadline, false);
                        ledger.ended(token, pending.await);
                    }
                }));
            }
            75..85 => {
                let ticket = Ticket { completions: &completions, token };
                match connection.reserve(payload.len() + 50, ticket) {
                    Ok(Capacity::Reserved(reservation)) => {
                        told(submit_reserved(
                            connection,
                            payload,
                            deadline,
                            &completions,
                            token,
                            reservation,
                        ));
                    }
                    Ok(Capacity::Waiting(place)) => places.push(place),
                    Err(_) => {}
                }
            }
            85..95 => {
                let granted = ledger.reservations.lock().unwrap().pop();
                if let Some(reservation) = granted {
                    told(submit_reserved(connection, payload, deadline, &completions, token, reservation));
                }
                if places.len() > 20 {
                    drop(places.swap_remove(random.usize(..places.len())));
                }
            }
            95..97 => connection.expire(Instant::now()),
            97 => drop(connection.stats()),
            _ => pause(random.u64(..300)),
        }
        lateness.note(started);
    }
}

/// How the life of a connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Dropped,
    RuntimeEnded,
}

/// The life of one connection. Returns how many requests there were.
fn live(end: End, seed: u64) -> usize {
    let (peer, ledger, lateness) =
        (Peer::default(), Arc::new(Ledger::default()), Arc::new(Lateness::default()));
    let home = Home::new(&lateness);
    let tasks = Runtime::new().unwrap();
    drop(tasks.spawn(Arc::clone(&lateness).watch()));
    let mut config = ConnectionConfig::default();
    config.max_in_flight = MAX_IN_FLIGHT;
    config.stall_after = Duration::from_millis(20);
    config.heartbeat_timeout = Duration::from_millis(60);
    config.first_pause = Duration::from_millis(1);
    config.longest_pause = Duration::from_millis(3);
    config.drain_timeout = Duration::from_millis(20);
    let connection = {
        let (peer, (sender, receiver)) = (peer.clone(), std::sync::mpsc::channel());
        drop(home.handle.spawn(async move { sender.send(peer.try_connect(config).await.unwrap()) }));
        receiver.recv().unwrap()
    };
    let (stop, stop_broker, calm) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let state = connection.state();
    let received = thread::scope(|scope| {
        let broker = scope.spawn(|| broker(&peer, &stop_broker, &calm, seed));
        let hammers: Vec<_> = (0..HAMMERS as u64)
            .map(|n| {
                let (connection, ledger, tasks) =
                    (Arc::clone(&connection), Arc::clone(&ledger), tasks.handle());
                let stop = &stop;
                let lateness = &lateness;
                scope.spawn(move || hammer(&connection, &ledger, tasks, stop, lateness, seed * 10 + n))
            })
            .collect();
        pause(300_000);
        if matches!(end, End::RuntimeEnded) {
            home.stop();
            stop.store(true, Ordering::SeqCst);
            hammers.into_iter().for_each(|hammer| hammer.join().unwrap());
            stop_broker.store(true, Ordering::SeqCst);
            return broker.join().unwrap();
        }
        if matches!(end, End::Closed) && seed.is_multiple_of(2) {
            connection.close(after(20));
        }
        stop.store(true, Ordering::SeqCst);
        hammers.into_iter().for_each(|hammer| hammer.join().unwrap());
        if seed % 2 == 1 {
            calm.store(true, Ordering::SeqCst);
            tasks.block_on(all_is_free(&connection, &ledger));
        }
        if matches!(end, End::Closed) {
            connection.close(after(20));
        }
        drop(connection);
        let mut state = state.clone();
        tasks.block_on(soon(state.wait_for(ConnectionState::is_closed))).unwrap();
        stop_broker.store(true, Ordering::SeqCst);
        home.stop();
        broker.join().unwrap()
    });
    let is_over = || ledger.requests.lock().unwrap().values().all(|request| !request.outcomes.is_empty());
    tasks.block_on(eventually(is_over));
    ledger.reservations.lock().unwrap().clear();
    // Whatever tasks are left have nothing to say.
    drop(tasks);
    account_for(&ledger, &received, peer.state().dials, 3 * lateness.most());
    ledger.len()
}

/// When nothing is outstanding and nobody holds or waits for anything, all capacity is there.
async fn all_is_free(connection: &Arc<dyn Connection>, ledger: &Arc<Ledger>) {
    let waiter = Arc::new(Log::default());
    let completions = completions(&waiter);
    let all = async {
        loop {
            ledger.reservations.lock().unwrap().clear();
            let reserve = |token| connection.reserve(1, Ticket { completions: &completions, token });
            let mut reserved = Vec::new();
            for token in 0..MAX_IN_FLIGHT as u64 {
                if let Ok(Capacity::Reserved(reservation)) = reserve(token) {
                    reserved.push(reservation);
                }
            }
            if reserved.len() == MAX_IN_FLIGHT {
                assert!(matches!(reserve(0), Ok(Capacity::Waiting(_)) | Err(_)));
                return;
            }
            drop(reserved);
            drop(waiter.take_now());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(all).await;
    assert_eq!(connection.stats().in_flight, 0);
    assert_eq!(connection.stats().in_flight_bytes, 0);
}

fn account_for(ledger: &Ledger, received: &Received, dials: usize, scheduling: Duration) {
    let requests = ledger.requests.lock().unwrap();
    let mut begun_only = 0;
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    for (token, request) in &*requests {
        let says = || format!("{token}: {request:?}, received: {:?}", received.get(token));
        assert_eq!(request.outcomes.len(), 1, "each ends once: {}", says());
        let outcome = &request.outcomes[0];
        *outcomes.entry(format!("{:?}", outcome.result)).or_default() += 1;
        let Some(deadline) = request.deadline else { panic!("it was not accepted: {}", says()) };
        let late = outcome.at.saturating_duration_since(deadline);
        assert!(
            late <= LATE + scheduling,
            "late by {late:?}, where threads may be by {scheduling:?}: {}",
            says()
        );
        let answered = received.get(token).copied().flatten();
        let mut is_late = false;
        match outcome.result {
            Ok(()) => assert!(answered.is_some(), "nobody answered: {}", says()),
            Err((_, Progress::NotWritten)) => assert!(!received.contains_key(token), "{}", says()),
            Err((kind, Progress::Written)) => {
                is_late = kind == TransportErrorKind::TimedOut;
                begun_only += usize::from(!received.contains_key(token));
                if let Some(answered) = answered {
                    let lay = outcome.at.saturating_duration_since(answered);
                    assert!(lay <= LATE + scheduling, "an answer was here for {lay:?}: {}", says());
                }
            }
        }
        assert_eq!(request.released, usize::from(is_late && request.is_told), "{}", says());
    }
    println!("{dials} connections, threads may be late by {scheduling:?}: {outcomes:?}");
    // A connection that is lost has begun one frame at most without finishing it.
    assert!(begun_only <= dials, "{begun_only} requests were begun and not received, on {dials} connections");
}

#[test]
fn every_request_is_accounted_for_whatever_threads_and_brokers_do() {
    let is_full = std::env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full");
    let (started, time) = (StdInstant::now(), Duration::from_secs(if is_full { 90 } else { 3 }));
    let ends = [End::Closed, End::Dropped, End::RuntimeEnded, End::Closed, End::Dropped];
    let (mut lives, mut requests) = (0, 0);
    let first = fastrand::u64(..1_000_000);
    println!("first seed {first}");
    while started.elapsed() < time {
        requests += live(ends[lives % ends.len()], first + lives as u64);
        lives += 1;
    }
    println!("{lives} connections, {requests} requests");
}

/// The broker reads everything and is silent again and again, while threads submit without a pause.
#[test]
fn a_put_that_is_submitted_while_a_stall_is_detected_has_a_known_fate() {
    let is_full = std::env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full");
    let (started, time) = (StdInstant::now(), Duration::from_secs(if is_full { 60 } else { 3 }));
    let (peer, ledger, lateness) =
        (Peer::default(), Arc::new(Ledger::default()), Arc::new(Lateness::default()));
    let home = Home::new(&lateness);
    let mut config = ConnectionConfig::default();
    config.stall_after = Duration::from_millis(2);
    config.heartbeat_timeout = SOON;
    let connection = {
        let (peer, (sender, receiver)) = (peer.clone(), std::sync::mpsc::channel());
        drop(home.handle.spawn(async move { sender.send(peer.connect(config).await).unwrap() }));
        receiver.recv().unwrap()
    };
    peer.set(|state| state.greets = false);
    let (stop, mut stalls) = (AtomicBool::new(false), 0);
    let mut received = Received::new();
    let mut answer_all = || {
        peer.set(|state| {
            for put in std::mem::take(&mut state.puts) {
                state.answer(put.opaque);
                received.insert(token_of(&payload(&put)), Some(Instant::now()));
            }
            state.answer_greetings();
        });
    };
    thread::scope(|scope| {
        for _ in 0..HAMMERS {
            let (ledger, connection, stop) = (Arc::clone(&ledger), Arc::clone(&connection), &stop);
            scope.spawn(move || {
                let completions = Arc::clone(&ledger) as Arc<dyn Completions>;
                while !stop.load(Ordering::SeqCst) {
                    let (token, deadline) = (ledger.new_token(), after(600_000));
                    let accepted = submit_put(&connection, token.to_string(), deadline, &completions, token);
                    match accepted {
                        Ok(_) => {
                            ledger.accepted(token, deadline, true);
                            // Few enough that the outbox is empty as often as not.
                            (0..2_000).for_each(|_| std::hint::spin_loop());
                        }
                        Err(_) => thread::yield_now(),
                    }
                }
            });
        }
        let state = connection.state();
        while started.elapsed() < time {
            while !matches!(*state.borrow(), ConnectionState::Stalled) {
                thread::yield_now();
            }
            stalls += 1;
            while !state.borrow().is_ready() {
                answer_all();
                pause(100);
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    let ended = || ledger.requests.lock().unwrap().values().all(|request| !request.outcomes.is_empty());
    let waited = StdInstant::now();
    while !ended() {
        answer_all();
        pause(1_000);
        let left = || {
            let requests = ledger.requests.lock().unwrap();
            requests.values().filter(|request| request.outcomes.is_empty()).count()
        };
        assert!(
            waited.elapsed() < SOON,
            "{} puts were neither written nor given back in {stalls} stalls",
            left()
        );
    }
    connection.close(after(0));
    drop(connection);
    home.stop();
    println!("{stalls} stalls, {} puts, {} received", ledger.requests.lock().unwrap().len(), received.len());
    account_for(&ledger, &received, 1, Duration::ZERO);
    assert!(stalls > 0, "there were stalls");
}
