//! Accepting connections, and running a task for each.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    connection::{Connection, OpenConnection},
    driver::drive,
};
use crate::{broker::shared::BrokerShared, connector::ByteStream};

/// The pause after accepting failed, as it does while the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts TCP connections.
pub(in crate::broker) trait Listen: Send {
    fn accept(&self) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

impl Listen for TcpListener {
    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Serves all connections until `stop` arrives or the returned future is dropped; the connections end with
/// it. After `stop`, no task of a connection runs any more when the future completes.
pub(in crate::broker) async fn accept_connections(
    listener: Option<impl Listen>,
    mut streams: mpsc::UnboundedReceiver<Box<dyn ByteStream>>,
    shared: Arc<BrokerShared>,
    stop: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    {
        let accepting = accept_until_stopped(listener.as_ref(), &mut streams, &shared, &mut connections);
        tokio::select! {
            biased;
            // Without a sender the task is aborted instead.
            Ok(()) = stop => {}
            () = accepting => {}
        }
    }
    drop((listener, streams));
    connections.shutdown().await;
}

async fn accept_until_stopped(
    listener: Option<&impl Listen>,
    streams: &mut mpsc::UnboundedReceiver<Box<dyn ByteStream>>,
    shared: &Arc<BrokerShared>,
    connections: &mut JoinSet<io::Result<()>>,
) {
    let mut behaviour = shared.faults.watch_behaviour();
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
                // The client disconnected before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => paused_until = Some(Instant::now() + ACCEPT_PAUSE),
            },
            () = end_of_pause(paused_until) => paused_until = None,
            Some(stream) = streams.recv() => spawn_connection(connections, stream, shared),
            // Its file descriptor may be the missing one.
            Some(_) = connections.join_next() => paused_until = None,
            _ = behaviour.changed() => {}
        }
    }
}

fn spawn_connection(
    connections: &mut JoinSet<io::Result<()>>,
    stream: impl ByteStream + 'static,
    shared: &Arc<BrokerShared>,
) {
    let number = shared.accepted.fetch_add(1, Ordering::AcqRel) + 1;
    let behaviour = shared.faults.watch_behaviour();
    if behaviour.borrow().refuses {
        return;
    }
    shared.open.fetch_add(1, Ordering::AcqRel);
    shared.activity.notify_waiters();
    let connection = Connection::new(OpenConnection(Arc::clone(shared)), number);
    connections.spawn(drive(stream, connection, behaviour, number));
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::Broker;

    /// A listener of a process without file descriptors.
    struct WithoutDescriptors(Arc<std::sync::atomic::AtomicUsize>);

    impl Listen for WithoutDescriptors {
        async fn accept(&self) -> io::Result<TcpStream> {
            // Without a pause the paused clock would stand still.
            assert!(self.0.fetch_add(1, Ordering::AcqRel) < 1000, "accepting doesn't pause");
            tokio::task::yield_now().await;
            Err(io::Error::from_raw_os_error(24))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_pauses_without_file_descriptors() {
        let broker = Broker::builder().start_without_port().unwrap();
        let attempts = Arc::default();
        let (_sender, streams) = mpsc::unbounded_channel();
        let (_stop, stopped) = oneshot::channel();
        let listener = WithoutDescriptors(Arc::clone(&attempts));
        let serving = accept_connections(Some(listener), streams, Arc::clone(&broker.shared), stopped);
        let waited = timeout(Duration::from_secs(10), serving);
        assert!(waited.await.is_err());
        assert!((50..=101).contains(&attempts.load(Ordering::Acquire)), "{attempts:?}");
    }
}
