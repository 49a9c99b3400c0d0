//! Reading and writing the stream of one connection.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::connection::{Connection, NextStep};
use crate::{broker::faults::Behaviour, connector::ByteStream};

/// The number of bytes that one read reserves.
const READ_CAPACITY: usize = 64 * 1024;

/// The time for which input is still read after a connection was closed. Otherwise the system would reset the
/// connection, and the client would lose responses in transit.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// Answers requests until the client disconnects, quits, is idle for too long, or sends a malformed request.
/// Like a Java broker it then closes the connection without a response (protocol §2).
pub(super) async fn drive(
    mut stream: impl ByteStream,
    mut connection: Connection,
    mut behaviour: watch::Receiver<Behaviour>,
    number: usize,
) -> io::Result<()> {
    let Behaviour { closings, strandings, .. } = *behaviour.borrow();
    let mut last_read = Instant::now();
    loop {
        if behaviour.borrow().strandings != strandings {
            // Outstanding responses are dropped.
            connection.abandon();
            drop(connection);
            return strand(stream, behaviour, closings).await;
        }
        let closes_or_strands =
            |behaviour: &Behaviour| behaviour.closings != closings || behaviour.strandings != strandings;
        let free = behaviour.wait_for(|behaviour| !behaviour.frozen || closes_or_strands(behaviour)).await;
        let Ok(cut) =
            free.map(|behaviour| (behaviour.closings == closings).then(|| behaviour.cut_after(number)))
        else {
            return Ok(());
        };
        let Some(cut) = cut else { return Ok(()) };
        if behaviour.borrow().strandings != strandings {
            continue;
        }
        let mut next = connection.process_input();
        connection.notify();
        if connection.cut_output(cut) {
            next = NextStep::Close;
        }
        connection.mark_answered();
        tokio::select! {
            biased;
            _ = behaviour.wait_for(closes_or_strands) => continue,
            written = stream.write_all_buf(&mut connection.output) => written?,
        }
        match next {
            NextStep::Close => {
                connection.abandon();
                return close(stream).await;
            }
            NextStep::Continue => continue,
            NextStep::Read => {}
        }
        connection.input.reserve(READ_CAPACITY);
        let silent_until = last_read + connection.idle_timeout();
        let due = connection.next_due();
        tokio::select! {
            biased;
            _ = behaviour.changed() => {}
            () = sleep_until(due.unwrap_or(silent_until)), if due.is_some() => {}
            read = stream.read_buf(&mut connection.input) => match read? {
                0 => return Ok(()),
                _ => last_read = Instant::now(),
            },
            () = sleep_until(silent_until) => {
                connection.abandon();
                return close(stream).await;
            }
        }
    }
}

/// Reads everything and answers nothing, until the client disconnects or all connections are closed.
async fn strand(
    mut stream: impl ByteStream,
    mut behaviour: watch::Receiver<Behaviour>,
    closings: u64,
) -> io::Result<()> {
    let mut rest = BytesMut::new();
    let swallow = async {
        while stream.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        _ = behaviour.wait_for(|behaviour| behaviour.closings != closings) => Ok(()),
        swallowed = swallow => swallowed,
    }
}

async fn close(mut stream: impl ByteStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let drained = timeout(DRAIN_TIMEOUT, async { while stream.read_exact(&mut rest).await.is_ok() {} });
    // The client may go on sending after the shutdown.
    let _ = drained.await;
    Ok(())
}
