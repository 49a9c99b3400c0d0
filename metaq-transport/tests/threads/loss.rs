//! Many threads use one connection while its broker hangs, fails and comes back, and its connections are lost
//! without a word; then every request is accounted for.
//!
//! `METAQ_RELIABILITY=full` runs it for a minute and a half.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it did"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant as StdInstant},
};

use metaq_transport::{
    Capacity, CapacityWait, CompletionToken, Completions, Connection, ConnectionConfig, ConnectionState,
    Progress, TransportError,
};
use tokio::{
    runtime::{Handle, Runtime},
    time::Instant,
};

use crate::support::{ledger::*, *};

const HAMMERS: usize = 4;
const MAX_IN_FLIGHT: usize = 200;

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
                    _ if state.try_answer(opaque) => {
                        received.insert(token, Some(Instant::now()));
                    }
                    _ => {}
                }
            }
            if is_calm {
                (state.write, state.greets) = (Mode::Works, true);
                state.refloat();
                return;
            }
            match random.u32(..60) {
                0 => state.write = Mode::Bytes(random.usize(..5_000)),
                1 => (state.write, state.greets) = (Mode::Hangs, false),
                2 => state.write = Mode::Fails,
                3 => state.hang_up(),
                7 => state.strand(),
                8 => state.refloat(),
                9 => state.answer_greetings(),
                10 => random_stream(state, &mut random).map_or((), |dial| state.hang_up_on(dial)),
                4..7 => (state.write, state.greets) = (Mode::Works, true),
                _ => {}
            }
        });
        pause(random.u64(..2_000));
    }
    let mut state = peer.state();
    for put in std::mem::take(&mut state.puts).iter().chain(&state.swallowed) {
        received.entry(token_of(&payload(put))).or_insert(None);
    }
    drop(state);
    received
}

fn random_stream(state: &State, random: &mut fastrand::Rng) -> Option<usize> {
    random.choice(state.streams())
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
        let is_reported = |accepted: Result<bool, TransportError>| match accepted {
            Ok(_) => ledger.accepted(token, deadline, true),
            Err(error) => assert_eq!(error.progress(), Progress::NotWritten),
        };
        match random.u32(..100) {
            0..50 => is_reported(submit_put(connection, payload, deadline, &completions, token)),
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
                let notify = CompletionToken { completions: &completions, token };
                match connection.reserve(payload.len() + 50, notify) {
                    Ok(Capacity::Reserved(reservation)) => {
                        is_reported(submit_reserved(
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
                    is_reported(submit_reserved(
                        connection,
                        payload,
                        deadline,
                        &completions,
                        token,
                        reservation,
                    ));
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

/// The way in which a connection ends.
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
    config.initial_backoff = Duration::from_millis(1);
    config.max_backoff = Duration::from_millis(3);
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

/// Checks that all capacity is free when nothing is outstanding, reserved or waited for.
async fn all_is_free(connection: &Arc<dyn Connection>, ledger: &Arc<Ledger>) {
    let waiter = Arc::new(Log::default());
    let completions = completions(&waiter);
    let all = async {
        loop {
            ledger.reservations.lock().unwrap().clear();
            let reserve = |token| connection.reserve(1, CompletionToken { completions: &completions, token });
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

#[test]
fn every_request_is_accounted_for_under_threads_and_faults() {
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
fn a_put_submitted_as_a_stall_is_detected_has_a_known_outcome() {
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
