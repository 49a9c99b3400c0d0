//! The progress of requests when a connection is lost, stalls, hangs or is closed.

use std::{sync::Arc, time::Duration};

use metaq_transport::{ConnectionConfig, ConnectionState, Progress, TransportErrorKind};
use tokio::time::Instant;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn arrived_responses_are_delivered_before_a_write_error_fails() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    let log = Arc::new(Log::default());
    for token in 0..6_000 {
        submit_put(&connection, "x", after(60_000), &completions(&log), token).unwrap();
    }
    let puts = peer.puts(6_000).await;
    // More answers than are read at once, without waking anybody; then the connection breaks in a write.
    {
        let mut state = peer.state();
        puts.iter().skip(1).for_each(|put| state.answer(put.opaque));
        state.write = Mode::Fails;
    }
    submit_put(&connection, "y", after(60_000), &completions(&log), 9_999).unwrap();
    let events = log.take(6_001).await;
    let mut failed = Vec::new();
    for event in events {
        match event {
            Event::Ended(_, Ok(_)) => {}
            Event::Ended(token, Err(error)) => failed.push((token, error.kind(), error.progress())),
            other => panic!("{other:?}"),
        }
    }
    failed.sort_by_key(|(token, ..)| *token);
    let lost = |token, progress| (token, TransportErrorKind::Lost, progress);
    assert_eq!(failed, [lost(0, Progress::Written), lost(9_999, Progress::NotWritten)]);
    assert_eq!(connection.stats().answered, 5_999);
}

