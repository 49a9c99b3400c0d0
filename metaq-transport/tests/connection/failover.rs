//! A connection that is silent is replaced by one beside it, and an attempt that isn't answered holds up no
//! other.

use std::{io, sync::Arc, time::Duration};

use metaq_protocol::BrokerAddr;
use metaq_transport::{
    Connection, ConnectionConfig, ConnectionState, Progress, TcpTransport, Transport as _, TransportErrorKind,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

fn is_stalled(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Stalled)
}

/// A connection whose only put is unanswered, and since when it is stalled.
async fn stalled(peer: &Peer) -> (Arc<dyn Connection>, metaq_transport::PendingResponse) {
    let connection = peer.connect(ConnectionConfig::default()).await;
    peer.set(|state| state.greets = false);
    let pending = submit(&connection, "first", after(60_000)).unwrap();
    until(&connection, is_stalled).await;
    (connection, pending)
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_replaced_within_1500_ms() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    let mut states = connection.state();
    let began = Instant::now();
    peer.set(State::strand);
    let lost = submit(&connection, "swallowed", after(60_000)).unwrap();
    until(&connection, is_stalled).await;
    assert!(began.elapsed() >= SECOND);
    states.mark_unchanged();
    soon(states.wait_for(|state| !is_stalled(state))).await.unwrap();
    let error = soon(lost).await.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written));
    assert!(whole_text(&error).contains("answered on a new one"), "{error:?}");
    works(&peer, &connection).await;
    let took = began.elapsed();
    assert!(took <= Duration::from_millis(1350), "{took:?}");
    let stats = connection.stats();
    assert_eq!((stats.established, stats.in_flight), (2, 0));
    assert_eq!(peer.dials_and_streams(), (2, vec![2]));
}

#[tokio::test(start_paused = true)]
async fn an_idle_half_open_connection_is_replaced_after_a_heartbeat() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    let began = Instant::now();
    peer.set(State::strand);
    until(&connection, is_stalled).await;
    until(&connection, ConnectionState::is_ready).await;
    let took = began.elapsed();
    assert!(took <= Duration::from_millis(11_350), "{took:?}");
    assert_eq!(connection.stats().established, 2);
}

