//! The broker's connections.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Shared,
    faults::Conduct,
    talk::{Next, Talk},
};

/// What a connection goes over.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Room for one read.
const READ: usize = 64 * 1024;

/// How long what a client still sends is read after a connection was closed. Without that the system would tell the
/// client of a broken connection, and answers that are on their way would be lost.
const LINGER: Duration = Duration::from_millis(200);

/// Serves every connection until the returned future is dropped; all connections end with it.
pub(super) async fn accept(
    listener: Option<TcpListener>,
    mut streams: mpsc::UnboundedReceiver<Box<dyn Io>>,
    shared: Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    let mut conduct = shared.faults.conduct();
    let next = async |listener: &Option<TcpListener>| match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    };
    loop {
        if conduct.wait_for(|conduct| !conduct.frozen).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            accepted = next(&listener) => {
                // A connection that was gone before it was accepted is no reason to stop.
                let Ok((stream, _)) = accepted else { continue };
                if stream.set_nodelay(true).is_ok() {
                    serve_one(&mut connections, stream, &shared);
                }
            }
            Some(stream) = streams.recv() => serve_one(&mut connections, stream, &shared),
            Some(_) = connections.join_next() => {}
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
    let talk = Talk::new(OpenConnection(Arc::clone(shared)), number);
    connections.spawn(serve(stream, talk, conduct, number));
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenConnection(pub(super) Arc<Shared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers requests until the client goes, quits, is silent for too long, or sends what is no request. Like a real
/// broker it then closes without a word (wire rule 2).
async fn serve(
    mut stream: impl Io,
    mut talk: Talk,
    mut conduct: watch::Receiver<Conduct>,
    number: usize,
) -> io::Result<()> {
    let closings = conduct.borrow().closings;
    let mut last_news = Instant::now();
    loop {
        let free = conduct.wait_for(|conduct| !conduct.frozen || conduct.closings != closings).await;
        let Ok(cut) = free.map(|conduct| (conduct.closings == closings).then(|| conduct.cut(number))) else {
            return Ok(());
        };
        let Some(cut) = cut else { return Ok(()) };
        let mut next = talk.answer_all();
        if talk.cut_output(cut) {
            next = Next::Close;
        }
        talk.begin_to_write();
        tokio::select! {
            biased;
            _ = conduct.wait_for(|conduct| conduct.closings != closings) => return Ok(()),
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

async fn close(mut stream: impl Io) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let drained = timeout(LINGER, async { while stream.read_exact(&mut rest).await.is_ok() {} });
    // The client may go on sending; it was told.
    let _ = drained.await;
    Ok(())
}
