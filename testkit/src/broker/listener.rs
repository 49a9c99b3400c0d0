//! The broker's connections.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    BrokerShared,
    connection::{Connection, NextStep},
    faults::Behaviour,
};

/// The stream of a connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Room for one read.
const READ_CAPACITY: usize = 64 * 1024;

/// The time for which what a client still sends is read after a connection was closed. Without that the system would tell the
/// client of a broken connection, and answers that are on their way would be lost.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// The time for which no connection is accepted after that failed, as it does while the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts TCP connections.
pub(super) trait Listen: Send {
    fn accept(&self) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

impl Listen for TcpListener {
    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Serves every connection until it is told to stop, or the returned future is dropped; all connections end with it. If it
/// is told to, none of their tasks runs any more when it is done.
pub(super) async fn accept(
    listener: Option<impl Listen>,
    mut streams: mpsc::UnboundedReceiver<Box<dyn Io>>,
    shared: Arc<BrokerShared>,
    stop: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    {
        let accepting = accept_until_stopped(listener.as_ref(), &mut streams, &shared, &mut connections);
        tokio::select! {
            biased;
            // Without a sender nobody waits for the end; the task is aborted then.
            Ok(()) = stop => {}
            () = accepting => {}
        }
    }
    drop((listener, streams));
    connections.shutdown().await;
}

async fn accept_until_stopped(
    listener: Option<&impl Listen>,
    streams: &mut mpsc::UnboundedReceiver<Box<dyn Io>>,
    shared: &Arc<BrokerShared>,
    connections: &mut JoinSet<io::Result<()>>,
) {
    let mut behaviour = shared.faults.behaviour();
    let mut paused_until = None::<Instant>;
    let accepted = async |is_paused: bool| match listener {
        Some(listener) if !is_paused => listener.accept().await,
        _ => std::future::pending().await,
    };
    let end_of_pause = async |paused_until: Option<Instant>| match paused_until {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    };
    loop {
        if behaviour.wait_for(|behaviour| !behaviour.frozen).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            accepted = accepted(paused_until.is_some()) => match accepted {
                Ok(stream) => {
                    if stream.set_nodelay(true).is_ok() {
                        spawn_connection(connections, stream, shared);
                    }
                }
                // It was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => paused_until = Some(Instant::now() + ACCEPT_PAUSE),
            },
            () = end_of_pause(paused_until) => paused_until = None,
            Some(stream) = streams.recv() => spawn_connection(connections, stream, shared),
            // It may have been the one whose descriptor was missing.
            Some(_) = connections.join_next() => paused_until = None,
            _ = behaviour.changed() => {}
        }
    }
}

fn spawn_connection(
    connections: &mut JoinSet<io::Result<()>>,
    stream: impl Io + 'static,
    shared: &Arc<BrokerShared>,
) {
    let number = shared.accepted.fetch_add(1, Ordering::AcqRel) + 1;
    let behaviour = shared.faults.behaviour();
    if behaviour.borrow().refuses {
        return;
    }
    shared.open.fetch_add(1, Ordering::AcqRel);
    shared.activity.notify_waiters();
    let connection = Connection::new(OpenConnection(Arc::clone(shared)), number);
    connections.spawn(drive(stream, connection, behaviour, number));
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenConnection(pub(super) Arc<BrokerShared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.activity.notify_waiters();
    }
}

/// Answers requests until the client goes, quits, is silent for too long, or sends what is no request. Like a real
/// broker it then closes without a word (protocol §2).
async fn drive(
    mut stream: impl Io,
    mut connection: Connection,
    mut behaviour: watch::Receiver<Behaviour>,
    number: usize,
) -> io::Result<()> {
    let Behaviour { closings, strandings, .. } = *behaviour.borrow();
    let mut last_read = Instant::now();
    loop {
        if behaviour.borrow().strandings != strandings {
            // What it owes is never answered.
            connection.abandon();
            drop(connection);
            return strand(stream, behaviour, closings).await;
        }
        let closes_or_strands =
            |behaviour: &Behaviour| behaviour.closings != closings || behaviour.strandings != strandings;
        let free = behaviour.wait_for(|behaviour| !behaviour.frozen || closes_or_strands(behaviour)).await;
        let Ok(cut) = free.map(|behaviour| (behaviour.closings == closings).then(|| behaviour.cut(number)))
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

/// Reads everything and answers nothing, until the client goes or all connections are closed.
async fn strand(
    mut stream: impl Io,
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

async fn close(mut stream: impl Io) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let drained = timeout(DRAIN_TIMEOUT, async { while stream.read_exact(&mut rest).await.is_ok() {} });
    // The client may go on sending; it was told.
    let _ = drained.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Broker;

    /// A listener of a process without descriptors.
    struct WithoutDescriptors(Arc<std::sync::atomic::AtomicUsize>);

    impl Listen for WithoutDescriptors {
        async fn accept(&self) -> io::Result<TcpStream> {
            // Were it asked without a pause, the clock would stand still.
            assert!(self.0.fetch_add(1, Ordering::AcqRel) < 1000, "accepting doesn't pause");
            tokio::task::yield_now().await;
            Err(io::Error::from_raw_os_error(24))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_pauses_while_there_are_no_descriptors() {
        let broker = Broker::builder().start_without_port().unwrap();
        let attempts = Arc::default();
        let (_sender, streams) = mpsc::unbounded_channel();
        let (_stop, stopped) = oneshot::channel();
        let listener = WithoutDescriptors(Arc::clone(&attempts));
        let serving = accept(Some(listener), streams, Arc::clone(&broker.shared), stopped);
        let waited = timeout(Duration::from_secs(10), serving);
        assert!(waited.await.is_err());
        assert!((50..=101).contains(&attempts.load(Ordering::Acquire)), "{attempts:?}");
    }
}
