//! A TCP proxy that spoils connections, for tests of what a network does.

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

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Between attempts to accept while the system has no resources for that.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A TCP proxy between a client and its server, on a free port of the loopback interface, which a test controls while
/// it runs. It forwards everything until it is told otherwise: by a [`Plan`] for each direction, by what new
/// connections meet ([`on_connect`](Self::on_connect)), by ending the open ones ([`close_all`](Self::close_all),
/// [`reset_all`](Self::reset_all)) and by stranding them ([`strand_all`](Self::strand_all)). Everything ends when it is
/// dropped: connections are reset then.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use metaq_testkit::proxy::{Direction, Plan, Proxy, StreamFault};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
///
/// let server = TcpListener::bind("127.0.0.1:0").await?;
/// let proxy = Proxy::start(server.local_addr()?.to_string()).await?;
/// // The client hears three bytes of the answer; then the connection is reset.
/// proxy.plan(Direction::ToClient, Plan::new().at(3, StreamFault::Reset));
///
/// let mut client = TcpStream::connect(proxy.addr()).await?;
/// let (mut served, _) = server.accept().await?;
/// served.write_all(b"answer").await?;
/// let mut heard = [0; 3];
/// client.read_exact(&mut heard).await?;
/// assert_eq!(&heard, b"ans");
/// let error = client.read_exact(&mut heard).await.unwrap_err();
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
    /// Keeps the port while nobody listens on it.
    _port: TcpSocket,
}

/// The treatment of new connections, and the place where its start is reported.
type OnConnectChange = (OnConnect, oneshot::Sender<io::Result<()>>);

impl Proxy {
    /// Starts a proxy to `target`, an address as `HOST:PORT`. The target is connected to once for each connection that
    /// is accepted, and needn't listen before.
    ///
    /// # Errors
    /// When no port can be listened on.
    ///
    /// # Cancel safety
    /// Nothing listens when the future is dropped before it is done.
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
        let accepting = tokio::spawn(accept(listener, addr, incoming, Arc::clone(&shared)));
        Ok(Self { addr, shared, changes, accepting, _port: port })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets what is done to the bytes of one direction, of the connections that are open and of later ones. It replaces
    /// the plan before. The positions of its faults count from here on; those of a later connection from its beginning.
    pub fn plan(&self, direction: Direction, plan: Plan) {
        self.shared.plans[direction as usize].send_replace(Arc::new(plan));
    }

    /// [`plan`](Self::plan) for both directions. `Plan::new()` undoes everything: what was held back flows, what was
    /// swallowed is lost.
    pub fn plan_both(&self, plan: Plan) {
        self.plan(Direction::ToServer, plan.clone());
        self.plan(Direction::ToClient, plan);
    }

    /// Sets what new connections meet. Those that are open stay.
    ///
    /// # Errors
    /// When the port can't be listened on again.
    ///
    /// # Cancel safety
    /// It is done all the same when the future is dropped, but it isn't known when.
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

    /// Strands all open connections: from now on whatever is sent over them is lost, in both directions, also that they end,
    /// and neither side is told. New connections are not affected. They stay open until [`close_all`](Self::close_all) or
    /// [`reset_all`](Self::reset_all).
    pub fn strand_all(&self) {
        self.shared.strandings.send_modify(|count| *count += 1);
    }

    /// The number of connections that were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The number of connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The number of bytes that were forwarded in one direction so far, over all connections; neither what was swallowed nor what
    /// a fault added.
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

/// A socket on `addr` that shares its port with the others of this proxy, and with nobody else.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Accepts connections until the proxy is dropped; the connections end with it.
async fn accept(
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
                // Whoever gave the order may have gone.
                let _ = done.send(applied);
            }
            Some(_) = connections.join_next() => {}
            accepted = next(listener.as_ref()) => match accepted {
                Ok(client) => {
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(relay::relay_connection(client, on_connect, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// The next connection; none ever while nobody listens.
async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}