#[tokio::test(start_paused = true)]
async fn overdue_requests_are_not_written_when_the_stream_resumes() {
    let peer = Peer::default();
    let mut config = ConnectionConfig::default();
    config.stall_after = Duration::from_secs(60);
    config.heartbeat_timeout = Duration::from_secs(60);
    let connection = peer.connect(config).await;
    peer.set(|state| state.write = Mode::Bytes(10));
    let begun = submit(&connection, "begun", after(100)).unwrap();
    let unwritten = submit(&connection, "unwritten", after(100)).unwrap();
    let later = submit(&connection, "later", after(60_000)).unwrap();
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    // Time passes while the task doesn't run: both deadlines are over when the stream is tried again.
    peer.set(|state| state.write = Mode::Works);
    tokio::time::advance(Duration::from_millis(150)).await;
    let puts = peer.puts(2).await;
    assert_eq!((payload(&puts[0]), payload(&puts[1])), ("begun".into(), "later".into()));
    assert_eq!(soon(begun).await.unwrap_err().progress(), Progress::Written);
    let error = soon(unwritten).await.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::TimedOut, Progress::NotWritten));
    peer.answer(puts[1].opaque);
    assert!(soon(later).await.is_ok());

    // The same for what the task has not begun to write.
    let overdue = submit(&connection, "overdue", Instant::now() - Duration::from_millis(1)).unwrap();
    let next = submit(&connection, "next", after(60_000)).unwrap();
    let puts = peer.puts(1).await;
    assert_eq!(payload(&puts[0]), "next");
    assert_eq!(soon(overdue).await.unwrap_err().progress(), Progress::NotWritten);
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_hangs_does_not_stop_the_clock() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    peer.set(|state| (state.write, state.shutdown) = (Mode::Hangs, Mode::Hangs));
    let started = Instant::now();
    let short = submit(&connection, "x", after(50)).unwrap();
    let long = submit(&connection, "y", after(60_000)).unwrap();
    let error = soon(short).await.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::TimedOut, Progress::NotWritten));
    assert!(started.elapsed() < Duration::from_millis(60));
    connection.close(after(200));
    let error = soon(long).await.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Closed, Progress::NotWritten));
    until(&connection, ConnectionState::is_closed).await;
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());

    // With nothing outstanding a goodbye that hangs is given up.
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    peer.set(|state| state.shutdown = Mode::Hangs);
    let started = Instant::now();
    connection.close(after(200));
    until(&connection, ConnectionState::is_closed).await;
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    peer.set(|state| state.shutdown = Mode::Hangs);
    connection.close(after(600_000));
    until(&connection, ConnectionState::is_closed).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_late_response_or_the_connections_end_releases_a_request() {
    let peer = Peer::default();
    let mut config = ConnectionConfig::default();
    config.max_in_flight = 3;
    config.stall_after = Duration::from_secs(60);
    config.heartbeat_timeout = Duration::from_secs(60);
    let connection = peer.connect(config).await;
    let log = Arc::new(Log::default());
    for token in 0..3 {
        submit_put(&connection, "x", after(100), &completions(&log), token).unwrap();
    }
    let puts = peer.puts(3).await;
    peer.set(|state| state.write = Mode::Hangs);
    let mut ended: Vec<_> = log.take(3).await.iter().map(Event::token).collect();
    ended.sort_unstable();
    assert_eq!(ended, [0, 1, 2]);
    submit_put(&connection, "not written", after(100), &completions(&log), 3).unwrap();
    assert!(matches!(log.take(1).await[..], [Event::Ended(3, Err(_))]));
    peer.answer(puts[1].opaque);
    peer.answer(puts[1].opaque);
    assert!(matches!(log.take(1).await[..], [Event::Released(1)]));
    peer.hang_up();
    let mut released: Vec<_> = log
        .take(2)
        .await
        .iter()
        .map(|event| match event {
            Event::Released(token) => *token,
            other => panic!("{other:?}"),
        })
        .collect();
    released.sort_unstable();
    assert_eq!((released, log.len()), (vec![0, 2], 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connection_waits_for_late_responses_unlike_close() {
    for (closes, answers, wanted) in [(false, true, 1_100), (false, false, 5_000), (true, false, 100)] {
        let peer = Peer::default();
        let mut config = ConnectionConfig::default();
        config.stall_after = Duration::from_secs(60);
        config.heartbeat_timeout = Duration::from_secs(60);
        let connection = peer.connect(config).await;
        let log = Arc::new(Log::default());
        let started = Instant::now();
        submit_put(&connection, "x", after(100), &completions(&log), 7).unwrap();
        let puts = peer.puts(1).await;
        if closes {
            connection.close(after(60_000));
        }
        drop(connection);
        let mut events = log.take(1).await;
        assert!(matches!(events[0], Event::Ended(7, Err(_))));
        if answers {
            tokio::time::sleep_until(started + Duration::from_millis(1_100)).await;
            assert_eq!(log.len(), 0, "the broker may still store it");
            peer.answer(puts[0].opaque);
        }
        if events.len() == 1 {
            events.extend(log.take(1).await);
        }
        assert!(matches!(events[1..], [Event::Released(7)]));
        let took = started.elapsed().as_millis();
        assert!((wanted..wanted + 100).contains(&took), "{took} ms: {closes} {answers}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_submitted_to_a_connection_that_is_being_lost() {
    // A destructor, a listener or a watcher that runs while the connection is lost submits: it is refused.
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    let log = Arc::new(Resubmits::default());
    *log.connection.lock().unwrap() = Some(Arc::clone(&connection));
    let listener = Arc::clone(&log) as Arc<dyn metaq_transport::Completions>;
    for token in 0..10 {
        submit_put(&connection, "x", after(60_000), &listener, token).unwrap();
    }
    peer.puts(10).await;
    peer.hang_up();
    eventually(|| !log.kinds.lock().unwrap().is_empty()).await;
    assert_eq!(*log.kinds.lock().unwrap(), [Err(TransportErrorKind::NotConnected)]);
    log.connection.lock().unwrap().take();
}

#[tokio::test(start_paused = true)]
async fn requests_submitted_during_a_loss_are_known_to_be_unwritten() {
    for way in 0..3 {
        let peer = Peer::default();
        let connection = peer.connect(ConnectionConfig::default()).await;
        let log = Arc::new(Log::default());
        let submitted = Arc::new(std::sync::Mutex::new(None));
        let on_drop = {
            let (connection, log) = (Arc::clone(&connection), completions(&log));
            let submitted = Arc::clone(&submitted);
            move || {
                let result = submit_put(&connection, "in between", after(60_000), &log, 7);
                *submitted.lock().unwrap() = Some(result.map_err(|error| error.kind()));
            }
        };
        submit_put(&connection, "x", after(60_000), &completions(&log), 1).unwrap();
        peer.puts(1).await;
        peer.state().on_drop = Some(Box::new(on_drop));
        match way {
            0 => peer.hang_up(),
            1 => {
                peer.state().write = Mode::Fails;
                submit_put(&connection, "y", after(60_000), &completions(&log), 2).unwrap();
            }
            // It answers no heartbeat.
            _ => peer.state().greets = false,
        }
        eventually(|| submitted.lock().unwrap().is_some()).await;
        let accepted = submitted.lock().unwrap().take().unwrap();
        // The puts that were written, and the one that could not be.
        eventually(|| log.len() > usize::from(way == 1)).await;
        for event in log.take_now() {
            let Event::Ended(token, Err(error)) = event else { panic!("{event:?}") };
            let written = if token == 1 { Progress::Written } else { Progress::NotWritten };
            assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Lost, written), "{token}");
        }
        assert_eq!(accepted, Err(TransportErrorKind::NotConnected));
    }
}

/// Submits once more when an outcome is reported.
#[derive(Debug, Default)]
struct Resubmits {
    connection: std::sync::Mutex<Option<Arc<dyn metaq_transport::Connection>>>,
    kinds: std::sync::Mutex<Vec<Result<(), TransportErrorKind>>>,
}

impl metaq_transport::Completions for Resubmits {
    fn completed(
        &self,
        completed: &mut Vec<(
            u64,
            Result<metaq_transport::ReceivedResponse, metaq_transport::TransportError>,
        )>,
    ) {
        completed.clear();
        let connection = self.connection.lock().unwrap().clone().unwrap();
        let result = submit(&connection, "again", after(60_000));
        self.kinds.lock().unwrap().push(result.map(drop).map_err(|error| error.kind()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_takes_back_exactly_what_was_not_begun() {
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    peer.set(|state| (state.write, state.greets) = (Mode::Bytes(70), false));
    let log = Arc::new(Log::default());
    for token in 0..10 {
        submit_put(&connection, "0123456789", after(60_000), &completions(&log), token).unwrap();
    }
    until(&connection, |state| matches!(state, ConnectionState::Stalled)).await;
    let events = log.take(1).await;
    for event in &events {
        let Event::Ended(_, Err(error)) = event else { panic!("{event:?}") };
        assert_eq!((error.kind(), error.progress()), (TransportErrorKind::Stalled, Progress::NotWritten));
    }
    peer.set(|state| state.write = Mode::Works);
    let begun = 10 - events.len();
    let puts = peer.puts(begun).await;
    assert!((1..4).contains(&begun), "{begun}");
    puts.iter().for_each(|put| peer.answer(put.opaque));
    for event in log.take(begun).await {
        assert!(matches!(event, Event::Ended(_, Ok(_))), "{event:?}");
    }
    assert!(peer.state().puts.is_empty(), "nothing else was written");
    assert_eq!(connection.stats().in_flight, 0);
}
