//! A fault-injecting TCP proxy, for tests of network failures.

// This file has the handle and the listener; `relay` forwards the bytes of one connection by the `plan` of
// each direction; `shared` is the state of all three. Uses point one way: this file → `relay` → `shared` →
// `plan`.
mod plan;
mod relay;
mod shared;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
};

pub use plan::{Plan, StreamFault};
pub use shared::{Direction, OnConnect};
use shared::{End, ProxyShared};

/// The number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// The pause after accepting failed, as it does while the system has no resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A TCP proxy between a client and its server, on a free port of the loopback interface, which a test
/// controls while it runs. It forwards everything by default. A [`Plan`] for each direction changes the flow
/// of bytes, [`on_connect`](Self::on_connect) the treatment of new connections;
/// [`close_all`](Self::close_all) and [`reset_all`](Self::reset_all) end the open ones,
/// [`strand_all`](Self::strand_all) strands them. Dropping the proxy ends everything, and resets its
/// connections.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use metaq_testkit::proxy::{Direction, Plan, Proxy, StreamFault};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
///
/// let server = TcpListener::bind("127.0.0.1:0").await?;
/// let proxy = Proxy::start(server.local_addr()?.to_string()).await?;
/// // The client receives three bytes of the answer; then the connection is reset.
/// proxy.plan(Direction::ToClient, Plan::new().at(3, StreamFault::Reset));
///
/// let mut client = TcpStream::connect(proxy.addr()).await?;
/// let (mut served, _) = server.accept().await?;
/// served.write_all(b"answer").await?;
/// let mut received = [0; 3];
/// client.read_exact(&mut received).await?;
/// assert_eq!(&received, b"ans");
/// let error = client.read_exact(&mut received).await.unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
///
/// // From now on nothing gets through in either direction, though all sockets stay open.
/// proxy.plan_both(Plan::new().swallow());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<ProxyShared>,
    changes: mpsc::UnboundedSender<OnConnectChange>,
    accepting: JoinHandle<()>,
    /// Keeps the port while the proxy doesn't listen on it.
    _port: TcpSocket,
}

/// The treatment of new connections, and the sender for the result of the change.
type OnConnectChange = (OnConnect, oneshot::Sender<io::Result<()>>);

impl Proxy {
    /// Starts a proxy to `target`, an address as `HOST:PORT`. The proxy connects to the target once for each
    /// connection that it accepts; the target need not listen before.
    ///
    /// # Errors
    /// When no port can be listened on.
    ///
    /// # Cancel safety
    /// Nothing listens when the future is dropped early.
    pub async fn start(target: impl Into<String>) -> io::Result<Self> {
        let shared = Arc::new(ProxyShared {
            target: target.into(),
            plans: [watch::Sender::default(), watch::Sender::default()],
            end: watch::Sender::new(End::Closed),
            strandings: watch::Sender::new(0),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            forwarded: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let port = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = port.local_addr()?;
        let listener = bind(addr)?.listen(BACKLOG)?;
        let (changes, incoming) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(accept_connections(listener, addr, incoming, Arc::clone(&shared)));
        Ok(Self { addr, shared, changes, accepting, _port: port })
    }

    /// Returns the address on which the proxy listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the plan for the bytes of one direction, of open and later connections. It replaces the former
    /// plan. On open connections the positions of its faults count from this call, on later ones from their
    /// beginning.
    pub fn plan(&self, direction: Direction, plan: Plan) {
        self.shared.plans[direction as usize].send_modify(|current| Arc::make_mut(current).replace(plan));
    }

    /// Changes delay, bandwidth and flow of one direction to those of `plan`, of open and later connections.
    /// Pending faults stay, and those of `plan` are added. On open connections the positions of these
    /// count from this call, on later ones from their beginning.
    pub fn adjust(&self, direction: Direction, plan: Plan) {
        self.shared.plans[direction as usize].send_modify(|current| Arc::make_mut(current).adjust(plan));
    }

    /// Sets the [`plan`](Self::plan) for both directions. `Plan::new()` restores forwarding: bytes that were
    /// held back flow, bytes that were swallowed are lost.
    pub fn plan_both(&self, plan: Plan) {
        self.plan(Direction::ToServer, plan.clone());
        self.plan(Direction::ToClient, plan);
    }

    /// Sets the treatment of new connections. Open ones stay.
    ///
    /// # Errors
    /// When the port can't be listened on again.
    ///
    /// # Cancel safety
    /// The change takes effect even if the future is dropped, at an unknown time.
    pub async fn on_connect(&self, what: OnConnect) -> io::Result<()> {
        let gone = || io::Error::other("the proxy's runtime has ended");
        let (done, applied) = oneshot::channel();
        self.changes.send((what, done)).map_err(|_| gone())?;
        applied.await.map_err(|_| gone())?
    }

    /// Ends all open connections by FIN, in both directions.
    pub fn close_all(&self) {
        self.shared.end.send_replace(End::Closed);
    }

    /// Ends all open connections by RST, in both directions.
    pub fn reset_all(&self) {
        self.shared.end.send_replace(End::Reset);
    }

    /// Strands all open connections: from now on the proxy loses everything that is sent over them, in both
    /// directions, including their end; neither side notices. New connections are not affected. Stranded ones
    /// stay open until [`close_all`](Self::close_all) or [`reset_all`](Self::reset_all).
    pub fn strand_all(&self) {
        self.shared.strandings.send_modify(|count| *count += 1);
    }

    /// Returns the number of connections that were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Returns the number of connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Returns the number of bytes that were forwarded in one direction, over all connections, without those
    /// that were swallowed or that a fault added.
    #[must_use]
    pub fn forwarded(&self, direction: Direction) -> u64 {
        self.shared.forwarded[direction as usize].load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Returns a socket on `addr` that shares its port only with the other sockets of this proxy.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Accepts connections until the proxy is dropped; the connections end with it.
async fn accept_connections(
    listener: TcpListener,
    addr: SocketAddr,
    mut changes: mpsc::UnboundedReceiver<OnConnectChange>,
    shared: Arc<ProxyShared>,
) {
    let mut listener = Some(listener);
    let mut on_connect = OnConnect::Forward;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            change = changes.recv() => {
                let Some((what, done)) = change else { return };
                let applied = match (what, listener.take()) {
                    (OnConnect::Refuse, _) => Ok(None),
                    (_, Some(listener)) => Ok(Some(listener)),
                    (_, None) => bind(addr).and_then(|socket| socket.listen(BACKLOG)).map(Some),
                };
                let applied = applied.map(|next| (listener, on_connect) = (next, what));
                // The caller may have dropped its future.
                let _ = done.send(applied);
            }
            Some(_) = connections.join_next() => {}
            accepted = accept_next(listener.as_ref()) => match accepted {
                Ok(client) => {
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(relay::relay_connection(client, on_connect, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Returns the next connection; waits for ever without a listener.
async fn accept_next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}
