//! Threads submit without a pause while the connection falls silent, is replaced, comes back in the instant
//! of that, or is closed: every request is accounted for, and the connection is used again.
//!
//! `METAQ_RELIABILITY=full` runs it for a minute.
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

use metaq_transport::{Completions, Connection, ConnectionConfig, ConnectionState, Progress};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};

use crate::support::{ledger::*, *};

const HAMMERS: usize = 4;

/// The fate of a connection that is silent.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Nothing: it is replaced.
    Silent,
    /// It works again after this number of microseconds, about when it would be replaced.
    Revives(u64),
    /// It ends.
    Ends(u64),
    /// The new connection ends.
    NewEnds(u64),
    /// New connections aren't answered, until the old one is.
    NobodyNew(u64),
}

impl Then {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let micros = random.u64(..60_000);
        match random.u32(..8) {
            0..3 => Self::Silent,
            3..5 => Self::Revives(micros),
            5 => Self::Ends(micros),
            6 => Self::NewEnds(micros),
            _ => Self::NobodyNew(micros),
        }
    }
}

fn config() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.max_in_flight = 500;
    config.stall_after = Duration::from_millis(20);
    config.heartbeat_timeout = Duration::from_millis(200);
    config.initial_backoff = Duration::from_millis(1);
    config.max_backoff = Duration::from_millis(5);
    config.drain_timeout = Duration::from_millis(30);
    config
}

/// Answers everything that can be answered, until `stop` is set.
fn answer(peer: &Peer, stop: &AtomicBool) -> Received {
    let mut received = Received::new();
    while !stop.load(Ordering::SeqCst) {
        peer.set(|state| {
            for put in std::mem::take(&mut state.puts) {
                received.insert(token_of(&payload(&put)), None);
                if state.is_stranded(put.opaque) {
                    state.puts.push(put);
                    continue;
                }
                let answered = state.try_answer(put.opaque).then(Instant::now);
                received.insert(token_of(&payload(&put)), answered);
            }
        });
        pause(200);
    }
    peer.set(State::refloat);
    let state = peer.state();
    for put in state.puts.iter().chain(&state.swallowed) {
        received.entry(token_of(&payload(put))).or_insert(None);
    }
    received
}

fn submit_all(connection: &Arc<dyn Connection>, ledger: &Arc<Ledger>, stop: &AtomicBool) {
    let completions = Arc::clone(ledger) as Arc<dyn Completions>;
    while !stop.load(Ordering::SeqCst) {
        let (token, deadline) = (ledger.new_token(), after(30_000));
        match submit_put(connection, token.to_string(), deadline, &completions, token) {
            Ok(_) => ledger.accepted(token, deadline, true),
            Err(error) => {
                assert_eq!(error.progress(), Progress::NotWritten);
                thread::yield_now();
            }
        }
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = StdInstant::now();
    while !condition() {
        pause(50);
        assert!(waited.elapsed() < SOON, "{what}");
    }
}

/// Ends threads also when the test fails.
struct Ends<'a>([&'a AtomicBool; 2]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|stop| stop.store(true, Ordering::SeqCst));
    }
}

/// One connection: `rounds` silences, and its end, in the middle of one if `within`. Returns how often it was
/// replaced and how many requests there were.
fn live(rounds: usize, within: bool, seed: u64) -> (u64, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (peer, ledger) = (Peer::default(), Arc::new(Ledger::default()));
    let home = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tasks = Runtime::new().unwrap();
    let connection = home.block_on(peer.connect(config()));
    let state = connection.state();
    let (stop, stop_broker) = (AtomicBool::new(false), AtomicBool::new(false));
    let (received, replaced) = thread::scope(|scope| {
        let _ends = Ends([&stop, &stop_broker]);
        let broker = scope.spawn(|| answer(&peer, &stop_broker));
        let hammers: Vec<_> = (0..HAMMERS)
            .map(|_| {
                let (connection, ledger, stop) = (Arc::clone(&connection), Arc::clone(&ledger), &stop);
                scope.spawn(move || submit_all(&connection, &ledger, stop))
            })
            .collect();
        for _ in 0..rounds {
            let answered = connection.stats().answered;
            wait_for("it is used", || connection.stats().answered > answered);
            silence(&peer, Then::draw(&mut random));
            let answered = connection.stats().answered;
            wait_for("it is used again", || connection.stats().answered > answered);
        }
        let replaced = connection.stats().established - 1;
        if within {
            peer.set(State::strand);
            pause(random.u64(..40_000));
        }
        if random.bool() {
            connection.close(after(30));
        }
        stop.store(true, Ordering::SeqCst);
        hammers.into_iter().for_each(|hammer| hammer.join().unwrap());
        drop(connection);
        let mut state = state.clone();
        tasks.block_on(soon(state.wait_for(ConnectionState::is_closed))).unwrap();
        stop_broker.store(true, Ordering::SeqCst);
        (broker.join().unwrap(), replaced)
    });
    let is_over = || ledger.requests.lock().unwrap().values().all(|request| !request.outcomes.is_empty());
    wait_for("every request ends", is_over);
    wait_for("no task is left", || home.metrics().num_alive_tasks() == 0);
    let (dials, streams) = peer.dials_and_streams();
    assert!(streams.is_empty(), "{streams:?} are left");
    drop((home, tasks));
    account_for(&ledger, &received, dials, Duration::from_secs(5));
    (replaced, ledger.len())
}

/// All streams fall silent.
fn silence(peer: &Peer, then: Then) {
    peer.set(|state| {
        state.strand();
        state.greets = !matches!(then, Then::NobodyNew(_));
    });
    let all_or_newest = |all: bool, change: fn(&mut State, usize)| {
        peer.set(|state| {
            let streams = state.streams();
            let chosen = if all { streams.first() } else { streams.get(1) };
            chosen.into_iter().for_each(|dial| change(state, *dial));
        });
    };
    match then {
        Then::Silent => {}
        Then::Revives(micros) => {
            pause(micros);
            peer.set(State::refloat);
        }
        Then::Ends(micros) => {
            pause(micros);
            all_or_newest(true, State::hang_up_on);
        }
        Then::NewEnds(micros) => {
            pause(micros);
            all_or_newest(false, State::hang_up_on);
        }
        Then::NobodyNew(micros) => {
            pause(micros);
            peer.set(|state| {
                state.refloat();
                state.greets = true;
            });
        }
    }
}

#[test]
fn threads_that_submit_during_a_replacement_lose_nothing() {
    let is_full = std::env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full");
    let (started, time) = (StdInstant::now(), Duration::from_secs(if is_full { 60 } else { 4 }));
    let first = fastrand::u64(..1_000_000);
    println!("first seed {first}");
    let (mut lives, mut replaced, mut requests) = (0, 0, 0);
    while started.elapsed() < time || replaced == 0 {
        let (times, more) = live(8, lives % 2 == 1, first + lives);
        lives += 1;
        replaced += times;
        requests += more;
    }
    println!("{lives} connections, replaced {replaced} times, {requests} requests");
}
