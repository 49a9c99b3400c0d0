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
    Shared,
    faults::Conduct,
    talk::{Next, Talk},
};

/// The stream of a connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Room for one read.
const READ: usize = 64 * 1024;

/// The time for which what a client still sends is read after a connection was closed. Without that the system would tell the
/// client of a broken connection, and answers that are on their way would be lost.
const LINGER: Duration = Duration::from_millis(200);

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
    shared: Arc<Shared>,
    stop: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    {
        let served = accept_all(listener.as_ref(), &mut streams, &shared, &mut connections);
        tokio::select! {
            biased;
            // Without a sender nobody waits for the end; the task is aborted then.
            Ok(()) = stop => {}
            () = served => {}
        }
    }
    drop((listener, streams));
    connections.shutdown().await;
}

async fn accept_all(
    listener: Option<&impl Listen>,
    streams: &mut mpsc::UnboundedReceiver<Box<dyn Io>>,
    shared: &Arc<Shared>,
    connections: &mut JoinSet<io::Result<()>>,
) {
    let mut conduct = shared.faults.conduct();
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
        if conduct.wait_for(|conduct| !conduct.frozen).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            accepted = accepted(paused_until.is_some()) => match accepted {
                Ok(stream) => {
                    if stream.set_nodelay(true).is_ok() {
                        serve_one(connections, stream, shared);
                    }
                }
                // It was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => paused_until = Some(Instant::now() + ACCEPT_PAUSE),
            },
            () = end_of_pause(paused_until) => paused_until = None,
            Some(stream) = streams.recv() => serve_one(connections, stream, shared),
            // It may have been the one whose descriptor was missing.
            Some(_) = connections.join_next() => paused_until = None,
            _ = conduct.changed() => {}
        }
    }
}

fn serve_one(connections: &mut JoinSet<io::Result<()>>, stream: impl Io + 'static, shared: &Arc<Shared>) {
    let number = shared.accepted.fetch_add(1, Ordering::AcqRel) + 1;
    let conduct = shared.faults.conduct();
    if conduct.borrow().refuses {
        return;
    }
    shared.open.fetch_add(1, Ordering::AcqRel);
    shared.activity.notify_waiters();
    let talk = Talk::new(OpenConnection(Arc::clone(shared)), number);
    connections.spawn(serve(stream, talk, conduct, number));
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenConnection(pub(super) Arc<Shared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.activity.notify_waiters();
    }
}

/// Answers requests until the client goes, quits, is silent for too long, or sends what is no request. Like a real
/// broker it then closes without a word (protocol §2).
async fn serve(
    mut stream: impl Io,
    mut talk: Talk,
    mut conduct: watch::Receiver<Conduct>,
    number: usize,
) -> io::Result<()> {
    let Conduct { closings, strandings, .. } = *conduct.borrow();
    let mut last_news = Instant::now();
    loop {
        if conduct.borrow().strandings != strandings {
            // What it owes is never answered.
            talk.end();
            drop(talk);
            return strand(stream, conduct, closings).await;
        }
        let ends = |conduct: &Conduct| conduct.closings != closings || conduct.strandings != strandings;
        let free = conduct.wait_for(|conduct| !conduct.frozen || ends(conduct)).await;
        let Ok(cut) = free.map(|conduct| (conduct.closings == closings).then(|| conduct.cut(number))) else {
            return Ok(());
        };
        let Some(cut) = cut else { return Ok(()) };
        if conduct.borrow().strandings != strandings {
            continue;
        }
        let mut next = talk.answer_all();
        talk.notify();
        if talk.cut_output(cut) {
            next = Next::Close;
        }
        talk.begin_to_write();
        tokio::select! {
            biased;
            _ = conduct.wait_for(ends) => continue,
            written = stream.write_all_buf(&mut talk.output) => written?,
        }
        match next {
            Next::Close => {
                talk.end();
                return close(stream).await;
            }
            Next::GoOn => continue,
            Next::Read => {}
        }
        talk.input.reserve(READ);
        let silent_until = last_news + talk.idle_timeout();
        let due = talk.next_due();
        tokio::select! {
            biased;
            _ = conduct.changed() => {}
            () = sleep_until(due.unwrap_or(silent_until)), if due.is_some() => {}
            read = stream.read_buf(&mut talk.input) => match read? {
                0 => return Ok(()),
                _ => last_news = Instant::now(),
            },
            () = sleep_until(silent_until) => {
                talk.end();
                return close(stream).await;
            }
        }
    }
}

/// Reads everything and answers nothing, until the client goes or all connections are closed.
async fn strand(mut stream: impl Io, mut conduct: watch::Receiver<Conduct>, closings: u64) -> io::Result<()> {
    let mut rest = BytesMut::new();
    let swallow = async {
        while stream.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        _ = conduct.wait_for(|conduct| conduct.closings != closings) => Ok(()),
        swallowed = swallow => swallowed,
    }
}

async fn close(mut stream: impl Io) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let drained = timeout(LINGER, async { while stream.read_exact(&mut rest).await.is_ok() {} });
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
