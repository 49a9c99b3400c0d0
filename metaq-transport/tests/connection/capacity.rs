//! Capacity that is released is announced, whatever releases it.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use metaq_protocol::{Checksum, Command, Flag, PutCommand, PutData, Topic};
use metaq_transport::{
    Capacity, CompletionToken, Connection, ConnectionConfig, ConnectionState, Progress, Reservation,
    TransportErrorKind,
};

use crate::support::*;

fn at_most(requests: usize) -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.max_in_flight = requests;
    config
}

fn reserve(connection: &Arc<dyn Connection>, bytes: usize, log: &Arc<Log>, token: u64) -> Capacity {
    connection.reserve(bytes, CompletionToken { completions: &completions(log), token }).unwrap()
}

/// Returns the reservation that was reported to `log` with this token.
async fn granted(log: &Log, token: u64) -> Reservation {
    match log.take(1).await.pop().unwrap() {
        Event::Capacity(of, granted) if of == token => granted.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_releases_capacity_the_next_waiter_has_it() {
    let peer = Peer::default();
    let connection = peer.connect(at_most(1)).await;
    let log = Arc::new(Log::default());

    // A request of a future, as those of transactions, is answered.
    let pending = submit(&connection, "x", after(10_000)).unwrap();
    let wait = reserve(&connection, 10, &log, 1);
    assert!(matches!(wait, Capacity::Waiting(_)));
    peer.answer(peer.puts(1).await[0].opaque);
    let reservation = granted(&log, 1).await;
    assert!(pending.await.is_ok());
    assert_eq!(submit(&connection, "x", after(1)).unwrap_err().kind(), TransportErrorKind::Full);

    // A reservation is dropped.
    let wait = reserve(&connection, 10, &log, 2);
    drop(reservation);
    let reservation = granted(&log, 2).await;
    drop(wait);

    // A put with a reservation expires.
    submit_reserved(&connection, "y", after(100), &completions(&log), 3, reservation).unwrap();
    let wait = reserve(&connection, 10, &log, 4);
    let events = log.take(2).await;
    assert!(matches!(&events[..], [Event::Ended(3, Err(_)), Event::Capacity(4, Ok(_))]), "{events:?}");
    drop((wait, events));

    // A waiter leaves that was in the way of others: one that would wait for ever, as a large one.
    assert_eq!(connection.stats().in_flight, 0);
    let reservation = match reserve(&connection, 1, &log, 5) {
        Capacity::Reserved(reservation) => reservation,
        Capacity::Waiting(_) => panic!("there is capacity"),
    };
    let first = reserve(&connection, 1, &log, 6);
    let second = reserve(&connection, 1, &log, 7);
    drop(first);
    drop(reservation);
    drop(granted(&log, 7).await);
    drop(second);
    assert!(submit(&connection, "z", after(1_000)).is_ok(), "nothing is left reserved");
}

#[tokio::test(start_paused = true)]
async fn waiters_of_both_kinds_are_served_in_order_of_arrival() {
    let peer = Peer::default();
    let connection = peer.connect(at_most(1)).await;
    let log = Arc::new(Log::default());
    drop(submit(&connection, "x", after(60_000)).unwrap());
    let answer_next = async || peer.answer(peer.puts(1).await[0].opaque);

    let first = reserve(&connection, 10, &log, 1);
    let (mut a, mut b) = (put("a"), put("b"));
    let mut waits_a = pin!(connection.submit_when_free(&mut a, after(60_000)));
    assert!(futures_poll(waits_a.as_mut()).is_none());
    let second = reserve(&connection, 10, &log, 2);
    let mut waits_b = pin!(connection.submit_when_free(&mut b, after(60_000)));
    assert!(futures_poll(waits_b.as_mut()).is_none());

    answer_next().await;
    let reservation = granted(&log, 1).await;
    assert!(futures_poll(waits_a.as_mut()).is_none());
    drop(reservation);
    let pending = soon(waits_a).await.unwrap();
    assert_eq!(log.len(), 0, "it isn't the turn of the second");
    answer_next().await;
    assert!(soon(pending).await.is_ok());
    let reservation = granted(&log, 2).await;
    assert!(futures_poll(waits_b.as_mut()).is_none());
    submit_reserved(&connection, "c", after(60_000), &completions(&log), 3, reservation).unwrap();
    assert_eq!(payload(&peer.puts(1).await[0]), "c");
    connection.close(after(0));
    assert_eq!(soon(waits_b).await.unwrap_err().kind(), TransportErrorKind::Closed);
    drop((first, second));
}

/// Polls once without a waker.
fn futures_poll<T>(future: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_waiter_holds_its_own_share_alone() {
    let peer = Peer::default();
    let connection = peer.connect(at_most(3)).await;
    let pending: Vec<_> = (0..3).map(|_| submit(&connection, "x", after(60_000)).unwrap()).collect();
    let mut forgotten = put("forgotten");
    let mut forgotten = Box::pin(connection.submit_when_free(&mut forgotten, after(60_000)));
    assert!(futures_poll(forgotten.as_mut()).is_none());
    for put in peer.puts(3).await {
        peer.answer(put.opaque);
    }
    for pending in pending {
        assert!(soon(pending).await.is_ok());
    }
    let two = [0, 1].map(|_| submit(&connection, "y", after(60_000)).unwrap());
    let mut third = put("z");
    let third = connection.submit_when_free(&mut third, after(60_000));
    let mut third = pin!(third);
    assert!(futures_poll(third.as_mut()).is_none());
    drop(forgotten);
    assert!(soon(third).await.is_ok(), "what it held goes to the next");
    drop(two);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_expires_lets_the_next_go() {
    let peer = Peer::default();
    let mut config = ConnectionConfig::default();
    config.max_in_flight_bytes = 1_000;
    let connection = peer.connect(config).await;
    let log = Arc::new(Log::default());
    let _half = submit(&connection, vec![0; 500], after(60_000)).unwrap();
    // Larger than the whole limit: it may go alone only.
    let mut large = put(vec![1; 5_000]);
    let mut large = pin!(connection.submit_when_free(&mut large, after(100)));
    assert!(futures_poll(large.as_mut()).is_none());
    let _small = reserve(&connection, 100, &log, 1);
    assert_eq!(log.len(), 0, "nobody passes");
    let error = soon(large).await.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::TimedOut, Progress::NotWritten));
    drop(granted(&log, 1).await);

    let mut large = put(vec![1; 5_000]);
    let mut large = pin!(connection.submit_when_free(&mut large, after(60_000)));
    assert!(futures_poll(large.as_mut()).is_none());
    peer.answer(peer.puts(1).await[0].opaque);
    assert!(soon(large).await.is_ok());
    assert_eq!(peer.puts(1).await[0].data.to_bytes().len(), 5_000);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_notified_when_the_connection_stops_accepting() {
    for (kind, count) in [
        (TransportErrorKind::NotConnected, 0),
        (TransportErrorKind::Stalled, 1),
        (TransportErrorKind::Closed, 2),
    ] {
        let peer = Peer::default();
        let connection = peer.connect(at_most(1)).await;
        let log = Arc::new(Log::default());
        let _pending = submit(&connection, "x", after(60_000)).unwrap();
        peer.puts(1).await;
        let _place = reserve(&connection, 1, &log, 7);
        let waiting = tokio::spawn({
            let connection = Arc::clone(&connection);
            async move { connection.submit_when_free(&mut put("y"), after(60_000)).await.map(drop) }
        });
        tokio::task::yield_now().await;
        match count {
            0 => peer.hang_up(),
            // The broker owes an answer and is silent.
            1 => {
                peer.set(|state| state.greets = false);
                until(&connection, |state| matches!(state, ConnectionState::Stalled)).await;
            }
            _ => connection.close(after(60_000)),
        }
        match log.take(1).await.pop().unwrap() {
            Event::Capacity(7, Err(error)) => {
                assert_eq!((error.kind(), error.progress()), (kind, Progress::NotWritten));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(soon(waiting).await.unwrap().unwrap_err().kind(), kind);
        let error =
            connection.reserve(1, CompletionToken { completions: &completions(&log), token: 8 }).unwrap_err();
        assert!(error.kind() == kind || kind == TransportErrorKind::NotConnected, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reservation_outlives_a_loss() {
    let peer = Peer::default();
    let connection = peer.connect(at_most(1)).await;
    let log = Arc::new(Log::default());
    let Capacity::Reserved(reservation) = reserve(&connection, 10, &log, 1) else { panic!("nobody waits") };
    peer.hang_up();
    eventually(|| peer.state().dials == 2).await;
    until(&connection, ConnectionState::is_ready).await;
    assert_eq!(submit(&connection, "x", after(1)).unwrap_err().kind(), TransportErrorKind::Full);
    assert_eq!(connection.stats().in_flight, 0, "a reservation is no request");
    submit_reserved(&connection, "y", after(10_000), &completions(&log), 2, reservation).unwrap();
    peer.answer(peer.puts(1).await[0].opaque);
    assert!(matches!(log.take(1).await[..], [Event::Ended(2, Ok(_))]));
    // One of another connection is no capacity of this one.
    let other = Peer::default().connect(at_most(1)).await;
    let Capacity::Reserved(foreign) = reserve(&other, 10, &log, 3) else { panic!("nobody waits") };
    let _pending = submit(&connection, "z", after(10_000)).unwrap();
    let refused =
        submit_reserved(&connection, "w", after(10_000), &completions(&log), 4, foreign).unwrap_err();
    assert_eq!(refused.kind(), TransportErrorKind::Full);
    assert!(matches!(reserve(&other, 10, &log, 5), Capacity::Reserved(_)), "it went back");
}

#[tokio::test]
async fn limits_that_are_not_possible_are_refused_by_name() {
    let refused = async |config: ConnectionConfig| {
        let error = Peer::default().try_connect(config).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::InvalidConfig);
        std::error::Error::source(&error).unwrap().to_string()
    };
    let text = refused(at_most(70_000)).await;
    assert_eq!(text, "max_in_flight is 70000, but a connection can have from 1 to 65536");
    assert!(refused(at_most(0)).await.starts_with("max_in_flight is 0"));
    let mut config = ConnectionConfig::default();
    config.max_in_flight_bytes = 5 << 30;
    assert!(refused(config).await.contains("max_in_flight_bytes is 5368709120"));
    assert!(Peer::default().try_connect(at_most(65_536)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_frame_can_carry_is_refused_at_once() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    // Untouched pages take no memory, so that no checksum is computed either.
    let largest = metaq_protocol::MAX_BODY_LEN;
    let data = PutData::new(vec![0_u8; largest + 1].into(), None);
    let topic = Topic::new("t").unwrap();
    let put = PutCommand::from_checked(topic, 0, Flag::EMPTY, Checksum::NONE, data);
    let mut command = Command::from(put);
    let started = tokio::time::Instant::now();
    let refused = [
        connection.submit(&mut command, after(10_000)).unwrap_err(),
        connection.submit_when_free(&mut command, after(10_000)).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!((error.kind(), error.progress()), (TransportErrorKind::TooLarge, Progress::NotWritten));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(&largest.to_string()), "{error}: {cause}");
    }
    assert_eq!(started.elapsed(), std::time::Duration::ZERO);
    let pending = submit(&connection, "x", after(10_000)).unwrap();
    peer.answer(peer.puts(1).await[0].opaque);
    assert!(pending.await.is_ok());
    assert_eq!(connection.stats().requests, 1);
}
