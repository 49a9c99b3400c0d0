//! Durations of any length neither panic nor leave a connection that does nothing any more.

use std::{sync::Arc, time::Duration};

use metaq_transport::{ConnectionConfig, ConnectionState, TransportErrorKind, deadline};
use tokio::time::Instant;

use crate::support::*;

type Setting = fn(&mut ConnectionConfig) -> &mut Duration;

const SETTINGS: [(&str, Setting); 7] = [
    ("connect_timeout", |config| &mut config.connect_timeout),
    ("initial_backoff", |config| &mut config.initial_backoff),
    ("max_backoff", |config| &mut config.max_backoff),
    ("stall_after", |config| &mut config.stall_after),
    ("heartbeat_after", |config| &mut config.heartbeat_after),
    ("heartbeat_timeout", |config| &mut config.heartbeat_timeout),
    ("drain_timeout", |config| &mut config.drain_timeout),
];

fn durations() -> [Duration; 5] {
    [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_secs(1),
        Duration::from_secs(u32::MAX.into()),
        Duration::MAX,
    ]
}

/// A put on a connection that may be lost at any time.
async fn store(peer: &Peer, connection: &Arc<dyn metaq_transport::Connection>) {
    loop {
        until(connection, ConnectionState::is_ready).await;
        let Ok(pending) = submit(connection, "x", after(60_000)) else { continue };
        tokio::task::yield_now().await;
        peer.set(|state| {
            let puts = std::mem::take(&mut state.puts);
            puts.iter().for_each(|put| state.answer(put.opaque));
        });
        let answered = tokio::time::timeout(Duration::from_millis(100), pending).await;
        if matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

/// A whole life with these settings: connected, used, lost, connected again, silent, idle, closed.
async fn live(config: ConnectionConfig) {
    let peer = Peer::default();
    let drains_long = config.drain_timeout > SOON;
    let pauses_short = config.initial_backoff.min(config.max_backoff) <= Duration::from_secs(1);
    let connection = peer.try_connect(config).await.unwrap();
    soon(store(&peer, &connection)).await;
    if pauses_short {
        let dials = peer.state().dials;
        peer.hang_up();
        eventually(|| peer.state().dials > dials).await;
        soon(store(&peer, &connection)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    soon(store(&peer, &connection)).await;
    let mut state = connection.state();
    drop(connection);
    if !drains_long {
        soon(state.wait_for(ConnectionState::is_closed)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_duration_may_have_any_value() {
    for (name, setting) in SETTINGS {
        for duration in durations() {
            println!("{name} = {duration:?}");
            let mut config = ConnectionConfig::default();
            *setting(&mut config) = duration;
            live(config).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_durations_may_have_any_value_together() {
    for seed in 0..24 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut config = ConnectionConfig::default();
        for (_, setting) in SETTINGS {
            *setting(&mut config) = durations()[random.usize(..5)];
        }
        println!("{seed}: {config:?}");
        live(config).await;
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_may_be_past_or_in_the_far_future() {
    let far = (0..10).fold(Instant::now(), |now, _| deadline::after(now, Duration::MAX));
    let farthest =
        (0..64).rev().fold(far, |far, bit| far.checked_add(Duration::from_secs(1 << bit)).unwrap_or(far));
    let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now);
    let peer = Peer::default();
    let mut config = ConnectionConfig::default();
    config.max_in_flight = 2;
    let connection = peer.connect(config).await;
    for far in [far, farthest] {
        let pending = submit(&connection, "far", far).unwrap();
        let overdue = submit(&connection, "past", past).unwrap();
        let waiting = connection.submit_when_free(&mut put("past"), past).await;
        assert_eq!(waiting.map(drop).unwrap_err().kind(), TransportErrorKind::TimedOut);
        let mut waits_long = put("far");
        let waits_long = connection.submit_when_free(&mut waits_long, far);
        let (overdue, waits_long) = tokio::join!(overdue, waits_long);
        assert_eq!(overdue.unwrap_err().kind(), TransportErrorKind::TimedOut);
        let waits_long = waits_long.unwrap();
        for put in peer.puts(2).await {
            peer.answer(put.opaque);
        }
        assert!(soon(pending).await.is_ok() && soon(waits_long).await.is_ok());
    }
    connection.expire(past);
    connection.expire(farthest);
    connection.close(farthest);
    until(&connection, ConnectionState::is_closed).await;
    let connection = peer.connect(ConnectionConfig::default()).await;
    let pending = submit(&connection, "x", farthest).unwrap();
    connection.close(farthest);
    tokio::time::sleep(Duration::from_secs(3)).await;
    peer.answer(peer.puts(1).await[0].opaque);
    assert!(soon(pending).await.is_ok());
    let connection = peer.connect(ConnectionConfig::default()).await;
    connection.close(past);
    until(&connection, ConnectionState::is_closed).await;
}