#[tokio::test(start_paused = true)]
async fn short_deadlines_do_not_hide_a_silent_connection() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    let began = Instant::now();
    peer.set(State::strand);
    // One after another, so that nothing is owed in between but a heartbeat.
    while connection.stats().established == 1 {
        if let Ok(pending) = submit(&connection, "x", after(100)) {
            assert!(soon(pending).await.is_err());
        }
        sleep(Duration::from_millis(1)).await;
        assert!(began.elapsed() <= Duration::from_millis(1500), "{:?}", began.elapsed());
    }
    works(&peer, &connection).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_let_in_and_was_silent_is_used_within_a_second() {
    let mut longest = Duration::ZERO;
    for round in 0..100 {
        let peer = Peer::default();
        peer.set(|state| state.greets = false);
        let connection = peer.try_connect(ConnectionConfig::default()).await.unwrap();
        let heals = after(fastrand::u64(..8_000));
        while Instant::now() < heals {
            sleep(Duration::from_millis(10)).await;
            assert!(peer.state().streams().len() <= 2, "{:?}", peer.state().streams());
        }
        // What was let in before is never answered.
        peer.set(|state| {
            state.strand();
            state.greets = true;
        });
        let healed = Instant::now();
        until(&connection, ConnectionState::is_ready).await;
        longest = longest.max(healed.elapsed());
        assert!(healed.elapsed() <= Duration::from_millis(770), "round {round}: {:?}", healed.elapsed());
        assert_eq!(peer.state().streams().len(), 1);
        works(&peer, &connection).await;
    }
    assert!(longest >= Duration::from_millis(250), "{longest:?}: it was silent");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_long_to_answer_is_still_reached() {
    let peer = Peer::default();
    peer.set(|state| state.greets = false);
    let connection = peer.try_connect(ConnectionConfig::default()).await.unwrap();
    eventually(|| peer.state().streams() == [1]).await;
    sleep(Duration::from_millis(2900)).await;
    let dials = peer.state().dials;
    assert!((4..=12).contains(&dials), "{dials}: others were tried beside it, after pauses");
    peer.set(|state| state.answer_greetings_on(1));
    until(&connection, ConnectionState::is_ready).await;
    assert_eq!(peer.state().streams(), [1]);
    peer.set(|state| state.greets = true);
    works(&peer, &connection).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_was_frozen_keeps_its_connection() {
    for gap in [0, 1, 50, 200] {
        let peer = Peer::default();
        let (connection, pending) = stalled(&peer).await;
        sleep(Duration::from_secs(2)).await;
        let dials = peer.state().dials;
        assert!((3..=10).contains(&dials), "{dials}");
        assert!(peer.state().streams().len() <= 2);
        // It answers the new connection first, and somewhat later the old one.
        let put = peer.puts(1).await.pop().unwrap();
        peer.set(|state| {
            state.streams().into_iter().skip(1).for_each(|dial| state.answer_greetings_on(dial))
        });
        sleep(Duration::from_millis(gap)).await;
        assert!(is_stalled(&connection.state().borrow()));
        peer.set(|state| {
            state.answer(put.opaque);
            state.answer_greetings_on(1);
            state.greets = true;
        });
        assert!(soon(pending).await.is_ok());
        works(&peer, &connection).await;
        eventually(|| peer.state().streams() == [1]).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!((connection.stats().established, peer.state().streams()), (1, vec![1]));
        assert!(connection.state().borrow().is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_only_slow_is_not_dialled_again() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    for _ in 0..5 {
        let pending = submit(&connection, "x", after(60_000)).unwrap();
        let put = peer.puts(1).await.pop().unwrap();
        // Heartbeats are answered meanwhile.
        sleep(Duration::from_millis(4_500)).await;
        peer.answer(put.opaque);
        assert!(soon(pending).await.is_ok());
    }
    let dials = peer.state().dials;
    assert_eq!((dials, connection.stats().established), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_bytes_is_not_replaced() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    peer.set(|state| state.set_write_on(1, Some(Mode::Bytes(1000))));
    let pending = submit(&connection, vec![b'x'; 40_000], after(60_000)).unwrap();
    until(&connection, is_stalled).await;
    // A second attempt is answered, and waits.
    for _ in 0..35 {
        peer.set(|state| state.set_write_on(1, Some(Mode::Bytes(1000))));
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(peer.dials_and_streams(), (2, vec![1, 2]));
    peer.set(|state| state.set_write_on(1, None));
    peer.answer(peer.puts(1).await[0].opaque);
    assert!(soon(pending).await.is_ok());
    assert_eq!((connection.stats().established, peer.state().streams()), (1, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn connections_without_responses_are_replaced_less_and_less() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    // Only the first request of a connection is answered.
    let began = Instant::now();
    let mut replaced = Vec::new();
    while began.elapsed() < Duration::from_secs(60) {
        let _ = submit(&connection, "x", after(500));
        let known = connection.stats().established;
        peer.set(|state| {
            if state.streams().len() == 1 {
                state.strand();
            }
        });
        sleep(Duration::from_millis(10)).await;
        if connection.stats().established != known {
            replaced.push(began.elapsed());
        }
    }
    let last = replaced.windows(2).last().map(|two| two[1] - two[0]).unwrap();
    assert!(replaced[0] <= Duration::from_millis(1400), "{replaced:?}");
    assert!(last >= Duration::from_secs(5) && replaced.len() <= 16, "{replaced:?}");
}

#[tokio::test(start_paused = true)]
async fn the_second_connection_serves_when_the_silent_one_ends() {
    // The second attempt is answered before the first connection ends, or after it.
    for is_answered in [true, false] {
        let peer = Peer::default();
        let (connection, pending) = stalled(&peer).await;
        eventually(|| peer.state().streams() == [1, 2]).await;
        peer.set(|state| {
            if is_answered {
                state.answer_greetings_on(2);
            }
        });
        sleep(Duration::from_millis(20)).await;
        peer.set(|state| state.hang_up_on(1));
        assert!(soon(pending).await.is_err());
        peer.set(|state| {
            state.answer_greetings_on(2);
            state.greets = true;
        });
        let began = Instant::now();
        until(&connection, ConnectionState::is_ready).await;
        assert!(began.elapsed() <= Duration::from_millis(5), "{:?}", began.elapsed());
        assert_eq!(peer.dials_and_streams(), (2, vec![2]));
        works_after_stall(&peer, &connection).await;
    }
}

/// The connection works, and the broker has the put from before.
async fn works_after_stall(peer: &Peer, connection: &Arc<dyn Connection>) {
    let first = peer.puts(1).await.pop().unwrap();
    assert_eq!(payload(&first), "first");
    works(peer, connection).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_that_ends_before_it_serves_is_made_anew() {
    let peer = Peer::default();
    let (connection, pending) = stalled(&peer).await;
    eventually(|| peer.state().streams() == [1, 2]).await;
    peer.set(|state| {
        state.answer_greetings_on(2);
        state.greets = true;
    });
    sleep(Duration::from_millis(100)).await;
    peer.set(|state| state.hang_up_on(2));
    eventually(|| peer.state().streams() == [1, 3]).await;
    assert_eq!(connection.stats().established, 1);
    assert!(soon(pending).await.is_err());
    until(&connection, ConnectionState::is_ready).await;
    assert_eq!(peer.state().streams(), [3]);
    works_after_stall(&peer, &connection).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_what_is_beside_a_connection_does_not_end_it() {
    let peer = Peer::default();
    let (connection, pending) = stalled(&peer).await;
    peer.set(|state| state.dial = Mode::Panics);
    eventually(|| peer.state().dials >= 4).await;
    peer.set(|state| {
        state.dial = Mode::Works;
        (4..100).for_each(|dial| state.set_write_on(dial, Some(Mode::Panics)));
    });
    let dials = peer.state().dials;
    eventually(|| peer.state().dials >= dials + 3).await;
    let put = peer.puts(1).await.pop().unwrap();
    peer.set(|state| {
        (4..100).for_each(|dial| state.set_write_on(dial, None));
        state.greets = true;
        state.answer(put.opaque);
    });
    assert!(soon(pending).await.is_ok());
    works(&peer, &connection).await;
    assert_eq!(connection.stats().established, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_to_the_first_request_meets_no_other_request() {
    let peer = Peer::default();
    peer.set(|state| state.greets = false);
    let connection = peer.try_connect(ConnectionConfig::default()).await.unwrap();
    eventually(|| peer.state().streams() == [1]).await;
    peer.set(|state| {
        let opaque = state.first_greeting_on(1).unwrap();
        state.answer_on(1, opaque);
        state.answer_on(1, opaque);
    });
    until(&connection, ConnectionState::is_ready).await;
    let mut pending = submit(&connection, "x", after(60_000)).unwrap();
    let put = peer.puts(1).await.pop().unwrap();
    peer.set(|state| {
        let opaque = state.first_greeting_on(1).unwrap();
        state.answer_on(1, opaque);
    });
    assert!(timeout(Duration::from_millis(5), &mut pending).await.is_err());
    peer.answer(put.opaque);
    assert!(soon(pending).await.is_ok());
    let stats = connection.stats();
    assert_eq!((stats.answered, stats.ignored_responses), (1, 2));
}

/// The progress of the second connection when the first is closed.
#[derive(Clone, Copy, Debug)]
enum Second {
    Dialling,
    Unanswered,
    Answered,
    Pausing,
}

#[tokio::test(start_paused = true)]
async fn closing_is_bounded_at_any_state_of_the_second_connection() {
    for second in [Second::Dialling, Second::Unanswered, Second::Answered, Second::Pausing] {
        for drops in [false, true] {
            let peer = Peer::default();
            let mut config = ConnectionConfig::default();
            config.drain_timeout = Duration::from_millis(200);
            let connection = peer.connect(config).await;
            peer.set(|state| {
                state.greets = false;
                state.dial = match second {
                    Second::Dialling => Mode::Hangs,
                    Second::Pausing => Mode::Fails,
                    _ => Mode::Works,
                };
            });
            let pending = submit(&connection, "x", after(60_000)).unwrap();
            eventually(|| peer.state().dials >= 2).await;
            if let Second::Answered = second {
                sleep(Duration::from_millis(1)).await;
                peer.set(|state| state.answer_greetings_on(2));
                sleep(Duration::from_millis(20)).await;
            }
            let (began, mut state) = (Instant::now(), connection.state());
            assert!(is_stalled(&state.borrow()), "{second:?}");
            match drops {
                true => drop(connection),
                false => connection.close(after(200)),
            }
            // The second connection is given up at once, the first is awaited.
            sleep(Duration::from_millis(20)).await;
            assert_eq!(peer.state().streams(), [1], "{second:?}");
            let error = soon(pending).await.unwrap_err();
            assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Closed, Progress::Written));
            soon(state.wait_for(ConnectionState::is_closed)).await.unwrap();
            assert!(began.elapsed() <= Duration::from_millis(220), "{second:?} {:?}", began.elapsed());
            let tasks = || Handle::current().metrics().num_alive_tasks();
            eventually(|| tasks() == 0 && peer.state().streams().is_empty()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_while_two_attempts_are_unanswered_ends_both() {
    let peer = Peer::default();
    peer.set(|state| state.greets = false);
    let connection = peer.try_connect(ConnectionConfig::default()).await.unwrap();
    eventually(|| peer.state().streams().len() == 2).await;
    let began = Instant::now();
    connection.close(after(60_000));
    until(&connection, ConnectionState::is_closed).await;
    assert!(began.elapsed() <= Duration::from_millis(5));
    assert!(peer.state().streams().is_empty());
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    sleep_until(after(10_000)).await;
    assert_eq!(peer.state().dials, 2);
}

/// A system that goes on sending what a connection held would have it stored after what goes over the new
/// one.
#[tokio::test]
async fn what_a_replaced_connection_holds_is_discarded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = BrokerAddr::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let peer = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        answer_version(&mut first).await;
        let (mut second, _) = listener.accept().await.unwrap();
        answer_version(&mut second).await;
        // What was sent on the first one is never read, until its end.
        let ended = async {
            let mut bytes = Vec::new();
            loop {
                match first.read_buf(&mut bytes).await {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => return Some(error.kind()),
                }
            }
        };
        (ended.await, second)
    });
    let connection = TcpTransport::default().connect(&addr).await.unwrap();
    until(&connection, ConnectionState::is_ready).await;
    let lost = submit(&connection, "held", after(60_000)).unwrap();
    let error = soon(lost).await.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, Progress::Written));
    let (end, _second) = soon(peer).await.unwrap();
    assert_eq!(end, Some(io::ErrorKind::ConnectionReset), "it was aborted, not closed");
}

/// Answers one request for the broker's version.
async fn answer_version(stream: &mut TcpStream) {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    let line = String::from_utf8(line).unwrap();
    let opaque = line.trim_end().strip_prefix("version ").unwrap();
    stream.write_all(format!("result 200 1 {opaque}\r\n1").as_bytes()).await.unwrap();
}
